"""Whether frequencies depend on the length of the sequence, and from which length on.

Method: four positions up to a length, whose angles differ by one frequency from one to the next.  Where the frequencies
change, the last length of the first ones is searched for by halves.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.rotary_diagnosis.bench import NEAR, RotaryBench
from kvattn.testing.rotary_diagnosis.frequencies import close

Numbers = NDArray[np.float64]


def frequencies_at(bench: RotaryBench, length: int, side: str = "q") -> Numbers:
    """Read the frequencies of a run that ends at ``length``.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.rotary_diagnosis.model import Model
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(Rotary.of(4).rotate, width=4)
    >>> bench.known["q"] = Model.of(Rotary.of(4), 4)
    >>> frequencies_at(bench, 100).round(6)
    array([1.  , 0.01])
    """
    angles = bench.angles(np.arange(length - 4, length)[None], side)[0]
    steps = np.angle(np.exp(1j * np.diff(angles, axis=0)))
    return np.asarray(steps.mean(0))


def read_lengths(bench: RotaryBench) -> None:
    """Read how frequencies follow the length.

    Examples
    --------
    >>> from kvattn.positions import DynamicNTK
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> scheme = DynamicNTK(8, factor=2.0, trained=100)
    >>> def early(x, positions):
    ...     return scheme.rotary_at(int(positions.max()) + 2).rotate(x, positions[:, None])
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(early, scheme, 8)
    >>> read_structure(bench)
    >>> bench.reach = 4096
    >>> read_lengths(bench)
    >>> bench.findings[0].fault_class, bench.findings[0].parameters["last_length_unchanged"]
    ('rope-dynamic', 99)
    """
    for side, known in bench.known.items():
        if not known.frequencies.any():
            continue
        _read_side(bench, side)
        if any(f.fault_class == "rope-dynamic" for f in bench.findings):
            return


def _loose(bench: RotaryBench, length: int) -> float:
    """How far a step may be off: its frequency's own error, and a rounding of two angles of that size."""
    angle, data = bench.roundoff
    return angle * (2 * length + 30) + 4 * data + 1e-12


def _same(bench: RotaryBench, one: Numbers, two: Numbers, length: int) -> bool:
    return bool(np.abs(one - two).max() <= 2 * _loose(bench, length))


def _read_side(bench: RotaryBench, side: str) -> None:
    context = bench.reach
    first = frequencies_at(bench, NEAR, side)
    last = frequencies_at(bench, context, side)
    trained = getattr(bench.target.expects, "trained", None)
    if _same(bench, first, last, context):
        if trained is not None and int(trained) < context:
            bench.add(
                "rope-dynamic",
                {"follows_length": False, "trained": int(trained)},
                f"Frequencies do not follow the length: those of {context} tokens are those of {NEAR}, expected others"
                f" from {int(trained) + 1} on.",
                reproduce=bench.line([context - 2, context - 1], side),
            )
            bench.stopped = True
        return
    switch = _switch(bench, side, first, context)
    parameters, words = _describe(bench, side, first, switch, context)
    wanted = int(trained) if trained is not None else None
    if wanted is None:
        bench.add(
            "rope-dynamic",
            {"last_length_unchanged": switch, **parameters},
            f"Frequencies follow the length of the sequence from {switch + 1} on: {words}.  Keys that are cached turned"
            " are turned by the length of their moment.",
            kind=bench.legal,
            reproduce=bench.line([switch - 1, switch], side),
        )
        bench.stopped = True
    elif switch != wanted:
        bench.add(
            "rope-dynamic",
            {"last_length_unchanged": switch, "expected": wanted},
            f"Frequencies change from length {switch + 1} on, expected from {wanted + 1} on.",
            reproduce=bench.line([wanted - 1, min(switch, wanted)], side),
        )
        bench.stopped = True
    else:
        _compare(bench, side, parameters)


def _compare(bench: RotaryBench, side: str, parameters: dict[str, Any]) -> None:
    """Compare with the declared scheme at a few lengths beyond the trained one."""
    trained = int(bench.target.expects.trained)  # type: ignore[union-attr]
    for length in (trained + 1, 2 * trained, bench.reach):
        if NEAR <= length <= bench.reach:
            read, right = frequencies_at(bench, length, side), np.array(bench.expected(length).frequencies)
            if not _same(bench, read, right, length):
                worst = int(np.argmax(np.abs(read - right)))
                bench.add(
                    "rope-dynamic",
                    {"length": length, **parameters},
                    f"At length {length} pair {worst} turns by {read[worst]:.6g} per position, expected"
                    f" {right[worst]:.6g}.",
                    reproduce=bench.line([length - 1], side),
                )
                bench.stopped = True
                return


def _switch(bench: RotaryBench, side: str, first: Numbers, context: int) -> int:
    """Return the last length with the first frequencies."""
    low, high = NEAR, context
    while high - low > 1:
        middle = (low + high) // 2
        if _same(bench, first, frequencies_at(bench, middle, side), middle):
            low = middle
        else:
            high = middle
    return low


def _describe(bench: RotaryBench, side: str, first: Numbers, switch: int, context: int) -> tuple[dict[str, Any], str]:
    near, far = (frequencies_at(bench, length, side) for length in (switch + 1, context))
    if close(near, far, 1e-5):
        divisors = (first / np.where(far == 0, 1, far)).tolist()
        return {"form": "two lists", "divisors": [round(d, 4) for d in divisors]}, "to a second list, which then stays"
    count = len(first)
    alpha = float(first[-1] / far[-1]) if far[-1] else float("nan")
    factor = (alpha - 1) / (context / switch - 1)
    grown = first * alpha ** (-np.arange(count) / max(count - 1, 1))
    if bool(np.abs(grown - far).max() <= 1e-4):
        return {"form": "NTK", "factor": round(factor, 3)}, f"dynamic NTK with factor {factor:.3g}"
    return {"form": "other"}, "in another way than dynamic NTK or LongRoPE do"
