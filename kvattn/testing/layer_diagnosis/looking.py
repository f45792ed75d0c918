"""The whole reading of a layer: the plain call, positions, padding, parts, and drawn cases that mix them."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
from dataclasses import replace
import random

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.layer_diagnosis import changes, manners
from kvattn.testing.layer_diagnosis.bench import LayerBench
from kvattn.testing.layer_diagnosis.changes import Change
from kvattn.testing.layer_diagnosis.described import describe
from kvattn.testing.layer_diagnosis.drawing import NARROW, Drawing
from kvattn.testing.layer_diagnosis.head_orders import orders, read_orders
from kvattn.testing.layer_diagnosis.latent import read_latent, read_latent_places
from kvattn.testing.layer_diagnosis.naming import SINGLE, explains, name, ran
from kvattn.testing.layer_diagnosis.opaque import look_opaque
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Reading
from kvattn.testing.layer_diagnosis.rotations import read_rotation
from kvattn.testing.layer_diagnosis.windows import continued, filled, windows
from kvattn.testing.layer_targets import LayerTarget


def look(
    target: LayerTarget,
    *,
    seed: int = 0,
    dtype: str = "float64",
    cases: int = 80,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[LayerBench, Margin | None]:
    """Read a layer, and compare drawn cases where what was read leaves something to compare.

    In 16 bits, what it does is read in wide numbers where it takes them and answers as finely; then drawn cases are
    compared in 16 bits (`kvattn.testing.layer_diagnosis.narrow`).

    Raises
    ------
    ArgumentError
        When dtype is none of float64, float32, float16, bfloat16, or one of the latter for a latent layer or one that
        says its hidden size alone.

    Examples
    --------
    >>> from kvattn.testing.layer_targets import layer_target_of
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench, margin = look(layer_target_of(PlantedLayer()), cases=4)
    >>> bench.findings, margin.cases, margin.worst < 1
    ([], 4, True)
    """
    if dtype not in ("float64", "float32", *NARROW):
        raise ArgumentError(f"dtype must be one of float64, float32, {', '.join(NARROW)}, got {dtype}")
    bounded = target.weights is not None or (target.latent is None and target.hidden is None)
    if dtype in NARROW and not bounded:
        kind = "a layer with a state" if target.latent is None else "a latent layer"
        raise ArgumentError(f"dtype must be float64 or float32 for {kind}, which has no bound in 16 bits, got {dtype}")
    bench = LayerBench(target, seed=seed, dtype=dtype)
    if dtype in NARROW:
        return bench, look_narrow(bench, cases, progress)
    return bench, _look(bench, cases, progress)


def look_narrow(bench: LayerBench, cases: int, progress: Callable[[str], None]) -> Margin | None:
    """Read a layer in wide numbers where it takes them, and compare drawn cases in 16 bits.

    Examples
    --------
    >>> from kvattn.testing.layer_targets import layer_target_of
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = LayerBench(layer_target_of(PlantedLayer()), dtype="float16")
    >>> look_narrow(bench, 4, lambda _: None).cases, bench.findings
    (4, [])
    """
    asked, margin = bench.dtype, None
    bench.dtype = reading_dtype(bench)
    if bench.dtype == asked:
        words = "or answers as coarsely: it was compared with its plan, and not read"
        bench.notes.append(f"It takes {asked} alone, {words}")
        try:
            manners.settle(bench)
        except Refused as refused:
            parameters = {"raised": str(refused).partition(":")[0]}
            bench.add("unclassified", parameters, f"It raises {refused}.", reproduce=bench.line(bench.drawing()))
            return None
    else:
        margin = _look(bench, cases, progress)
        if bench.stopped or any(finding.kind == "fault" for finding in bench.findings):
            bench.notes.append(f"It was read in {bench.dtype}; as that showed a fault, {asked} was not compared")
            return margin
        bench.notes.append(f"What it does was read in {bench.dtype}; {asked} was compared in drawn cases")
    bench.dtype = bench.compute = asked
    progress("drawn cases in 16 bits")
    return read_drawn(bench, cases)


def reading_dtype(bench: LayerBench) -> str:
    """Return the dtype in which to read what a layer does: its own, unless that is narrow and a wide one works.

    Where numbers are wide, the third difference of the answers to x, x(1 + ε), x(1 + 2ε), x(1 + 3ε) is of the order ε³.

    Examples
    --------
    >>> from kvattn.testing.layer_targets import layer_target_of
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> reading_dtype(LayerBench(layer_target_of(PlantedLayer()), dtype="float16"))
    'float64'
    """
    asked = bench.dtype
    try:
        for bench.dtype in ("float64", "float32"):
            with contextlib.suppress(Refused):
                manners.settle(bench)
                weights, case = bench.drawing().build(bench.target.own, bench.dtype)
                steps = [bench.run(weights, case._replace(x=case.x * (1 + n / 1024))) for n in range(4)]
                if not np.array_equal(steps[0], bench.run(weights, case), equal_nan=True):
                    return bench.dtype  # what is random is read best in any wide numbers
                if np.abs(np.diff(steps, 3, axis=0)).max() <= 2.0**-15 * np.abs(steps[0]).max():
                    return bench.dtype
    finally:
        bench.dtype = asked
        bench.findings.clear()
        bench.notes.clear()
    return asked


def _look(bench: LayerBench, cases: int, progress: Callable[[str], None]) -> Margin | None:
    """Read a layer in wide numbers."""
    target = bench.target
    if target.hidden is not None and target.own is None:
        bench.notes.append("Of a layer that says its hidden size alone, only what holds of every layer was asked")
        look_opaque(bench, progress)
        return None
    if target.own is None and target.expects == Plan():
        bench.notes.append("Nothing is declared of it: a Plan beside it, layer.expects = Plan(…), has more read")
    steps: tuple[tuple[str, Callable[[LayerBench], None]], ...] = (
        ("sizes", manners.settle),
        ("manners", manners.read_manners),
    )
    if target.latent is not None:
        steps += (("the call in parts", read_latent), ("positions and padding", read_latent_places))
    else:
        steps += (
            ("the plain call", read_plain),
            ("positions", read_positions),
            ("padding", read_padding),
            ("parts", read_parts),
        )
    for what, step in steps:
        if bench.stopped:
            return None
        progress(what)
        try:
            step(bench)
        except Refused as refused:
            words = f"{str(refused).capitalize()}" if isinstance(refused, Misshapen) else f"It raises {refused}"
            parameters = {"raised": str(refused).partition(":")[0], "step": what}
            bench.add("unclassified", parameters, f"{words}, where {what} were read.", reproduce=_last(bench, what))
            bench.stopped = True
    if bench.stopped:
        return None
    progress("drawn cases")
    return read_drawn(bench, cases)


def _last(bench: LayerBench, what: str) -> str:
    if what == "parts":
        return bench.line(bench.drawing(cuts=(3,)))
    return bench.line(bench.drawing(valid="left" if what == "padding" else ""))


def _plain(bench: LayerBench) -> list[Drawing]:
    cases = [
        bench.drawing(),
        bench.drawing(B=3, T=7, Hq=6, Hkv=2, seed=bench.seed + 1, small=True),
        bench.drawing(B=1, T=4, Hq=6, Hkv=3, seed=bench.seed + 2),
    ]
    free = bench.target.weights is None and not bench.target.width
    if free and bench.target.expects != Plan() and not bench.target.expects.rotary:
        cases.append(bench.drawing(D=12, T=6, Hq=8, Hkv=4, seed=bench.seed + 3))
    if bench.target.expects.alibi:
        cases.append(bench.drawing(B=1, T=6, Hq=12, Hkv=4, seed=bench.seed + 4))
    return [*cases, *filled(bench)]


def _every(bench: LayerBench) -> Callable[[Reading], Iterable[Change]]:
    width = bench.drawing().D

    def tries(now: Reading) -> Iterator[Change]:
        if now.plan == Plan():
            yield from changes.undeclared(now)
        yield from changes.sharing(now)
        yield from changes.projections(now)
        yield from changes.heads(now)
        yield from orders(now)
        yield from changes.bends(now)
        yield from changes.norms(now)
        yield from changes.rotations(now, width)

    return tries


def read_plain(bench: LayerBench) -> None:
    """Compare plain calls with the plan, and name what differs.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer(scale=lambda *sizes: 1.0))
    >>> read_plain(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('scale', {'rule': '1'})
    """
    drawings = _plain(bench)
    settle_arithmetic(bench, drawings)
    if bench.plan.shared and bench.can("cache"):  # parts tell a layer that never shares from one that does later
        name(bench, [*drawings, bench.drawing(T=5, cuts=(3,))], changes.sharing, pairs=False)
    if name(bench, drawings, _every(bench), changes.fits, pairs=False):
        return
    if read_orders(bench, drawings[:3]):
        return
    bench.stopped = True
    count = len(bench.findings)
    if read_rotation(bench) and len(bench.findings) > count and _settled(bench, drawings):
        return
    del bench.findings[count:]
    bench.reading = bench.legal = bench.plan
    bench.stopped = not name(bench, drawings, _every(bench))
    if bench.stopped:
        describe(bench, drawings[0])


def _settled(bench: LayerBench, drawings: list[Drawing]) -> bool:
    """Say whether the rotation that was read explains the cases, as closely as it could be read."""
    cases = ran(bench, drawings)
    if explains(bench, bench.reading, cases):
        bench.stopped = False
        return True
    return explains(bench, bench.reading, cases, 1e6)


def settle_arithmetic(bench: LayerBench, drawings: list[Drawing]) -> None:
    """Fall back to float32 bounds for a layer that answers to float32 precision.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer(cap=lambda product, scale: float(np.float32(product * scale))))
    >>> settle_arithmetic(bench, [bench.drawing()])
    >>> bench.compute
    'float32'
    """
    cases = ran(bench, drawings)
    if bench.compute == "float32" or explains(bench, bench.reading, cases):
        return
    bench.compute = "float32"
    if explains(bench, bench.reading, cases):
        bench.notes.append(SINGLE)
    else:
        bench.compute = "float64"


def _gaps(bench: LayerBench) -> str:
    """Return which positions to hand over: with gaps, unless a window may count either rows or positions."""
    return "gaps" if bench.target.expects.window is None else "later"


def read_positions(bench: LayerBench) -> None:
    """Compare calls with positions of their own.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> mine = PlantedLayer(rotate=PlantedRotation(reads="first row"))
    >>> bench = layer_bench(mine, Plan(rotary=Rotary.of(8)))
    >>> read_positions(bench)
    >>> bench.findings[0].parameters
    {'positions': 'first row'}
    """
    if not bench.can("positions") or bench.target.expects.axes or bench.target.expects.alibi:
        return
    gaps = _gaps(bench)
    drawings = [bench.drawing(positions=gaps), bench.drawing(B=3, T=4, positions=gaps, seed=bench.seed + 5)]
    drawings += [bench.drawing(positions="far"), bench.drawing(B=1, positions="later")]
    every = _every(bench)

    def tries(now: Reading) -> Iterator[Change]:
        yield from changes.places(now, 600)
        yield from every(now)

    settle_arithmetic(bench, drawings)
    if not name(bench, drawings, tries, pairs=False):
        describe(bench, drawings[0])
        bench.stopped = True


def read_padding(bench: LayerBench) -> None:
    """Compare calls with padding, and see that what stands in it does not matter.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> bench = layer_bench(PlantedLayer(pads=lambda valid: valid | True))
    >>> read_padding(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('padding-positions', {'pads': 'visible'})
    """
    if not bench.can("valid"):
        return
    drawings = [bench.drawing(B=3, T=6, valid=side, seed=bench.seed + n) for n, side in enumerate(("left", "right"))]
    if not name(bench, drawings, changes.padding):
        describe(bench, drawings[0])
        bench.stopped = True
        return
    if bench.reading.pads != "hidden":
        return
    weights, case = drawings[0].build(bench.target.own, bench.dtype)
    poisoned = np.where(case.valid[..., None], case.x, np.nan)  # type: ignore[index]
    if not np.isfinite(bench.run(weights, case._replace(x=poisoned))[case.valid]).all():
        text = "NaN in the hidden states of padding comes through to tokens"
        bench.add("masked-nan", {"at": "padding"}, f"{text}.", kind="convention", reproduce=bench.line(drawings[0]))


def read_parts(bench: LayerBench) -> None:
    """Compare sequences that are handed over in parts with the whole.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> mine = PlantedLayer(rotate=PlantedRotation(), part=lambda before, count, right: right - before)
    >>> bench = layer_bench(mine.cached, Plan(rotary=Rotary.of(8)))
    >>> read_parts(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters
    ('rope-offset', {'positions': 'restart'})
    """
    if not bench.can("cache"):
        return
    scheme = bench.target.expects.rotary
    if getattr(scheme, "trained", 10**9) < 16:
        bench.notes.append("Parts were not compared: keys under a rotation that follows the length depend on the cut")
        return
    drawings = [
        bench.drawing(T=7, cuts=(3,)),
        bench.drawing(B=1, T=6, cuts=(2, 3, 4), seed=bench.seed + 1),
        bench.drawing(B=3, T=7, cuts=(1, 5), seed=bench.seed + 2),
        *continued(bench),
    ]

    def tries(now: Reading) -> Iterator[Change]:
        yield from changes.parts(now)
        yield from windows(now)
        yield from changes.sharing(now)
        yield from changes.rotations(now, drawings[0].D)
        yield from changes.bends(now)

    planned = replace(bench.reading, part_sight="as planned")
    cases = ran(bench, drawings)
    if not explains(bench, bench.reading, cases) and explains(bench, planned, cases):
        bench.reading = planned
        bench.notes.append("Later parts see what they should: what is said of who sees whom holds for a first call")
    if not name(bench, drawings, tries):
        describe(bench, drawings[0])
        bench.stopped = True
        return
    if bench.can("valid"):
        padded = [bench.drawing(B=3, T=8, valid="left", cuts=cuts) for cuts in ((5,), (6, 7))]
        if not name(bench, padded, changes.padding):
            describe(bench, padded[0])
            bench.stopped = True
            return
    if bench.can("positions") and not bench.target.expects.alibi and not bench.target.expects.axes:
        placed = [bench.drawing(T=7, positions=_gaps(bench), cuts=(3, 4))]
        given = replace(bench.reading, part_given=False)
        if explains(bench, given, ran(bench, placed)):
            bench.reading = given  # what was read of later parts holds where no positions are given
        if not name(bench, placed, changes.parts):
            describe(bench, placed[0])
            bench.stopped = True


def read_drawn(bench: LayerBench, count: int = 80) -> Margin:
    """Compare drawn cases that mix positions, padding and parts.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.bench import layer_bench
    >>> from kvattn.testing.planted_layer import PlantedLayer
    >>> read_drawn(layer_bench(PlantedLayer().cached), 6).cases
    6
    """
    generator = random.Random(bench.seed)
    done, worst, suspect = 0, 0.0, 0
    for n in range(count):
        drawing = _drawn(bench, generator, n)
        try:
            ratio = bench.differs(drawing)
            seen = ratio > 1 and drawing.valid and bench.findings and bench.dtype not in NARROW
            if seen and name(bench, [drawing], changes.padding, pairs=False):
                ratio = bench.differs(drawing)  # what shows through an earlier finding alone
        except Refused as refused:
            parameters = {"raised": str(refused).partition(":")[0], "drawn": True}
            bench.add("unclassified", parameters, f"It raises {refused}.", reproduce=bench.line(drawing))
            continue
        done, worst, suspect = done + 1, max(worst, ratio), suspect + (0.5 < ratio <= 1)
        if ratio > 1 and not any(f.fault_class == "unclassified" for f in bench.findings):
            _tell(bench, drawing, ratio)
    return Margin(done, worst, suspect, "statistical")


def _tell(bench: LayerBench, drawing: Drawing, ratio: float) -> None:
    """Name or describe a drawn case that fails."""
    if bench.dtype not in NARROW:
        describe(bench, drawing)
        return
    others = [bench.drawing(B=3, T=9, positions=_far(bench), seed=bench.seed + n) for n in (31, 32)]
    for change in changes.rotations(bench.legal, drawing.D):
        own = change.fault_class == "rope-precision" and change.parameters["format"] == bench.dtype
        if own and all(bench.differs(one, change.reading) <= min(1.0, ratio / 3) for one in (drawing, *others)):
            bench.add(change.fault_class, change.parameters, f"{change.words}.", drawing)
            bench.reading = change.reading
            return
    size = f"B={drawing.B}, T={drawing.T}, Hq={drawing.Hq}, Hkv={drawing.Hkv}, D={drawing.D}"
    more = [name for name in ("positions", "valid", "cuts") if getattr(drawing, name)]
    when = f" with {', '.join(more)}" if more else ""
    text = f"In {bench.dtype} it differs from its plan at {size}{when}, by {ratio:.3g} times the bound."
    bench.add("unclassified", {"in": bench.dtype, "with": more}, text, drawing)


def _far(bench: LayerBench) -> str:
    free = bench.can("positions") and not bench.target.expects.axes and not bench.target.expects.alibi
    return "far" if free else ""


def _drawn(bench: LayerBench, generator: random.Random, n: int) -> Drawing:
    hkv, group = generator.choice((1, 2, 3)), generator.choice((2, 3, 4))
    length = generator.choice((1, 2, 3, 5, 8, 13, 17))
    case = bench.drawing(B=generator.choice((1, 2, 3)), T=length, Hq=hkv * group, Hkv=hkv, seed=bench.seed + n)
    plain = not bench.target.expects.axes and not bench.target.expects.alibi
    if bench.can("positions") and plain and generator.random() < 0.4:
        case = replace(case, positions=generator.choice(("later", _gaps(bench), "far")))
    if bench.can("valid") and case.B > 1 and length > 4 and bench.reading.pads == "hidden" and generator.random() < 0.4:
        case = replace(case, valid=generator.choice(("left", "right")))
    following = getattr(bench.target.expects.rotary, "trained", 10**9) <= length
    if bench.can("cache") and length > 2 and case.valid != "right" and not following and generator.random() < 0.5:
        cuts = sorted(generator.sample(range(1, length), generator.choice((1, 2))))
        case = replace(case, cuts=tuple(cuts))
    return case
