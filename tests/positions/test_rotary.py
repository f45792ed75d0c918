"""Rotary positions: the turn itself, what it leaves alone, and to the last bit what does not depend on company."""

import cmath
from dataclasses import dataclass
from itertools import pairwise
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.positions import Rotary, geometric

LAYOUTS: Any = ["half", "adjacent"]
places = st.integers(-(10**6), 10**6)


def by_hand(rotary: Rotary, x: Any, positions: list[int]) -> list[list[float]]:
    """Turn each pair as a complex number, token by token, in Python floats."""
    r, out = 2 * len(rotary.frequencies), [[float(v) for v in row] for row in x]
    for row, position in zip(out, positions, strict=True):
        first = rotary.start % len(row) if rotary.start < 0 else rotary.start
        for k, frequency in enumerate(rotary.frequencies):
            a, b = (k, k + r // 2) if rotary.layout == "half" else (2 * k, 2 * k + 1)
            turned = complex(row[first + a], row[first + b]) * cmath.rect(rotary.magnitude, position * frequency)
            row[first + a], row[first + b] = turned.real, turned.imag
    return out


def drawn(*shape: int, dtype: Any = np.float64, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def bound(x: Any, magnitude: float = 1.0) -> float:
    """What rounding can do to one turn, derived step by step.

    Both sides hold the same float64 angle.  Cosine and sine: at most 4 ulp in NumPy and 1 in the C
    library, 5u in all, and u to round them to the dtype; two products and a sum: u each, so 3u.  With
    the magnitude 2u more: under 12u of magnitude times (abs(a) + abs(b)) <= 2 · max abs(x).
    """
    u = float(np.finfo(x.dtype).eps) / 2
    return 12 * u * 2 * magnitude * float(np.abs(x).max())


@pytest.mark.by_hand("positions/rotary")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("width", "start"), [(2, 0), (6, 0), (4, 0), (4, 2), (4, -4), (2, -4)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_complex_numbers_by_hand(layout: Any, width: int, start: int, dtype: Any) -> None:
    rotary = Rotary.of(width, base=100.0, layout=layout, start=start, magnitude=1.25)
    positions = [0, 1, -3, 70, 4095, 1_000_003]
    x = drawn(6, 6, dtype=dtype)
    turned = rotary.rotate(x, np.array(positions))
    assert turned.dtype == dtype
    assert np.abs(turned - np.array(by_hand(rotary, x, positions))).max() <= bound(x, 1.25)


@pytest.mark.parametrize(
    "mutant",
    [
        Rotary.of(4, base=100.0, layout="adjacent"),
        Rotary.of(4, base=101.0),
        Rotary(geometric(6, 100.0)[:2]),
        Rotary.of(4, base=100.0, start=2),
        Rotary.of(4, base=100.0, magnitude=1.001),
        Rotary(tuple(-f for f in geometric(4, 100.0))),
        Rotary(geometric(4, 100.0)[::-1]),
    ],
    ids=["layout", "base", "exponent over D in place of r", "place", "magnitude", "sense of turning", "order"],
)
def test_another_rotation_is_rejected(mutant: Rotary) -> None:
    x, positions = drawn(3, 6), [1, 5, 9]
    expected = np.array(by_hand(Rotary.of(4, base=100.0), x, positions))
    assert np.abs(Rotary.of(4, base=100.0).rotate(x, np.array(positions)) - expected).max() <= bound(x)
    assert np.abs(mutant.rotate(x, np.array(positions)) - expected).max() > 1e6 * bound(x)


def test_frequencies_are_the_papers() -> None:
    for width, base in ((2, 10000.0), (8, 10000.0), (128, 500000.0)):
        expected = [math.exp(-math.log(base) * 2 * k / width) for k in range(width // 2)]
        assert np.allclose(geometric(width, base), expected, rtol=1e-14, atol=0)
    assert Rotary.of(8).frequencies == geometric(8, 10000.0)


@dataclass(frozen=True)
class TwoTurns:
    """Mutant: turns to the first token of the call, and from there on; right within rounding only."""

    rotary: Rotary

    def rotate(self, x: Any, positions: Any) -> Any:
        return self.rotary.shift(self.rotary.rotate(x, positions[:1]), positions - positions[0])


@dataclass(frozen=True)
class Renumbered:
    """Mutant: positions are row numbers."""

    rotary: Rotary

    def rotate(self, x: Any, positions: Any) -> Any:
        return self.rotary.rotate(x, np.arange(len(positions)))


def same_when_cut(rotary: Any, x: Any, positions: Any, cuts: list[int]) -> bool:
    ends = [0, *sorted(min(c, len(positions)) for c in cuts), len(positions)]
    parts = [rotary.rotate(x[..., i:j, :], positions[i:j]) for i, j in pairwise(ends) if i < j]
    return bool(np.concatenate(parts, -2).tobytes() == rotary.rotate(x, positions).tobytes())


@given(
    st.sampled_from([np.float64, np.float32]),
    st.sampled_from(LAYOUTS),
    st.integers(1, 9),
    st.lists(places, min_size=1, max_size=70),
    st.lists(st.integers(0, 70), max_size=6),
    st.integers(0, 99),
)
def test_a_chunk_equals_the_slice_of_the_whole_to_the_bit(
    dtype: Any, layout: Any, pairs: int, positions: list[int], cuts: list[int], seed: int
) -> None:
    x = drawn(2, len(positions), 2 * pairs + 1, dtype=dtype, seed=seed)
    assert same_when_cut(Rotary.of(2 * pairs, layout=layout, start=1), x, np.array(positions), cuts)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("pairs", [1, 2, 3, 32])
def test_one_token_at_a_time_equals_the_whole_to_the_bit(dtype: Any, pairs: int) -> None:
    positions = np.concatenate([np.arange(7, 150), [10**5, 10**7, 2**40 + 1]])
    rotary, x = Rotary.of(2 * pairs), drawn(len(positions), 2 * pairs, dtype=dtype)
    assert same_when_cut(rotary, x, positions, list(range(1, len(positions))))
    for mutant in (TwoTurns(rotary), Renumbered(rotary)):
        assert not same_when_cut(mutant, x, positions, list(range(1, len(positions))))


@pytest.mark.law("positions/rotary", "a moved row equals a fresh one there", "bound")
@given(places, places, st.sampled_from(LAYOUTS), st.sampled_from([np.float64, np.float32]))
def test_a_moved_row_equals_a_fresh_one_there(position: int, by: int, layout: Any, dtype: Any) -> None:
    """Within: three turns' rounding, and the rounding of three angles in float64, each u·abs(angle)."""
    rotary, x = Rotary.of(6, layout=layout, magnitude=1.25), drawn(1, 6, dtype=dtype)
    moved = rotary.shift(rotary.rotate(x, np.array([position])), np.array([by]))
    fresh = rotary.rotate(x, np.array([position + by]))
    angles = 2.0**-53 * (abs(position) + abs(by) + abs(position + by))
    allowed = 3 * bound(x, 1.25 * math.sqrt(2)) + angles * 1.25 * 2 * float(np.abs(x).max())
    assert np.abs(moved - fresh).max() <= allowed
    assert np.abs(rotary.shift(fresh, np.array([1])) - fresh).max() > allowed


@given(places, st.sampled_from(LAYOUTS), st.floats(0.1, 10))
def test_unrotate_undoes_rotate(position: int, layout: Any, magnitude: float) -> None:
    rotary, x = Rotary.of(6, layout=layout, magnitude=magnitude), drawn(1, 8)
    back = rotary.unrotate(rotary.rotate(x, np.array([position])), np.array([position]))
    assert np.abs(back - x).max() <= 2 * bound(x, math.sqrt(2))
    assert (back[:, 6:] == x[:, 6:]).all()


@given(places, places, places, st.sampled_from(LAYOUTS))
def test_a_score_depends_on_the_difference_alone(q: int, k: int, by: int, layout: Any) -> None:
    rotary, x, y = Rotary.of(8, layout=layout), drawn(1, 8), drawn(1, 8, seed=1)
    here, there = (
        float((rotary.rotate(x, np.array([q + d])) * rotary.rotate(y, np.array([k + d]))).sum()) for d in (0, by)
    )
    angles = 2.0**-53 * (abs(q) + abs(k) + abs(q + by) + abs(k + by))
    largest = float(np.abs(x).max() * np.abs(y).max()) * 8
    assert abs(here - there) <= largest * (2 * angles + 64 * 2.0**-52)


def test_position_zero_changes_nothing_and_every_other_does() -> None:
    x = drawn(2, 4)
    assert (Rotary.of(4).rotate(x, np.array([0, 0])) == x).all()
    assert (Rotary.of(4).rotate(x, np.array([1, -1])) != x).all()


def test_features_outside_pass_through_to_the_bit() -> None:
    x = drawn(5, 9)
    turned = Rotary.of(4, start=2).rotate(x, np.arange(5))
    assert (turned[:, [0, 1, 6, 7, 8]] == x[:, [0, 1, 6, 7, 8]]).all()
    assert (turned[1:, 2:6] != x[1:, 2:6]).all()
    trailing = Rotary.of(4, start=-4).rotate(x, np.arange(5))
    assert (trailing[:, :5] == x[:, :5]).all()
    assert (trailing[:, 5:] == Rotary.of(4).rotate(x[:, 5:], np.arange(5))).all()


def test_a_frequency_of_zero_leaves_its_pair() -> None:
    x = drawn(1, 4)
    turned = Rotary((0.5, 0.0)).rotate(x, np.array([3]))
    assert (turned[:, [1, 3]] == x[:, [1, 3]]).all()
    assert (turned[:, [0, 2]] != x[:, [0, 2]]).all()


def test_the_layouts_are_one_rotation_of_permuted_features() -> None:
    x, at, order = drawn(5, 6), np.arange(5), [0, 3, 1, 4, 2, 5]
    adjacent, half = Rotary.of(6, layout="adjacent"), Rotary.of(6, layout="half")
    assert (adjacent.rotate(x[:, order], at) == half.rotate(x, at)[:, order]).all()


def test_positions_may_differ_between_sequences() -> None:
    x, at = drawn(2, 3, 4, 6), np.array([[[0, 1, 2, 3]], [[7, 7, 5, 6]]])
    rotary = Rotary.of(6)
    together = rotary.rotate(x, at)
    for b in range(2):
        for h in range(3):
            assert (together[b, h] == rotary.rotate(x[b, h], at[b, 0])).all()


def test_several_coordinates_turn_the_pairs_that_follow_them() -> None:
    rotary = Rotary((1.0, 0.5, 0.25), axes=(0, 2, 0))
    x, at = drawn(2, 4, 6), np.array([[0, 1, 2, 3], [9, 9, 9, 9], [5, 0, -5, 7]])
    turned = rotary.rotate(x, at[:, None, :])
    for t in range(4):
        by_pair = [Rotary((0.0,) * k + (rotary.frequencies[k],) + (0.0,) * (2 - k)) for k in range(3)]
        expected = x[:, t]
        for k, axis in enumerate((0, 2, 0)):
            expected = by_pair[k].rotate(expected, at[axis, t])
        assert (turned[:, t] == expected).all()


def test_equal_coordinates_are_one_position() -> None:
    x, at = drawn(4, 6), np.arange(4)
    manifold = Rotary(geometric(6), axes=(0, 1, 2))
    assert (manifold.rotate(x, np.stack([at] * 3)) == Rotary.of(6).rotate(x, at)).all()


def test_no_tokens_and_strided_rows_work() -> None:
    rotary, x = Rotary.of(4), drawn(6, 2, 4)
    assert rotary.rotate(x[:, :0], np.arange(0)).shape == (6, 0, 4)
    assert (rotary.rotate(x[::2, ::-1], np.arange(2)) == rotary.rotate(x[::2, ::-1].copy(), np.arange(2))).all()


def test_what_is_passed_in_stays_as_it_is() -> None:
    x = drawn(2, 4)
    before = x.copy()
    Rotary.of(4).rotate(x, np.array([3, 4]))
    assert (x == before).all()


@pytest.mark.parametrize("magnitude", [1.0, 1.5])
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 5, 8), (1, 0, 6)])
def test_the_cost_is_what_is_counted(magnitude: float, shape: tuple[int, ...]) -> None:
    rotary = Rotary.of(6, magnitude=magnitude)
    with counting() as counted:
        rotary.rotate(drawn(*shape), np.arange(shape[-2]))
    tally = rotary.cost(rows=math.prod(shape[:-1]), positions=shape[-2])
    assert counted.tally == tally
    pairs = 3
    assert tally.transcendental == shape[-2] * pairs * 2
    per_position = pairs * (1 if magnitude == 1.0 else 3)
    assert tally.arithmetic == math.prod(shape[:-1]) * pairs * 6 + shape[-2] * per_position


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Rotary.of(3), "^width must be even, got 3$"),
        (lambda: Rotary.of(0), r"^width must be an integer >= 2, got 0$"),
        (lambda: Rotary.of(True), r"^width must be an integer >= 2, got True$"),
        (lambda: Rotary.of(4, base=0.0), r"^base must be a finite number above 0, got 0\.0$"),
        (lambda: Rotary.of(4, base=math.inf), "^base must be a finite number above 0, got inf$"),
        (lambda: Rotary.of(4, layout="neox"), "^layout must be 'half' or 'adjacent', got 'neox'$"),  # type: ignore[arg-type]
        (lambda: Rotary.of(4, magnitude=0.0), r"^magnitude must be a finite number above 0, got 0\.0$"),
        (lambda: Rotary.of(4, start=1.0), r"^start must be an integer, got 1\.0$"),  # type: ignore[arg-type]
        (lambda: Rotary(()), r"^frequencies must be a non-empty sequence of finite numbers, got \(\)$"),
        (lambda: Rotary((math.nan,)), r"^frequencies\[0\] must be a finite number, got nan$"),
        (lambda: Rotary(0.5), r"^frequencies must be a non-empty sequence of finite numbers, got 0\.5$"),  # type: ignore[arg-type]
        (lambda: Rotary((1.0,), axes=(0, 1)), "^axes must name one axis for each of 1 frequencies, got 2$"),
        (lambda: Rotary((1.0,), axes=(-1,)), r"^axes\[0\] must be an integer >= 0, got -1$"),
    ],
    ids=range(13),
)
def test_a_bad_parameter_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


@pytest.mark.parametrize(
    ("rotary", "shape", "positions", "words"),
    [
        (Rotary.of(4), (2, 3), [0, 1], r"^x must have room for 4 features from start=0 on, got 3 features$"),
        (Rotary.of(4, start=1), (2, 4), [0, 1], r"^x must have room for 4 features from start=1 on, got 4 features$"),
        (Rotary.of(4, start=-2), (2, 4), [0, 1], r"^x must have room for 4 features from start=-2 on, got 4"),
        (Rotary.of(4, start=-6), (2, 4), [0, 1], r"^x must have room for 4 features from start=-6 on, got 4"),
        (Rotary.of(4), (2, 4), [0, 1, 2], r"^positions must broadcast to x.shape\[:-1\], which is \(2,\), got \(3,\)$"),
        (Rotary.of(4), (1, 4), [0, 1, 2], r"^positions must broadcast to x.shape\[:-1\], which is \(1,\), got \(3,\)$"),
        (
            Rotary.of(4),
            (2, 4),
            [[0, 1]],
            r"^positions must broadcast to x.shape\[:-1\], which is \(2,\), got \(1, ",
        ),
        (Rotary((1.0,), axes=(2,)), (2, 4), [[0, 1]], r"^positions must have 3 coordinates on axis 0, got \(1, 2\)$"),
        (Rotary((1.0,), axes=(0,)), (2, 4), 5, r"^positions must have 1 coordinates on axis 0, got \(\)$"),
        (Rotary.of(4), (), 5, r"^x must have shape \[\.\.\., T, D\], got \(\)$"),
    ],
    ids=range(10),
)
def test_shapes_that_do_not_fit_are_named(rotary: Rotary, shape: Any, positions: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        rotary.rotate(np.ones(shape), np.array(positions))


def test_kinds_that_do_not_fit_are_named() -> None:
    with pytest.raises(DtypeError, match=r"^x must be floating-point, got int64$"):
        Rotary.of(2).rotate(np.ones((1, 2), int), np.array([0]))
    with pytest.raises(DtypeError, match=r"^positions must be numbers, got bool$"):
        Rotary.of(2).rotate(np.ones((1, 2)), np.array([True]))


def test_it_is_a_value() -> None:
    rotary = Rotary(np.array([1.0, 0.5]), start=np.int64(1))  # type: ignore[arg-type]
    assert rotary == Rotary((1.0, 0.5), start=1)
    assert hash(rotary) == hash(Rotary((1.0, 0.5), start=1))
    assert repr(rotary) == "Rotary(frequencies=(1.0, 0.5), layout='half', magnitude=1.0, start=1, axes=None)"
    assert rotary.width == 4
