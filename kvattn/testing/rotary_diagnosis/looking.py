"""The whole reading of a rotation, one question after the other, each under what the ones before have learned."""

from collections.abc import Callable
import contextlib
from typing import TypeAlias

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.testing.diagnosis.differential import Margin
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.rotary_diagnosis import drawn, frequencies, lengths, places, precision, structure
from kvattn.testing.rotary_diagnosis.bench import NARROW, RotaryBench
from kvattn.testing.rotary_diagnosis.model import Model
from kvattn.testing.rotary_diagnosis.schemes import name_scheme
from kvattn.testing.rotary_targets import RotaryTarget

Steps: TypeAlias = tuple[tuple[str, Callable[[RotaryBench], None]], ...]
"""Readings, each with its name."""

_STEPS: Steps = (
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

    In 16 bits, what it does is read in wide numbers where it takes them and answers as finely; then the rounding of its
    angles and drawn cases are compared in 16 bits, with features rounded to them at every step and angles in float32.

    Raises
    ------
    ArgumentError
        When dtype is none of float64, float32, float16, bfloat16.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> bench, margin = look(RotaryTarget("mine", Rotary.of(16, base=5e5).rotate, width=16), cases=4)
    >>> bench.findings[0].kind, bench.findings[0].parameters, margin.cases
    ('convention', {'scheme': 'plain', 'base': 500000.0}, 4)
    """
    if dtype not in ("float64", "float32", *NARROW):
        raise ArgumentError(f"dtype must be one of float64, float32, {', '.join(NARROW)}, got {dtype}")
    bench = RotaryBench(target, seed=seed, dtype=dtype)
    progress("head width")
    try:
        bench.settle()
        bench.dtype = reading_dtype(bench)
    except Refused as refused:
        bench.add("unclassified", {"raised": str(refused).partition(":")[0]}, f"It raises {refused} on a plain call.")
        return bench, None
    steps = _STEPS
    if bench.dtype in NARROW:
        words = "or answers as coarsely: it was compared with what is expected of it, and not read"
        bench.notes.append(f"It takes {dtype} alone, {words}")
        expected = bench.expected(getattr(target.expects, "trained", target.context))
        bench.known = {side: Model.of(expected, bench.width) for side in bench.sides}
        steps = (("reach", places.read_reach),)
    elif bench.dtype != dtype:
        bench.notes.append(f"What it does was read in {bench.dtype}; {dtype} was compared in drawn cases")
    _read(bench, steps, progress)
    bench.dtype = dtype
    if dtype in NARROW:
        bench.compute = dtype
        _read(bench, (("precision", precision.read_precision),), progress)
    if bench.stopped:
        return bench, None
    progress("drawn cases")
    margin = drawn.read_drawn(bench, cases)
    known = bench.known["q"]
    if known.frequencies.any():
        bench.notes.insert(0, f"Read: {len(known.first)} pairs, {name_scheme(known.frequencies)}")
    return bench, margin


def reading_dtype(bench: RotaryBench) -> str:
    """Return the dtype in which to read what a rotation does: its own, unless that is narrow and a wide one works.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(Rotary.of(8).rotate)
    >>> bench.dtype = "float16"
    >>> reading_dtype(bench), bench.dtype
    ('float64', 'float16')
    """
    asked = bench.dtype
    if asked not in NARROW:
        return asked
    x = np.random.default_rng(bench.seed).standard_normal((1, 2, 6, bench.width))
    try:
        for bench.dtype in ("float64", "float32"):
            with contextlib.suppress(Refused):
                turned = bench.run(x, x[:, :1], np.arange(6)[None]).q
                third = turned - bench.run(x * (1 + 2**-8), x[:, :1], np.arange(6)[None]).q / (1 + 2**-8)
                if np.abs(third).max() <= 2.0**-15 * np.abs(turned).max():
                    return bench.dtype
    finally:
        bench.dtype = asked
    return asked


def _read(bench: RotaryBench, steps: Steps, progress: Callable[[str], None]) -> None:
    for name, step in steps:
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
