"""Unsigned integers with a zero point: in fractions, and that zero is exact."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.codecs import Sharing, ZeroPoint
from tests.codecs.integers import BOXES, by_hand, rows, sharing_of, zero_point_box


@pytest.mark.by_hand("codecs/zero_point")
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_scales_and_zero_points_by_hand(bits: int, dtype: Any, kind: int) -> None:
    x = rows(kind)
    for box in BOXES:
        found = ZeroPoint(bits, Sharing(*sharing_of(box)), dtype).encode(x)
        packed, scales, zeros = by_hand(zero_point_box, x, bits, box, dtype)
        assert np.array_equal(found.codes, packed)
        assert np.array_equal(found.scales.astype(float), scales)
        assert np.array_equal(found.zeros, zeros)


@given(st.integers(0, 2**32), st.sampled_from([2, 4, 8]), st.floats(-3, 3))
def test_zero_is_exact_wherever_the_numbers_lie(seed: int, bits: int, offset: float) -> None:
    x = np.random.default_rng(seed).standard_normal((1, 3, 8)) + offset
    x[..., 3] = 0.0
    codec = ZeroPoint(bits)
    assert not codec.decode(codec.encode(x), np.float64)[..., 3].any()


def test_a_group_far_from_zero_pays_for_it() -> None:
    x = np.linspace(100.0, 101.0, 8).reshape(1, 1, 8)
    assert ZeroPoint(8).encode(x).codes.min() == 252  # four codes of 256 are left for the numbers
