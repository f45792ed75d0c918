"""The reading of a counter of FLOPs: pairs without a mask, under the causal one, in a window, in some of the layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.factors import Factors, read_factors
from kvattn.testing.counter_diagnosis.grid import LETTERS, WIDTHS, degree, sizes_at
from kvattn.testing.counter_diagnosis.layers import read_layers
from kvattn.testing.counter_diagnosis.pairs import CAUSAL, DENSE, TOKEN, WINDOW, Node, Rule, Table, covered, tiled
from kvattn.testing.counter_diagnosis.polynomials import Monomial, told
from kvattn.testing.counter_diagnosis.sizes import Sizes
from kvattn.testing.counter_diagnosis.tables import LENGTHS, WINDOWS, Columns, Fit, columns, fit, polynomial_of
from kvattn.testing.counter_diagnosis.units import name_flop_units

_TILES = (8, 16, 32, 64, 128, 256)
_NAMES = {"width": "QK", "value_width": "PV"}


@dataclass
class Flops:
    """What a counter of FLOPs does, as far as it is read.

    Attributes
    ----------
    factors
        Batch, layers, heads.
    fits
        For each product of widths, its pairs without a mask, its unit and what is left for each query.
    rules
        For each mode (``"causal"``, ``"window"``) and product of widths, its pairs.
    other
        Terms that no pairs are in: projections, and work for each query.

    Examples
    --------
    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> read = read_flops(bench_of(lambda *, queries, keys, width: 4 * queries * keys * width))
    >>> read.at(Sizes(queries=2, keys=3))
    Fraction(192, 1)
    """

    factors: Factors
    fits: dict[Monomial, Fit] = field(default_factory=dict)
    rules: dict[str, dict[Monomial, Rule]] = field(default_factory=dict)
    other: dict[Monomial, Fit] = field(default_factory=dict)

    def at(self, sizes: Sizes) -> Fraction | None:
        """Say what it should count by what was read; None where something was not.

        >>> from kvattn.testing.counter_diagnosis.bench import bench_of
        >>> read_flops(bench_of(lambda *, queries, width: 5 * queries * width)).at(Sizes(queries=3, keys=3))
        Fraction(120, 1)
        """
        mode = "window" if sizes.window is not None else "causal" if sizes.causal else "dense"
        narrow = sizes.layers if sizes.window_layers is None or sizes.window is None else sizes.window_layers
        if narrow != sizes.layers or (mode != "dense" and self.fits.keys() - self.rules.get(mode, {}).keys()):
            return None
        node = (sizes.queries, sizes.keys, sizes.window)
        at = {name: getattr(sizes, name) for name in ("batch", "layers", "kv_heads", "group", *WIDTHS)}
        total = Fraction(0)
        for widths, found in (self.fits | self.other).items():
            shape = Fraction(1)
            for name, power in widths:
                shape *= at[name] ** power
            rule = found.rule if mode == "dense" or widths in self.other else self.rules[mode][widths]
            pairs = Fraction(rule.count(node))
            total += (found.unit * pairs + found.rest * node[0]) * shape * self.factors.share(widths, at)
        return total


def read_flops(bench: CounterBench) -> Flops | None:
    """Read it; None where what was read leaves nothing to compare.

    >>> from kvattn.testing.counter_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda *, queries, keys, width, causal=False: 4 * queries * keys * width)
    >>> _ = read_flops(bench)
    >>> bench.findings[0].kind, bench.findings[0].parameters
    ('convention', {'causal': 'all pairs'})
    """
    factors = read_factors(bench, queries=8, keys=24)
    if factors is None:
        return None
    read = Flops(factors)
    plain: list[Node] = [(t, s, None) for t, s in LENGTHS]
    dense = columns(bench, plain, factors.outer)
    if dense.keys() - factors.outer.keys():
        bench.unexplained(sizes_at(bench, {}, queries=1, keys=1), None, "Its terms are not the same at all lengths")
        return None
    first = [] if bench.can("queries", "keys") else [DENSE[0], TOKEN]
    always = [] if bench.can("causal") else [*CAUSAL]
    for widths, column in dense.items():
        each = {count / node[0] for node, count in column.items()}
        if not widths and len(each) == 1:  # so much for each query, however many keys it sees
            read.other[widths] = Fit(DENSE[0], Fraction(0), each.pop())
            continue
        found = fit(column, [*first, *DENSE, *always]) or fit(
            column, [*(covered(a, b) for a in _TILES for b in _TILES)]
        )
        if found is None:
            _undescribed(bench, "Without a mask", column, widths, causal=False)
            return None
        (read.fits if degree(widths) <= 1 else read.other)[widths] = found
    _name_pairs(bench, {w: found.rule for w, found in read.fits.items()}, "", causal=False, always=bool(always))
    name_flop_units(bench, read.fits, read.other)
    if bench.stopped:
        return None
    if bench.can("causal"):
        _read_masked(bench, read, "causal", columns(bench, plain, read.fits, causal=True), CAUSAL)
    if bench.can("window") and not bench.stopped:
        nodes: list[Node] = [(t, s, w) for t, s in LENGTHS for w in WINDOWS if w <= s + 20 and (w > 20 or s <= 130)]
        ignored = read.rules.get("causal") or {w: found.rule for w, found in read.fits.items()}
        one = next(iter(ignored.values()))
        out = Rule(lambda node: one.count((*node[:2], None)), "takes no notice of the window", "fault",
                   {"window": "ignored"})  # fmt: skip
        _read_masked(
            bench, read, "window", columns(bench, nodes, read.fits, causal=True), [*WINDOW[:4], out, *WINDOW[4:]]
        )
        if bench.can("window_layers", "layers") and not bench.stopped:
            read_layers(bench)
    if _is(read, "causal", "all pairs") and _is(read, "window", "exact"):
        bench.notes.append("A window is counted exactly and a causal mask is not: the two numbers do not compare")
    return read


def _read_masked(bench: CounterBench, read: Flops, mode: str, table: Columns, rules: Sequence[Rule]) -> None:
    """Name the pairs that a mode takes of each product."""
    found: dict[Monomial, Rule] = {}
    for widths, before in read.fits.items():
        pairs = before.pairs(table[widths])
        known = [*rules, *_all_pairs(before.rule)] if mode == "causal" and before.rule.kind != "right" else rules
        rule = _settled(known, pairs)
        if rule is None and before.rule.kind == "fault":
            bench.notes.append(f"What it takes with {mode} was not read: its pairs without a mask are not right")
            return
        if rule is None:
            rule = _settled((tiled(a, b, whole) for a in _TILES for b in _TILES for whole in (True, False)), pairs)
        if rule is None:
            _undescribed(
                bench, "Under a causal mask" if mode == "causal" else "In a window", pairs, widths, causal=True
            )
            return
        found[widths] = rule
    read.rules[mode] = found
    _name_pairs(bench, found, mode, causal=True)


def _settled(rules: Iterable[Rule], table: Table) -> Rule | None:
    return next((found for rule in rules if (found := rule.settled(table)) is not None), None)


def _all_pairs(dense: Rule) -> list[Rule]:
    """Where pairs without a mask are not T * S, the same ones under it."""
    return [Rule(dense.count, CAUSAL[1].words, CAUSAL[1].kind, CAUSAL[1].parameters)]


def _is(read: Flops, mode: str, name: str) -> bool:
    rules = read.rules.get(mode, {})
    return bool(rules) and all(rule.parameters.get(mode) == name for rule in rules.values())


def _name_pairs(
    bench: CounterBench, rules: dict[Monomial, Rule], mode: str, *, causal: bool, always: bool = False
) -> None:
    """Record how pairs are counted, once for all products where they agree."""
    alike = len({str(rule.parameters) for rule in rules.values()}) == 1
    for widths, rule in rules.items():
        if rule.kind == "right" and not (always and rule in CAUSAL):
            continue
        product = "" if alike else _NAMES.get("".join(n for n, _ in widths), "softmax")
        parameters = {**rule.parameters, **({"of": product} if product else {})}
        kind, words = rule.kind, rule.words
        if always and (rule in CAUSAL or "causal" in parameters):
            kind = "convention" if kind == "right" or "always" in str(parameters) else kind
            words = f"{words}, always: it takes no causal=" if rule in CAUSAL else words
        shows = (
            ((4, 10, 3), (5, 5, 3), (3, 9, 12), (64, 100, 40)) if mode == "window" else ((4, 10, None), (5, 5, None))
        )
        sizes = bench.wrong(
            sizes_at(bench, {"value_width": 16}, queries=t, keys=s, window=w, causal=causal) for t, s, w in shows
        )
        of = f" in {product}" if product else ""
        where = {"causal": "With causal it", "window": "With a window it", "": "It"}[mode]
        bench.add(parameters, f"{where} {words}{of}.", sizes, kind="fault" if kind == "fault" else "convention")


def _undescribed(bench: CounterBench, when: str, table: Table, widths: Monomial, *, causal: bool) -> None:
    """Say what pairs are as a polynomial in T and S, where they are one, and where they first differ."""
    plain = {node: read for node, read in table.items() if node[2] is None}
    found = polynomial_of(plain) if plain else None
    name = _NAMES.get("".join(n for n, _ in widths), "") if bench.can("value_width") else ""
    sizes = bench.wrong(sizes_at(bench, {}, queries=t, keys=n, window=w, causal=causal) for t, n, w in list(table)[:40])
    text = f"{told(found, LETTERS)}" if found is not None else "no rule that is known"
    of = f" in {name}" if name else ""
    bench.unexplained(sizes, None, f"{when}, its pairs{of} are {text}", **({"pairs": text} if found else {}))
