"""How precise the angles are: which number was rounded, and to which format.

Rounding is tried where code does it (positions, frequencies, their product, cosine and sine) in each format, and the
try that gives the cosines and sines that were read names it.  Angles in float32 are the rule in the field, and
pass, with a note; in bfloat16 neighbouring positions cannot be told apart from 257 on.
"""

from collections.abc import Iterator
import itertools

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.formats import FORMATS
from kvattn.testing.rotary_diagnosis.bench import NEAR, RotaryBench
from kvattn.testing.rotary_diagnosis.frequencies import frequencies_for
from kvattn.testing.rotary_diagnosis.model import Model
from kvattn.testing.rotary_diagnosis.places import far_positions

Numbers = NDArray[np.float64]

STAGES = ("positions", "frequencies", "angles", "tables")
"""Where rounding is tried; "tables" are cosine and sine."""


def rounded_hands(known: Model, positions: Numbers, stages: tuple[str, ...], name: str) -> tuple[Numbers, Numbers]:
    """Return cosine and sine ``[T, pairs]`` with some numbers rounded to a format.

    Examples
    --------
    >>> from kvattn.positions.rotary import Rotary
    >>> model = Model.of(Rotary.of(2), 2)
    >>> rounded_hands(model, np.array([257.0]), ("positions",), "bfloat16")[0] == np.cos(256)
    array([[ True]])
    """

    def at(stage: str, value: Numbers) -> Numbers:
        return np.asarray(FORMATS[name].round(value), np.float64) if stage in stages else value

    places = at("positions", positions + known.offset)
    angles = at("angles", places[:, None] * at("frequencies", known.frequencies))
    return tuple(at("tables", known.magnitude * f(angles)) for f in (np.cos, np.sin))  # type: ignore[return-value]


def _tries() -> Iterator[tuple[tuple[str, ...], str]]:
    for count in range(1, len(STAGES) + 1):
        for stages in itertools.combinations(STAGES, count):
            for name in ("bfloat16", "float16"):
                yield stages, name


def read_precision(bench: RotaryBench) -> None:
    """Name what is rounded, where the angles are less precise than float32's.

    Examples
    --------
    >>> from kvattn.positions import Rotary
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> mine = PlantedRotation(rounding={"frequencies": FORMATS["bfloat16"].round})
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> bench = bench_of(mine.alone, width=8)
    >>> read_structure(bench)
    >>> bench.reach = 4096
    >>> read_precision(bench)
    >>> bench.findings[0].parameters
    {'rounded': 'frequencies', 'format': 'bfloat16'}
    """
    near = np.arange(NEAR)
    most = min(bench.reach, getattr(bench.target.expects, "trained", bench.reach), 20000)
    far = np.array([p for p in far_positions(most) if p >= NEAR], np.int64)
    for side, known in bench.known.items():
        right = _expected(bench, known)
        if right is None:
            continue
        places = np.concatenate([near, far])
        read = tuple(
            np.concatenate(parts) for parts in zip(_read(bench, side, near), _read(bench, side, far), strict=True)
        )
        single = _limits(right, places, 2.0**-24, max(2.0**-24, bench.roundoff[1]))
        if _apart(read, _exact(right, places)) <= single:
            continue
        for stages, name in _tries():
            with np.errstate(all="ignore"):
                guess = rounded_hands(right, places.astype(np.float64), stages, name)
            if _apart(read, guess) <= single:
                _record(bench, side, stages, name, read, right, places)
                break
        if bench.stopped:
            return


class _Limits:
    """Elementwise bounds; a distance is within them where each element is."""

    def __init__(self, bound: Numbers) -> None:
        self.bound = bound


class _Distance:
    def __init__(self, far: Numbers) -> None:
        self.far = far

    def __le__(self, limits: _Limits) -> bool:
        with np.errstate(invalid="ignore"):
            return bool((self.far <= limits.bound).all())


def _apart(read: tuple[Numbers, ...], guess: tuple[Numbers, ...]) -> _Distance:
    return _Distance(np.maximum(*(np.abs(a - b) for a, b in zip(read, guess, strict=True))))


def _exact(known: Model, places: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    angles = known.angles(places)
    return known.magnitude * np.cos(angles), known.magnitude * np.sin(angles)


def _limits(known: Model, places: NDArray[np.int64], angle: float, data: float) -> _Limits:
    ones = np.zeros((len(places), int(max(known.first.max(), known.second.max())) + 1))
    ones[:, known.first] = 1
    return _Limits(known.bound(ones, places, angle, data)[:, known.first])


def _read(bench: RotaryBench, side: str, places: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    parts = [bench.hands(places[None, n : n + 16], side) for n in range(0, len(places), 16)]
    return np.concatenate([p[0][0] for p in parts]), np.concatenate([p[1][0] for p in parts])


def _expected(bench: RotaryBench, known: Model) -> Model | None:
    """Return what is known with the expected frequencies, if any pair turns."""
    frequencies = frequencies_for(bench, known)
    if not frequencies.any():
        return None
    return Model(known.first, known.second, frequencies, known.direction, known.offset, known.magnitude)


def settle_arithmetic(bench: RotaryBench) -> None:
    """Fall back to float32 bounds for a target whose angles are float32's.

    Examples
    --------
    >>> from kvattn.testing.planted_rotation import PlantedRotation
    >>> from kvattn.testing.rotary_diagnosis.bench import bench_of
    >>> from kvattn.testing.rotary_diagnosis.structure import read_structure
    >>> mine = PlantedRotation(rounding={"angles": lambda angles: angles.astype(np.float32)})
    >>> bench = bench_of(mine.alone, width=8)
    >>> read_structure(bench)
    >>> settle_arithmetic(bench)
    >>> bench.compute
    'float32'
    """
    most = min(bench.reach or 100, int(getattr(bench.target.expects, "trained", 100)), 100)
    places = np.arange(most)
    for side, known in bench.known.items():
        if not known.frequencies.any():
            continue
        read = _read(bench, side, places)
        if _apart(read, _exact(known, places)) <= _limits(known, places, *bench.roundoff):
            continue
        error = np.abs(np.angle(np.exp(1j * (np.arctan2(read[1], read[0]) - known.angles(places)))))
        if not _apart(read, _exact(known, places)) <= _limits(known, places, 2.0**-24, 2.0**-24):
            continue  # no rounding of that size: what it is, the drawn cases tell
        bench.compute = "float32"
        if bench.dtype == "float64" and not any("float32's" in text for text in bench.notes):
            bench.notes.append(
                "Its angles are float32's, as in most libraries; the bounds are float32's too, and grow with the"
                f" position: up to position {most - 1} the largest angle error read is {error.max():.1g} rad."
            )


def _record(
    bench: RotaryBench,
    side: str,
    stages: tuple[str, ...],
    name: str,
    read: tuple[Numbers, ...],
    right: Model,
    places: NDArray[np.int64],
) -> None:
    error = np.abs(np.angle(np.exp(1j * (np.arctan2(read[1], read[0]) - right.angles(places))))).max(1)
    worst = int(np.argmax(error))
    words = " and ".join("cosines and sines" if stage == "tables" else stage for stage in stages)
    bench.add(
        "rope-precision",
        {"rounded": " and ".join(stages), "format": name},
        f"{words[0].upper()}{words[1:]} are rounded to {name}: at position {places[worst]} an angle is off by"
        f" {error[worst]:.3g} rad.",
        reproduce=bench.line([int(places[worst])], side),
    )
    bench.stopped = True
