"""A declared latent attention layer: whole, in parts and token by token it must give one thing.

What is compared at once is the whole sequence, two parts, one token after the other, and one token before several: a
fault in the path that absorbs, in the one that expands or in what is kept between them shows in some of them and not in
others, which tells where it sits.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.changes import Change, Fit
from kvattn.testing.layer_diagnosis.described import describe
from kvattn.testing.layer_diagnosis.latent_reading import CALLS, HEADS, SCALES, LatentReading
from kvattn.testing.layer_diagnosis.naming import explains, name, ran

_CLASS = "mla-absorb"


_MAIN = ("every call", "later calls")
"""Where two faults at once are looked for."""


def changes(now: LatentReading, where: Iterable[str] = tuple(CALLS)) -> Iterator[Change]:
    """Yield what latent layers are known to do otherwise, in every call or in some.

    >>> from kvattn.testing.planted_latent import declared
    >>> next(changes(LatentReading(declared()))).words
    'In every call the scale is 1 / sqrt(r + Dr), expected 1 / sqrt(Dn + Dr)'
    """
    layer = now.layer
    wanted = "1 / sqrt(Dn + Dr)" if layer.scale is None else f"{layer.scale:g}"
    for calls in where:
        place = f"In {calls} "
        for rule in SCALES:
            if layer.scale is not None or rule not in {"1 / sqrt(Dn + Dr)", "mscale / sqrt(Dn + Dr)"}:
                text = f"{place}the scale is {rule}, expected {wanted}"
                yield Change(_CLASS, {"scale": rule, "in": calls}, text, replace(now, scale=(rule, calls)))
        for part, other in (("latent", "rope"), ("rope", "latent")):
            text = f"{place}the {other} part of the scores is left out"
            yield Change(_CLASS, {"left_out": other, "in": calls}, text, replace(now, scores=(part, calls)))
        for rule in HEADS:
            words = "read features first" if rule == "features first" else f"of head {rule}"
            for what, field in (("W_uk", "key_heads"), ("W_uv", "value_heads")):
                heads: dict[str, Any] = {field: (rule, calls)}
                found = {"matrix": what, "head": rule, "in": calls}
                yield Change(_CLASS, found, f"{place}head h has {what} {words}", replace(now, **heads))
            both = replace(now, key_heads=(rule, calls), value_heads=(rule, calls))
            found = {"matrix": "W_uk and W_uv", "head": rule, "in": calls}
            yield Change(_CLASS, found, f"{place}head h has W_uk and W_uv {words}", both)
        yield from _norms(now, calls)
        if layer.rotation is not None:
            for sides, words in (("", "Rope parts are"), ("q", "Rope keys are"), ("k", "Rope queries are")):
                found = {"of": " and ".join(side for side in "qk" if side not in sides), "in": calls}
                text = f"{words} not turned in {calls}"
                yield Change("rope-missing", found, text, replace(now, turned=(sides, calls)))


def _norms(now: LatentReading, calls: str) -> Iterator[Change]:
    kinds = {"none": "is not normed", "no weights": "is normed without its weights"}
    for rule, words in kinds.items():
        text = f"In {calls} the latent {words}"
        yield Change(_CLASS, {"norm": rule, "in": calls}, text, replace(now, norm=(rule, calls)))
        if calls == "every call":
            continue
        text = f"The latent of a token that comes in {calls} {words}"
        found = {"norm": rule, "of_tokens_in": calls}
        yield Change(_CLASS, found, text, replace(now, made=(rule, calls)))
    for rule, words in kinds.items():
        text = f"The latent that {calls} leave in the cache {words}".replace("call leave", "call leaves")
        yield Change(_CLASS, {"norm": rule, "cached_in": calls}, text, replace(now, kept=(rule, calls)))


def parts(now: LatentReading) -> Iterator[Change]:
    """Yield what later parts of a sequence may do otherwise.

    >>> next(parts(LatentReading(None))).parameters
    {'positions': 'restart'}
    """
    rules = {
        "restart": "Positions of a later part restart at 0",
        "one more": "Positions of a later part are one too large",
        "one less": "Positions of a later part are one too small",
    }
    for rule, words in rules.items():
        yield Change("rope-offset", {"positions": rule}, words, replace(now, part_places=rule))
    sights = {
        "row numbers": "A later part sees as if its rows were the first: its triangle is anchored at the top left",
        "all": "A token of a later part sees all tokens of the part, those after it too",
        "itself": "A later part does not see what came before",
    }
    for rule, words in sights.items():
        yield Change("chunked-prefill", {"sees": rule}, words, replace(now, part_sight=rule))


def fits(now: LatentReading) -> Iterator[Fit]:
    """Yield the scale as a number, in every call or in some.

    >>> [fit.parameter for fit in fits(LatentReading(None))][:2]
    ['factor in every call', 'factor in later calls']
    """
    for calls in CALLS:
        words = f"In {calls} the scale is {{:.6g}} times the expected one"

        def reading(x: float, calls: str = calls) -> LatentReading:
            return replace(now, factor=(x, calls))

        yield Fit(_CLASS, f"factor in {calls}", words, reading, 1e-3, 1e3)


def read_latent(bench: LayerBench) -> None:
    """Compare a latent layer with what it should be, whole and in parts, and name what differs.

    Examples
    --------
    >>> from kvattn.testing.layer_targets import LayerTarget, layer_target_of
    >>> from kvattn.testing.planted_latent import PlantedLatent, declared
    >>> mine = PlantedLatent(declared(), later={"scale": lambda w: (w.rank + w.rope_width) ** -0.5})
    >>> bench = LayerBench(layer_target_of(mine))
    >>> read_latent(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('mla-absorb', {'scale': '1 / sqrt(r + Dr)', 'in': 'later calls'})
    """
    drawings = [bench.drawing(T=9)]
    if bench.can("cache"):
        drawings += [
            bench.drawing(B=3, T=7, cuts=(4,), seed=bench.seed + 1),
            bench.drawing(T=5, cuts=(1, 2, 3, 4), seed=bench.seed + 2),
            bench.drawing(T=6, cuts=(1, 4), seed=bench.seed + 3),
        ]

    def tries(now: LatentReading, where: Iterable[str] = tuple(CALLS)) -> Iterator[Change]:
        yield from changes(now, where)
        if bench.can("cache"):
            yield from parts(now)

    _told(bench, drawings, tries, fits, lambda now: tries(now, _MAIN))


def read_latent_places(bench: LayerBench) -> None:
    """Compare calls with positions and with padding, whole and in parts.

    Examples
    --------
    >>> from kvattn.testing.layer_targets import layer_target_of
    >>> from kvattn.testing.planted_latent import PlantedLatent, declared
    >>> bench = LayerBench(layer_target_of(PlantedLatent(declared(), pads=False)))
    >>> read_latent_places(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('padding-positions', {'pads': 'visible'})
    """

    def places(now: LatentReading) -> Iterator[Change]:
        words = "Positions that are given are not used: tokens are counted by row"
        yield Change("rope-offset", {"positions": "rows"}, words, replace(now, places="rows"))

    def padding(now: LatentReading) -> Iterator[Change]:
        words = "Keys of padding are visible"
        yield Change("padding-positions", {"pads": "visible"}, words, replace(now, pads="visible"))

    cuts: tuple[tuple[int, ...], ...] = ((), (5,)) if bench.can("cache") else ((),)
    if bench.can("positions"):
        given = [bench.drawing(T=8, positions=kind, cuts=cut) for kind in ("gaps", "far") for cut in cuts]
        free = replace(bench.reading, part_given=False)
        if explains(bench, free, ran(bench, given)):
            bench.reading = free  # what was read of later parts holds where no positions are given
        _told(bench, given, places, lambda _: (), places)
    if bench.can("valid") and not bench.stopped:
        padded = [bench.drawing(B=3, T=8, valid="left", cuts=cut) for cut in cuts]
        _told(bench, [*padded, bench.drawing(B=3, T=6, valid="right")], padding, lambda _: (), padding)


def _told(
    bench: LayerBench,
    drawings: list[Any],
    tries: Callable[[Any], Iterator[Change]],
    numbers: Callable[[Any], Iterable[Fit]],
    more: Callable[[Any], Iterable[Change]],
) -> None:
    fine = explains(bench, bench.reading, ran(bench, drawings))
    if name(bench, drawings, tries, numbers if not fine else lambda _: (), pairs=False):
        return
    if not name(bench, drawings, more):
        worst = max(drawings, key=bench.differs)
        describe(bench, worst)
        bench.stopped = True
