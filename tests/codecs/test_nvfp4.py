"""NVFP4: blocks by hand, the scale of all, saturation and vanishing blocks."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.codecs.nvfp4 import NVFP4, tensor_scale
from kvattn.codecs.small_float import E2M1, E4M3FN
from kvattn.errors import ArgumentError
from tests.codecs.cases import drawn, fractions, low_bits_first, within
from tests.codecs.test_small_float import by_hand, positive

NUMBERS, SCALES = positive(E2M1), positive(E4M3FN)


def by_hand_rows(x: Any, scale: float) -> tuple[Any, Any]:
    """Bytes and block scales."""
    packed, scales = [], []
    for block in fractions(x).reshape(-1, 16):
        code = by_hand(max(map(abs, block)) / 6 / Fraction(scale), SCALES)
        unit = SCALES[code] * Fraction(scale)
        codes = [by_hand(abs(x) / unit, NUMBERS) + 8 * (x < 0) if unit else 0 for x in block]
        packed += low_bits_first(codes, 4)
        scales.append(code)
    lead = x.shape[:-1]
    return np.array(packed).reshape(*lead, x.shape[-1] // 2), np.array(scales).reshape(*lead, x.shape[-1] // 16)


@pytest.mark.by_hand("codecs/nvfp4")
@pytest.mark.parametrize("kind", ["normal", "outlier", "constant", "powers", "unequal heads"])
@pytest.mark.parametrize("times", [1.0, 0.25, 1e4])
def test_blocks_by_hand(kind: str, times: float) -> None:
    x = drawn(kind, 3, (2, 3, 32), 0, np.float32)
    x[x == 0] = 0.0  # -0 keeps its sign, fractions do not
    codec = NVFP4(tensor_scale(x) * times)
    found = codec.encode(x)
    packed, scales = by_hand_rows(x, codec.scale)
    assert np.array_equal(found.scales, scales)
    live = np.repeat(scales > 0, 8, -1)
    assert np.array_equal(found.codes[live], packed[live])
    assert not codec.decode(found, np.float64)[np.repeat(scales == 0, 16, -1)].any()


def test_the_scale_of_all_uses_the_whole_range() -> None:
    x = drawn("normal", 0, (2, 9, 32), 5, np.float64)
    codec = NVFP4(tensor_scale(x))
    assert codec.encode(x).scales.max() == 0x7E  # 448
    assert within(codec, x)


def test_larger_numbers_saturate_and_the_bound_says_by_how_much() -> None:
    x = np.full((1, 1, 16), 5000.0)
    codec = NVFP4(1.0)
    assert (codec.decode(codec.encode(x), np.float64) == 448.0 * 6).all()
    assert np.allclose(codec.error(x), 5000 - 448 * 6)


def test_zeros_have_a_scale_too() -> None:
    assert tensor_scale(np.zeros((1, 1, 16))) == 1.0
    assert tensor_scale(np.full((1, 1, 16), 2.0**-149)) == 1.0
    with pytest.raises(ArgumentError, match=r"^x must have a scale in the range of float32, got "):
        tensor_scale(np.full((1, 1, 16), 1e300))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-60, "1"])
def test_a_scale_is_a_number_above_zero(scale: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^scale must be a finite number above 0, got "):
        NVFP4(scale)
