"""Unsigned integers above the minimum: in fractions, constants, and groups far from zero."""

from typing import Any

import numpy as np
import pytest

from kvattn.codecs import Minimum, Sharing
from tests.codecs.integers import BOXES, by_hand, minimum_box, rows, sharing_of


@pytest.mark.by_hand("codecs/minimum")
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_scales_and_minima_by_hand(bits: int, dtype: Any, kind: int) -> None:
    x = rows(kind)
    for box in BOXES:
        codec = Minimum(bits, Sharing(*sharing_of(box)), dtype)
        found = codec.encode(x)
        packed, scales, zeros = by_hand(minimum_box, x, bits, box, dtype)
        assert np.array_equal(found.codes, packed)
        assert np.array_equal(found.scales.astype(float), scales)
        assert found.zeros.dtype == dtype
        assert np.array_equal(found.zeros.astype(float), zeros)


def test_a_constant_group_is_its_minimum() -> None:
    codec = Minimum(2)
    codes = codec.encode(np.full((1, 1, 4), 0.75))
    assert not codes.scales.any()
    assert np.array_equal(codec.decode(codes, np.float32), np.full((1, 1, 4), 0.75, np.float32))


def test_all_levels_serve_a_group_far_from_zero() -> None:
    x = np.linspace(100.0, 101.0, 256).reshape(1, 1, 256)
    codec = Minimum(8)
    assert np.array_equal(codec.encode(x).codes.ravel(), np.arange(256))
    assert np.abs(codec.decode(codec.encode(x), np.float64) - x).max() < 1e-5


def test_where_rounding_the_minimum_costs_more_than_a_step() -> None:
    """In float16 1000.3 becomes 1000.5: the bound says so, and half a step would not."""
    x = np.array([[[1000.3, 1000.35]]])
    codec = Minimum(8, scales=np.float16)
    lost = np.abs(codec.decode(codec.encode(x), np.float64) - x)
    assert (lost <= codec.error(x)).all()
    assert lost.max() > 0.1 > 0.05 / 255
