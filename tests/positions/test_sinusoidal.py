"""Sinusoidal positions: waves by hand, both layouts, both tables of frequencies, and bits that do not see the cut."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions.rotary import geometric
from kvattn.positions.sinusoidal import Sinusoidal, spanning

PAPER = Sinusoidal.of(6, base=100.0)
WHISPER = Sinusoidal(spanning(6, 100.0), "half")
FAIRSEQ = Sinusoidal(spanning(6, 100.0), "half", offset=2)
LEARNED_SIZE = Sinusoidal(geometric(6, 100.0), "half", magnitude=0.375)
SCHEMES = {"paper": PAPER, "Whisper": WHISPER, "fairseq": FAIRSEQ, "x-transformers": LEARNED_SIZE}


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def by_hand(name: str, x: Any, positions: list[int]) -> list[list[float]]:
    """The four schemes as sentences, feature by feature."""
    out = []
    for row, position in zip(x.tolist(), positions, strict=True):
        waves = []
        for k in range(3):
            steps = k / 3 if name in ("paper", "x-transformers") else k / 2
            place = position + 2 if name == "fairseq" else position
            angle = place / math.exp(math.log(100.0) * steps)
            waves.append((math.sin(angle), math.cos(angle)))
        if name == "paper":
            added = [wave for pair in waves for wave in pair]
        else:
            added = [sine for sine, _ in waves] + [cosine for _, cosine in waves]
        size = 0.375 if name == "x-transformers" else 1.0
        out.append([a + size * b for a, b in zip(row, [*added, 0.0], strict=False)])
    return out


def bound(x: Any, positions: list[int]) -> float:
    """An angle has 6 roundings (table, exponential and logarithm on one side, power on the other, product), each 2^-53
    of it; sine and cosine 5, in float64; then the wave and the sum are rounded to the dtype, once each."""
    u = float(np.finfo(x.dtype).eps) / 2
    return 2.0**-53 * (6 * (max(positions) + 2) * (1 + math.log(100.0)) + 5) + 2 * u * (float(np.abs(x).max()) + 1)


POSITIONS = [0, 1, 2, 77, 1000]


@pytest.mark.by_hand("positions/sinusoidal")
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("width", [6, 7])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_the_waves_by_hand(name: str, width: int, dtype: Any) -> None:
    x = drawn(5, width, dtype=dtype)
    found = SCHEMES[name].embed(x, np.array(POSITIONS))
    assert found.dtype == dtype
    assert np.abs(found - np.array(by_hand(name, x, POSITIONS))).max() <= bound(x, POSITIONS)


MUTANTS = {
    "exponent over D": ("paper", Sinusoidal(geometric(12, 100.0)[:3])),
    "layout": ("paper", Sinusoidal(geometric(6, 100.0), "half")),
    "M/2 in place of M/2 - 1": ("Whisper", Sinusoidal(geometric(6, 100.0), "half")),
    "M/2 - 1 in place of M/2": ("paper", Sinusoidal(spanning(6, 100.0))),
    "no offset": ("fairseq", WHISPER),
    "offset 1": ("fairseq", Sinusoidal(spanning(6, 100.0), "half", offset=1)),
    "base": ("paper", Sinusoidal.of(6, base=101.0)),
    "sines fall": ("paper", Sinusoidal(tuple(-f for f in geometric(6, 100.0)))),
    "size": ("x-transformers", Sinusoidal(geometric(6, 100.0), "half")),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_another_scheme_is_rejected(name: str) -> None:
    right, mutant = MUTANTS[name]
    x = drawn(5, 6)
    apart = np.abs(mutant.embed(x, np.array(POSITIONS)) - np.array(by_hand(right, x, POSITIONS))).max()
    assert apart > 1e6 * bound(x, POSITIONS)


def test_the_frequencies_span_from_one_to_one_over_the_base() -> None:
    assert spanning(512)[0] == 1.0
    assert spanning(512)[-1] == 1 / 10000
    assert len(spanning(512)) == 256
    assert spanning(7, 100.0) == spanning(6, 100.0)  # the last of an odd width is left alone


@pytest.mark.law("positions/sinusoidal", "a chunk is the slice of the whole", "bits")
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_chunk_equals_the_slice_of_the_whole_to_the_bit(name: str, dtype: Any) -> None:
    x, at = drawn(2, 70, 7, dtype=dtype), np.arange(5, 75)
    whole = SCHEMES[name].embed(x, at)
    for size in (1, 2, 3, 8, 33):
        parts = [SCHEMES[name].embed(x[:, n : n + size], at[n : n + size]) for n in range(0, 70, size)]
        assert np.concatenate(parts, axis=1).tobytes() == whole.tobytes()


@pytest.mark.law("positions/sinusoidal", "a shift is a rotation of sine and cosine", "bound")
def test_a_shift_turns_each_pair_by_an_angle_of_its_own() -> None:
    """What the paper chose the waves for: position + 9 is a linear function of position, the same everywhere."""
    at, frequencies = np.arange(50), np.array(geometric(6, 100.0))
    waves, moved = (PAPER.embed(np.zeros((50, 6)), at + by) for by in (0, 9))
    sine, cosine = waves[:, 0::2], waves[:, 1::2]
    assert np.allclose(moved[:, 0::2], sine * np.cos(9 * frequencies) + cosine * np.sin(9 * frequencies), atol=1e-14)
    assert np.allclose(moved[:, 1::2], cosine * np.cos(9 * frequencies) - sine * np.sin(9 * frequencies), atol=1e-14)


def test_positions_may_differ_between_sequences() -> None:
    x, at = drawn(2, 3, 6), np.array([[0, 1, 2], [9, 4, 4]])
    together = PAPER.embed(x, at)
    assert all((together[b] == PAPER.embed(x[b], at[b])).all() for b in range(2))


def test_what_is_passed_in_stays_as_it_is() -> None:
    x = drawn(2, 6)
    before = x.copy()
    PAPER.embed(x, np.array([3, 4]))
    assert (x == before).all()


@pytest.mark.law("positions/sinusoidal", "cost is count", "integers")
@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 7), (3, 0, 6)])
def test_the_cost_is_what_is_counted(name: str, shape: tuple[int, ...]) -> None:
    with counting() as counted:
        SCHEMES[name].embed(drawn(*shape), np.arange(shape[-2]))
    rows = math.prod(shape[:-1])
    assert counted.tally == SCHEMES[name].cost(rows=rows, positions=shape[-2])
    assert counted.transcendental == 6 * shape[-2]
    assert counted.arithmetic == 6 * rows + (3 + 6 * (name == "x-transformers")) * shape[-2]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: spanning(3), ArgumentError, r"^width must be an integer >= 4, got 3$"),
        (lambda: spanning(4, 0.0), ArgumentError, r"^base must be a finite number above 0, got 0\.0$"),
        (lambda: Sinusoidal.of(5), ArgumentError, r"^width must be even, got 5$"),
        (lambda: Sinusoidal(()), ArgumentError, r"^frequencies must be a non-empty sequence of finite numbers, got"),
        (
            lambda: Sinusoidal((1.0,), "interleaved"),  # type: ignore[arg-type]
            ArgumentError,
            r"^layout must be 'half' or 'adjacent', got 'interleaved'$",
        ),
        (lambda: Sinusoidal((1.0,), offset=True), ArgumentError, r"^offset must be an integer, got True$"),
        (lambda: Sinusoidal((1.0,), magnitude=0.0), ArgumentError, r"^magnitude must be a finite number above 0, got"),
        (lambda: PAPER.embed(drawn(2, 5), np.arange(2)), ShapeError, r"^x must have 6 features, or 7, got 5$"),
        (lambda: PAPER.embed(np.float64(1.0), 0), ShapeError, r"^x must have shape \[\.\.\., T, M\], got \(\)$"),  # type: ignore[arg-type]
        (
            lambda: PAPER.embed(drawn(2, 6), np.arange(3)),
            ShapeError,
            r"^positions must broadcast to x.shape\[:-1\], which is \(2,\), got \(3,\)$",
        ),
        (lambda: PAPER.embed(np.ones((2, 6), int), np.arange(2)), DtypeError, r"^x must be floating-point, got int64$"),
        (
            lambda: PAPER.embed(drawn(1, 6), np.array([True])),
            PositionError,
            r"^positions must be numbers, got dtype bool$",
        ),
    ],
    ids=range(12),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_it_is_a_value() -> None:
    assert Sinusoidal([1.0, 0.1]) == Sinusoidal.of(4, base=100.0)  # type: ignore[arg-type]
    assert hash(Sinusoidal.of(4)) == hash(Sinusoidal.of(4))
