"""The rotation: against the matrix, its own inverse, and what it does for an outlier."""

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.codecs import Float8, Minimum, Symmetric
from kvattn.codecs.hadamard import Rotated, hadamard
from kvattn.errors import ShapeError
from tests.codecs.cases import fractions, within


def by_hand(row: Any) -> list[Fraction]:
    """Sum with the sign of the parity of common bits, before the division by the root."""
    exact = fractions(row)
    return [sum((-1) ** (i & j).bit_count() * x for j, x in enumerate(exact)) for i in range(len(exact))]


@pytest.mark.by_hand("codecs/hadamard")
@pytest.mark.parametrize("width", [1, 2, 4, 16, 64])
def test_rotation_by_hand(width: int) -> None:
    row = np.random.default_rng(width).standard_normal(width)
    wanted = [float(x) / width**0.5 for x in by_hand(row)]
    rounding = (width.bit_length() + 2) * 2.0**-53 * np.abs(row).sum()
    assert np.abs(hadamard(row) - wanted).max() <= rounding


@pytest.mark.law("codecs/hadamard", "turned twice is not turned", "bound")
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 8, 64, 256]))
def test_turned_twice_is_not_turned(seed: int, width: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, width))
    limit = (width.bit_length() + 2) * 2.0**-51 * np.abs(x).sum(-1, keepdims=True)
    assert (np.abs(hadamard(hadamard(x)) - x) <= limit).all()


def test_integers_turn_exactly() -> None:
    """Rows of small integers and a width whose root is a power of two: no rounding anywhere."""
    x = np.random.default_rng(0).integers(-50, 50, (2, 3, 64)).astype(float)
    assert np.array_equal(hadamard(hadamard(x)), x)
    wanted = [[[float(s / 8) for s in by_hand(row)] for row in head] for head in x]
    assert hadamard(x).tolist() == wanted


def test_scores_of_rotated_queries_and_keys_are_the_same() -> None:
    q, k = np.random.default_rng(0).integers(-9, 9, (2, 5, 16)).astype(float)
    assert np.array_equal(hadamard(q) @ hadamard(k).T, q @ k.T)


def test_an_outlier_no_longer_costs_the_others() -> None:
    """One channel holds A = 256, the others ±1, eight bits, D = 256.

    Unrotated the scale is 256/127, half of it more than 1: all others come back as 0, an error of sqrt(255) = 16 in
    all.  Rotated, no number exceeds (256 + 255) / 16, so each of 256 is off by at most 511 / 16 / 127 / 2, and turning
    back leaves the length of the error alone: 16 · 0.126 = 2.01 in all.
    """
    x = np.random.default_rng(0).choice([-1.0, 1.0], (1, 1, 256))
    x[..., 7] = 256.0
    plain, rotated = Symmetric(8), Rotated(Symmetric(8))
    lost = [np.linalg.norm(codec.decode(codec.encode(x), np.float64) - x) for codec in (plain, rotated)]
    assert lost[0] == pytest.approx(255**0.5, rel=1e-6)
    assert lost[1] <= 16 * (256 + 255) / 16 / 127 / 2 * (1 + 1e-6)


@pytest.mark.parametrize("codec", [Symmetric(4), Minimum(4), Float8()], ids=repr)
def test_a_lone_outlier_is_spread_evenly(codec: Any) -> None:
    x = np.zeros((1, 1, 64))
    x[..., 11] = 80.0
    rotated = Rotated(codec)
    assert within(rotated, x)
    assert np.abs(rotated.decode(rotated.encode(x), np.float64) - x).max() < 1e-4


@pytest.mark.parametrize("width", [3, 12, 96])
def test_other_widths_are_refused(width: int) -> None:
    codec = Rotated(Symmetric(8))
    for verb in (codec.encode, codec.error):
        with pytest.raises(ShapeError, match=f"^x must have a width that is a power of two, got {width}$"):
            verb(np.ones((1, 1, width)))
    with pytest.raises(ShapeError, match=f"^x must have a width that is a power of two, got {width}$"):
        codec.parts((1, 1, width))
