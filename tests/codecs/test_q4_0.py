"""q4_0: bytes by hand, the sign of the largest, the order of nibbles."""

import numpy as np
import pytest

from kvattn.codecs.q4_0 import Q4_0
from kvattn.errors import ArgumentError
from tests.codecs.cases import drawn, within
from tests.codecs.ggml import by_hand, q4_0

KINDS = ["normal", "outlier", "zeros", "constant", "negative", "halves", "powers"]


@pytest.mark.by_hand("codecs/q4_0")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exponent", [-140, -30, -18, 0, 14])
def test_bytes_by_hand(kind: str, exponent: int) -> None:
    x = drawn(kind, 5, (2, 2, 64), exponent, np.float32)
    assert Q4_0().encode(x).blocks.ravel().tolist() == by_hand(q4_0, x)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_is_exact_and_its_opposite_loses_a_scale(sign: float) -> None:
    x = np.zeros((1, 1, 32))
    x[..., 3], x[..., 20] = 8.0 * sign, -8.0 * sign
    back = Q4_0().decode(Q4_0().encode(x), np.float64)
    assert (back[0, 0, 3], back[0, 0, 20]) == (8.0 * sign, -7.0 * sign)
    assert within(Q4_0(), x)
    assert 1.0 <= Q4_0().error(x)[0, 0, 20] < 1.01


def test_channels_sixteen_apart_share_a_byte() -> None:
    x = np.zeros((1, 1, 32))
    x[..., 0], x[..., 1], x[..., 17] = -8.0, 1.0, 2.0
    assert Q4_0().encode(x).blocks[0, 0, 2:4].tolist() == [0x80, 0x9 + 16 * 0xA]


def test_scales_beyond_float16_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^x must have scales in the range of float16, got -1.25e\+06$"):
        Q4_0().encode(np.full((1, 1, 32), 1e7))
