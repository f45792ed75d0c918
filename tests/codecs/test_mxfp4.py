"""MXFP4: blocks by hand, exponents at every power of two, saturation."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.codecs.mxfp4 import MXFP4
from kvattn.codecs.small_float import E2M1
from kvattn.errors import ArgumentError
from tests.codecs.cases import drawn, fractions, low_bits_first, within
from tests.codecs.test_small_float import by_hand, positive

NUMBERS = positive(E2M1)


def block_by_hand(block: list[Fraction]) -> tuple[list[int], int]:
    """Codes and the scale's byte."""
    most = max(map(abs, block))
    exponent = -127
    while most and most >= Fraction(2) ** (exponent + 3):
        exponent += 1
    codes = [by_hand(abs(x) / Fraction(2) ** exponent, NUMBERS) + 8 * (x < 0) for x in block]
    return codes, exponent + 127


def by_hand_rows(x: Any) -> tuple[Any, Any]:
    exact = fractions(x)
    packed, scales = [], []
    for row in exact.reshape(-1, 32):
        codes, scale = block_by_hand(list(row))
        packed += low_bits_first(codes, 4)
        scales.append(scale)
    lead = x.shape[:-1]
    return np.array(packed).reshape(*lead, x.shape[-1] // 2), np.array(scales).reshape(*lead, x.shape[-1] // 32)


@pytest.mark.by_hand("codecs/mxfp4")
@pytest.mark.parametrize("kind", ["normal", "outlier", "zeros", "constant", "powers"])
@pytest.mark.parametrize("exponent", [-149, -127, -3, 0, 100])
def test_blocks_by_hand(kind: str, exponent: int) -> None:
    x = drawn(kind, 3, (2, 3, 64), exponent, np.float32)
    x[x == 0] = 0.0  # -0 keeps its sign, fractions do not
    found = MXFP4().encode(x)
    packed, scales = by_hand_rows(x)
    assert np.array_equal(found.codes, packed)
    assert np.array_equal(found.scales, scales)


@pytest.mark.parametrize("exponent", range(-149, 130))
def test_the_largest_of_a_block_lands_from_four_to_eight(exponent: int) -> None:
    for most in (2.0**exponent, np.nextafter(2.0**exponent, 0.0)):
        x = np.full((1, 1, 32), most)
        scale = int(MXFP4().encode(x).scales[0, 0, 0]) - 127
        assert scale == -127 or 4 <= most / 2.0**scale < 8
        assert within(MXFP4(), x)


def test_above_six_it_saturates_and_beyond_the_scales_it_is_refused() -> None:
    x = np.full((1, 1, 32), 7.9)
    assert (MXFP4().decode(MXFP4().encode(x), np.float64) == 6.0).all()
    with pytest.raises(ArgumentError, match=r"^x must be below 2\*\*130 in size, which E8M0 scales reach, got 1.36"):
        MXFP4().encode(np.full((1, 1, 32), 2.0**130))


def test_at_most_a_quarter_of_the_largest_is_lost() -> None:
    x = drawn("normal", 0, (1, 500, 32), 0, np.float64)
    assert (MXFP4().error(x) <= np.abs(x).max(-1, keepdims=True) / 4 * (1 + 1e-9)).all()


def test_scale_255_is_nan() -> None:
    codes = MXFP4().encode(np.ones((1, 1, 32)))
    assert np.isnan(MXFP4().decode(codes._replace(scales=np.full((1, 1, 1), 255, np.uint8)), np.float64)).all()
