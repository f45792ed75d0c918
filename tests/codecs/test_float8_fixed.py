"""Eight-bit floats under given scales: in fractions, head by head, and beyond the range."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.codecs import E4M3FN, E5M2, Float8Fixed, SmallFloat
from kvattn.errors import ArgumentError, ShapeError
from tests.codecs.cases import fractions, within
from tests.codecs.test_small_float import by_hand, positive


@pytest.mark.by_hand("codecs/float8_fixed")
@pytest.mark.parametrize("kind", [E4M3FN, E5M2], ids=str)
@pytest.mark.parametrize("scales", [(1.0,), (0.04,), (0.5, 3.0)])
def test_codes_and_numbers_by_hand(kind: SmallFloat, scales: Any) -> None:
    x = (np.random.default_rng(0).standard_normal((2, 5, 4)) * 100).astype(np.float32)
    exact, numbers = fractions(x), positive(kind)
    codec = Float8Fixed(kind, scales)
    codes = codec.encode(x)
    back = codec.decode(codes, np.float64)
    for at in np.ndindex(x.shape):
        scale = Fraction(float(np.float32(scales[at[0] % len(scales)])))
        code = by_hand(abs(exact[at]) / scale, numbers)
        assert codes.codes[at] == code + 128 * (exact[at] < 0)
        assert back[at] == float(numbers[code] * scale) * (-1 if exact[at] < 0 else 1)


def test_beyond_the_range_the_bound_is_the_distance() -> None:
    x = np.array([[[1000.0, -500.0, 448.0]]])
    codec = Float8Fixed()
    assert codec.decode(codec.encode(x), np.float64).tolist() == [[[448.0, -448.0, 448.0]]]
    assert np.allclose(codec.error(x), [[[552.0, 52.0, 16.0]]], rtol=1e-12)
    assert within(codec, x)


def test_as_many_scales_as_heads() -> None:
    with pytest.raises(ShapeError, match=r"^x must have 3 heads, one for each scale, got 2$"):
        Float8Fixed(scales=(1.0, 2.0, 3.0)).encode(np.ones((2, 1, 1)))


@pytest.mark.parametrize("scales", [(), (0.0,), (-1.0,), (float("nan"),), (1.0, 1e-60), "1"])
def test_scales_are_numbers_above_zero(scales: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^scales"):
        Float8Fixed(scales=scales)
