"""Linear or not, what turns with what, which way, from where on, how strongly: what comes before any frequency."""

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.rotary_diagnosis.bench import NEAR, RotaryBench
from kvattn.testing.rotary_diagnosis.model import Model
from kvattn.testing.rotary_diagnosis.pairs import Layout, Turning, layout_of, pairs_of, read_turning

_CLEAN = 1e-6


def read_manners(bench: RotaryBench) -> None:
    """See that the function is linear, leaves its input alone, turns heads alike and answers the same twice.

    Examples
    --------
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(lambda x, positions: x + 1, width=4)
    >>> read_manners(bench)
    >>> bench.findings[0].parameters
    {'linear': False}
    """
    r = np.random.default_rng(bench.seed)
    q, k = r.standard_normal((2, 4, 5, bench.width)), r.standard_normal((2, 2, 5, bench.width))
    at = np.arange(5) + np.zeros((2, 1), np.int64)
    one, two = bench.run(q, k, at), bench.run(-2 * q, -2 * k, at)
    again = bench.run(q, k, at)
    if bench.writes(q, k, at):
        bench.add("unclassified", {"writes_into": "q"}, "It writes into its input.", kind="convention")
    for side in bench.sides:
        first, second, third = (getattr(turned, side) for turned in (one, two, again))
        if not np.array_equal(first, third, equal_nan=True):
            bench.add("stale-state", {"of": side}, f"The same call turns {side} in another way the second time.")
        if not np.allclose(second, -2 * first, rtol=0, atol=1e-3):
            bench.add(
                "unclassified",
                {"linear": False},
                "It is not linear: twice the features are not turned to twice as much.",
            )
            bench.stopped = True
    lone = bench.run(q[:, 1:2], k[:, 1:2], at)
    for side in bench.sides:
        together = getattr(one, side)[:, 1:2]
        if not np.allclose(getattr(lone, side), together, rtol=0, atol=1e-3):
            bench.add("unclassified", {"of": side, "heads_alike": False}, "Heads are not turned alike.")
            bench.stopped = True


def read_structure(bench: RotaryBench) -> None:
    """Read pairs, direction, offset and magnitude of queries and of keys, and name what differs.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(Rotary.of(8, layout="adjacent").rotate, width=8)
    >>> read_structure(bench)
    >>> bench.findings[0].kind, bench.findings[0].parameters["layout"]
    ('convention', 'adjacent')
    """
    at = np.arange(NEAR)
    unit = np.zeros((bench.width, NEAR, bench.width)) + np.eye(bench.width)[:, None]
    wanted: NDArray[np.float64] = np.moveaxis(bench.expected(NEAR).rotate(unit, at), 0, -1).astype(np.float64)
    right = read_turning(wanted)
    read = {side: read_turning(bench.matrices(at, side)) for side in bench.sides}
    layouts = {side: layout_of(turning.partner) for side, turning in read.items()}
    if not all(np.isfinite(turning.steps).all() for turning in read.values()):
        bench.add("unclassified", {"out": "nan"}, "It gives NaN or infinity.")
        bench.stopped = True
        return
    for side, turning in read.items():
        if turning.stray > _CLEAN or layouts[side].kind == "other":
            _no_rotation(bench, side, turning)
            return
    _name_layouts(bench, read, layouts, layout_of(right.partner))
    if bench.stopped:
        return
    for side, turning in read.items():
        _name_rest(bench, side, turning, layouts[side])


def _no_rotation(bench: RotaryBench, side: str, turning: Turning) -> None:
    partners = turning.partner.tolist()
    bench.add(
        "rope-layout",
        {"layout": "other", "of": side, "partners": partners},
        f"Features of {side} do not turn in pairs: "
        + (
            f"feature 0 takes from {partners[0]}, and {partners[0]} from {partners[partners[0]]}."
            if turning.stray <= _CLEAN
            else f"a feature takes up to {turning.stray:.3g} of a third one."
        ),
    )
    bench.stopped = True


def _name_layouts(bench: RotaryBench, read: dict[str, Turning], layouts: dict[str, Layout], right: Layout) -> None:
    names = {"q": "queries", "k": "keys"}
    resting = [side for side, layout in layouts.items() if layout.kind == "none"]
    if right.kind == "none":
        return
    if resting:
        if len(bench.sides) > len(resting):
            text = f"{names[resting[0]].capitalize()} are not turned; queries and keys must turn alike."
        else:
            text = "Nothing turns."
        bench.add("rope-missing", {"of": " and ".join(resting)}, text)
        bench.stopped = True
        return
    if len({str(layout) for layout in layouts.values()}) > 1:
        bench.add(
            "rope-layout",
            {"queries": layouts["q"].kind, "keys": layouts["k"].kind},
            f"Queries turn {layouts['q']}, keys {layouts['k']}: their product is no function of the distance.",
        )
        bench.stopped = True
        return
    found = layouts["q"]
    laid = _laid_out_otherwise(read["q"], found)
    if laid:
        bench.add(
            "rope-layout",
            {"pairs": found.kind, "angles": laid},
            f"Features pair as {found.kind}, angles are laid out for {laid} pairs: the two features of a pair turn by"
            " different angles.",
        )
        bench.stopped = True
        return
    if (found.start, found.width) != (right.start, right.width):
        bench.add(
            "rope-partial",
            {"start": found.start, "width": found.width, "expected": [right.start, right.width]},
            f"Of {bench.width} features, {found.width} turn, from {found.start} on; expected {right.width} from"
            f" {right.start} on.",
            kind=bench.legal,
        )
    if found.kind != right.kind:
        bench.add(
            "rope-layout",
            {"layout": found.kind, "expected": right.kind},
            f"It turns {found}, where {right.kind} pairs are expected: right with weights permuted to match, and wrong"
            " with any other.",
            kind="convention",
        )


def _laid_out_otherwise(turning: Turning, found: Layout) -> str:
    """Name the pairing that the angles were laid out for, where the two features of a pair differ in theirs."""
    first, second = pairs_of(found)
    low, high = np.abs(turning.steps[first]), np.abs(turning.steps[second])
    if np.allclose(low, high, rtol=1e-4, atol=0):
        return ""
    return "half" if found.kind == "adjacent" else "adjacent"


def _name_rest(bench: RotaryBench, side: str, turning: Turning, found: Layout) -> None:
    if found.kind == "none":
        bench.known[side] = Model(*pairs_of(found), np.zeros(0))
        return
    first, second = pairs_of(found)
    steps = turning.steps[first]
    direction = 1
    if (steps < 0).any() and (steps <= 0).all():
        direction, steps = -1, -steps
        other = bench.known.get("q")
        alike = len(bench.sides) == 1 or (side == "k" and other is not None and other.direction == -1)
        kind = bench.legal if alike else "fault"
        bench.findings[:] = [f for f in bench.findings if not (alike and f.parameters.get("direction") == -1)]
        bench.add(
            "rope-layout",
            {"direction": -1, "of": " and ".join(bench.sides) if alike else side},
            f"{'Pairs' if alike else f'Pairs of {side}'} turn backwards, by -position times frequency"
            + (": the same scores with the two features of each pair exchanged in the weights." if alike else "."),
            kind=kind,
        )
    bench.known[side] = Model(
        first,
        second,
        steps,
        direction,
        _read_offset(bench, side, direction * turning.start[first], steps),
        _read_magnitude(bench, side, turning.magnitude[first]),
    )


def _read_offset(bench: RotaryBench, side: str, start: NDArray[np.float64], steps: NDArray[np.float64]) -> float:
    """Name what was added to every position: position 0 must not turn."""
    if np.abs(start).max() <= 1e-7 or not steps.any():
        return 0.0
    fastest = int(np.argmax(steps))
    slow = steps > 0
    guesses = np.concatenate([np.arange(-64, 65), [start[fastest] / steps[fastest]]])
    apart = np.abs(np.angle(np.exp(1j * (start - guesses[:, None] * steps)))[:, slow]).max(1)
    best = float(guesses[int(np.argmin(apart))])
    if apart.min() > 1e-4:
        bench.add(
            "unclassified",
            {"of": side, "angles_at_0": np.round(start, 4).tolist()[:8]},
            f"Position 0 turns {side} already, by {start[fastest]:.4g} in the fastest pair, as no offset explains.",
        )
        bench.stopped = True
        return 0.0
    alike = len(bench.sides) == 1 or (side == "k" and abs(bench.known["q"].offset - best) < 1e-6)
    bench.findings[:] = [f for f in bench.findings if not (alike and f.fault_class == "rope-offset")]
    bench.add(
        "rope-offset",
        {"offset": round(best, 6), "of": " and ".join(bench.sides) if alike else side},
        f"Position p turns {' and '.join(bench.sides) if alike else side} as p {best:+g} should"
        + (
            ": scores are the same, cached keys are not those of code that counts from 0."
            if alike
            else ", the other as p should."
        ),
        kind="convention" if alike else "fault",
    )
    return best


def _read_magnitude(bench: RotaryBench, side: str, magnitude: NDArray[np.float64]) -> float:
    wanted = bench.expected(NEAR).magnitude
    read = float(magnitude.mean())
    close = 1e-5
    if close * read < np.ptp(magnitude) < 2e-2 and abs(read - wanted) < 2e-2 * wanted:
        return wanted  # cosines and sines that are rounded: a matter of precision
    if np.ptp(magnitude) > close * read:
        bench.add(
            "unclassified",
            {"of": side, "magnitudes": np.round(magnitude, 5).tolist()[:8]},
            f"Pairs of {side} are stretched unevenly, by {magnitude.min():.4g} to {magnitude.max():.4g}.",
        )
        bench.stopped = True
        return read
    if abs(read - wanted) <= close * wanted:
        return wanted
    rules = {
        "1": 1.0,
        "expected ** 2": wanted**2,
        "1 / expected": 1 / wanted,
        "sqrt(expected)": wanted**0.5,
        "expected ** 4": wanted**4,
    }
    rule = next((name for name, value in rules.items() if wanted != 1 and abs(read - value) <= 2 * close * value), "")
    alike = len(bench.sides) == 1 or (side == "k" and abs(bench.known["q"].magnitude - read) <= close * read)
    bench.findings[:] = [f for f in bench.findings if not (alike and "magnitude" in f.parameters)]
    whose = " and ".join(bench.sides) if alike else side
    bench.add(
        "rope-scaling",
        {"magnitude": round(read, 6), "expected": round(wanted, 6), "rule": rule or "other", "of": whose},
        f"The factor on cosine and sine of {whose} is {read:.6g}"
        + (", none," if rule == "1" else f", {rule}," if rule else "")
        + f" expected {wanted:.6g}.",
        kind=bench.legal if alike else "fault",
    )
    return read
