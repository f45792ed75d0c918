"""Find the one change, the one number or the two changes that make a plan give what a layer gave."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
import itertools
from typing import Any

import numpy as np

from kvattn.testing.layer_diagnosis.bench import LayerBench, Numbers
from kvattn.testing.layer_diagnosis.changes import Change, Fit, scan
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.reading import Case
from kvattn.testing.rotary_diagnosis.schemes import tidy

Ran = tuple[Any, Case, Numbers]

SINGLE = "It takes float64 and answers to float32 precision; the bounds are float32's"
"""A note on the arithmetic."""

BETTER = 30.0
"""How many times more closely than the plan a change must fit, to be more than the arithmetic's noise."""


def ran(bench: LayerBench, drawings: Iterable[Drawing]) -> list[Ran]:
    """Run cases and keep what came out.

    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> bench = layer_bench(lambda x, *, w_q, w_k, w_v, w_o, heads, kv_heads: x)
    >>> len(ran(bench, [Drawing()]))
    1
    """
    built = [drawing.build(bench.target.own, bench.dtype) for drawing in drawings]
    return [(weights, case, bench.run(weights, case)) for weights, case in built]


def explains(bench: LayerBench, reading: Any, cases: Sequence[Ran], slack: float = 1.0) -> bool:
    """Say whether a reading gives what came out, in every case.

    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer())
    >>> explains(bench, bench.reading, ran(bench, [Drawing()]))
    True
    """
    return all(error(bench, reading, one) <= slack * bench.limit(one[0], one[1]) for one in cases)


def error(bench: LayerBench, reading: Any, one: Ran) -> float:
    """Return how far a reading is from what came out of one case; infinite where it cannot be computed.

    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer())
    >>> error(bench, bench.reading, ran(bench, [Drawing()])[0]) < 1e-12
    True
    """
    weights, case, got = one
    try:
        with np.errstate(all="ignore"):
            wanted = reading.predict(weights, case)
    except (ValueError, IndexError):  # a transposed matrix that does not fit, a width that has no room
        return np.inf
    return np.inf if wanted.shape != got.shape else bench.apart(got, wanted, case)


def name(
    bench: LayerBench,
    drawings: Sequence[Drawing],
    tries: Callable[[Any], Iterable[Change]],
    numbers: Callable[[Any], Iterable[Fit]] = lambda _: (),
    *,
    pairs: bool = True,
) -> bool:
    """Name why a layer differs in some cases, and take the change into the reading.

    Returns
    -------
    bool
        False where nothing explains it.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> from kvattn.testing.layer_diagnosis import changes
    >>> bench = layer_bench(PlantedLayer(scale=lambda d, heads, hidden: 1.0))
    >>> name(bench, [bench.drawing()], changes.bends)
    True
    >>> bench.findings[0].parameters
    {'rule': '1'}
    """
    cases = ran(bench, drawings)
    errors = [error(bench, bench.reading, one) for one in cases]
    fine = explains(bench, bench.reading, cases)
    if fine and bench.compute == "float64":
        return True
    worst = max(range(len(cases)), key=errors.__getitem__)
    first = [cases[worst], *cases[:worst], *cases[worst + 1 :]]
    enough = errors[worst] / BETTER
    found, more = list(tries(bench.reading)), list(numbers(bench.reading))
    single = _single(bench, found, more, first, enough)
    if single is None and bench.compute == "float64":
        bench.compute = "float32"  # a layer may be wrong and compute in float32
        single = _single(bench, found, more, first, enough)
        if single is None:
            bench.compute = "float64"
        else:
            bench.notes.append(SINGLE)
    if single is not None:
        _sharpen(bench, single.reading, cases)
        _take(bench, [single], drawings[worst], cases)
        return True
    if fine:
        return True
    two = _pair(bench, found, first) if pairs else None
    if two is not None:
        _take(bench, two, drawings[worst], cases)
    return two is not None


def _sharpen(bench: LayerBench, reading: Any, cases: Sequence[Ran]) -> None:
    """Go back to the bounds of float64 where a small fault, and not the arithmetic, kept the plan from them."""
    if SINGLE not in bench.notes:
        return
    bench.compute = "float64"
    if explains(bench, reading, cases):
        bench.notes.remove(SINGLE)
    else:
        bench.compute = "float32"


def _single(
    bench: LayerBench, found: Sequence[Change], numbers: Sequence[Fit], cases: Sequence[Ran], enough: float
) -> Change | None:
    """Find one change, or one number, that fits."""
    for change in found:
        if _better(bench, change.reading, cases, enough):
            return change
    for fit in numbers:
        fitted = _fitted(bench, fit, cases, enough)
        if fitted is not None:
            return fitted
    return None


def _better(bench: LayerBench, reading: Any, cases: Sequence[Ran], enough: float) -> bool:
    """Say whether a reading gives what came out, and far more closely than what is known by now."""
    return all(_near(bench, reading, one, enough) for one in cases)


def _near(bench: LayerBench, reading: Any, one: Ran, enough: float) -> bool:
    off = error(bench, reading, one)
    return off <= enough and off <= bench.limit(one[0], one[1])


def _fitted(bench: LayerBench, fit: Fit, cases: Sequence[Ran], enough: float) -> Change | None:
    value = scan(lambda x: error(bench, fit.reading(x), cases[0]), fit.low, fit.high)
    for digits in (1e-3, 1e-6, 0.0):
        short = tidy(value, digits)
        reading = fit.reading(short)
        last = not digits and bench.compute == "float64"  # as closely as it can be fitted
        if _better(bench, reading, cases, enough) or (last and explains(bench, reading, cases, 10.0)):
            text = fit.words.format(short)
            return Change(fit.fault_class, {fit.parameter: float(f"{short:.6g}")}, text, reading)
    return None


def _pair(bench: LayerBench, found: Sequence[Change], cases: Sequence[Ran]) -> list[Change] | None:
    """Try two changes at once, where they change different things."""
    now = bench.reading
    changed = [_changed(now, change.reading) for change in found]
    small = min(cases, key=lambda one: one[1].x.size)
    most = bench.limit(small[0], small[1])
    for (n, one), (m, two) in itertools.combinations(enumerate(found), 2):
        if set(changed[n]) & set(changed[m]):
            continue
        both = replace(now, **changed[n], **changed[m])
        if error(bench, both, small) <= most and explains(bench, both, cases):
            return [one, two]
    return None


def _changed(now: Any, other: Any) -> dict[str, Any]:
    names = [field.name for field in fields(now)]
    return {name: getattr(other, name) for name in names if getattr(other, name) != getattr(now, name)}


def _take(bench: LayerBench, found: Sequence[Change], drawing: Drawing, cases: Sequence[Ran]) -> None:
    """Record changes, but for those that a right layer may make and that only an earlier fault lets be seen."""
    now = bench.reading
    apart = [_changed(now, change.reading) for change in found]
    shown = [_shows(bench, changed, cases) for changed in apart]
    for change, changed, shows in zip(found, apart, shown, strict=True):
        if shows or not (any(shown) or bench.findings):
            bench.add(change.fault_class, change.parameters, f"{change.words}.", drawing, kind=change.kind)
        else:
            bench.notes.append(f"{change.words}: a right layer may do that, it shows through another fault alone")
        if change.kind == "convention":
            bench.legal = replace(bench.legal, **changed)
        bench.reading = replace(bench.reading, **changed)


def _shows(bench: LayerBench, changed: Mapping[str, Any], cases: Sequence[Ran]) -> bool:
    """Say whether a change alone, on a layer without faults, would be seen in one of the cases."""
    alone = replace(bench.legal, **changed)
    for weights, case, _ in cases:
        try:
            with np.errstate(all="ignore"):
                wanted, got = bench.legal.predict(weights, case), alone.predict(weights, case)
        except (ValueError, IndexError):
            return True
        if wanted.shape != got.shape or bench.apart(got, wanted, case) > bench.limit(weights, case):
            return True
    return False
