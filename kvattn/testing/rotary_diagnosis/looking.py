"""The whole reading of a rotation, one question after the other, each under what the ones before have learned."""

from collections.abc import Callable

from kvattn.errors import ArgumentError
from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.diagnosis.lab import Misshapen, Refused
from kvattn.testing.rotary_diagnosis import drawn, frequencies, lengths, places, precision, structure
from kvattn.testing.rotary_diagnosis.bench import RotaryBench
from kvattn.testing.rotary_diagnosis.schemes import name_scheme
from kvattn.testing.rotary_targets import RotaryTarget

_STEPS: tuple[tuple[str, Callable[[RotaryBench], None]], ...] = (
    ("manners", structure.read_manners),
    ("pairs", structure.read_structure),
    ("reach", places.read_reach),
    ("precision", precision.read_precision),
    ("frequencies", frequencies.read_frequencies),
    ("positions", places.read_places),
    ("table", places.read_table),
    ("arithmetic", precision.settle_arithmetic),
    ("lengths", lengths.read_lengths),
)


def look(
    target: RotaryTarget,
    *,
    seed: int = 0,
    dtype: str = "float64",
    cases: int = 80,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[RotaryBench, Margin | None]:
    """Read a rotation, and compare drawn cases where what was read leaves something to compare.

    Raises
    ------
    ArgumentError
        When dtype is neither float64 nor float32.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> bench, margin = look(RotaryTarget("mine", Rotary.of(16, base=5e5).rotate, width=16), cases=4)
    >>> bench.findings[0].kind, bench.findings[0].parameters, margin.cases
    ('convention', {'scheme': 'plain', 'base': 500000.0}, 4)
    """
    if dtype not in ("float64", "float32"):
        raise ArgumentError(f"dtype must be float64 or float32 for a rotation, got {dtype}")
    bench = RotaryBench(target, seed=seed, dtype=dtype)
    progress("head width")
    try:
        bench.settle()
    except Refused as refused:
        bench.add("unclassified", {"raised": str(refused).partition(":")[0]}, f"It raises {refused} on a plain call.")
        return bench, None
    for name, step in _STEPS:
        if bench.stopped:
            break
        progress(name)
        try:
            step(bench)
        except Refused as refused:
            what = f"{str(refused).capitalize()}" if isinstance(refused, Misshapen) else f"It raises {refused}"
            parameters = {"raised": str(refused).partition(":")[0], "step": name}
            bench.add("unclassified", parameters, f"{what}, where {name} were read.")
            bench.stopped = True
    if bench.stopped:
        return bench, None
    progress("drawn cases")
    margin = drawn.read_drawn(bench, cases)
    known = bench.known["q"]
    if known.frequencies.any():
        bench.notes.insert(0, f"Read: {len(known.first)} pairs, {name_scheme(known.frequencies)}")
    return bench, margin
