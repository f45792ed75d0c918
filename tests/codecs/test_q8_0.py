"""q8_0: bytes by hand, ties away from zero, and blocks too small for their scale."""

import numpy as np
import pytest

from kvattn.codecs.q8_0 import Q8_0
from kvattn.errors import ArgumentError
from tests.codecs.cases import drawn, within
from tests.codecs.ggml import by_hand, q8_0

KINDS = ["normal", "outlier", "zeros", "constant", "negative", "halves", "powers"]


@pytest.mark.by_hand("codecs/q8_0")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exponent", [-140, -30, -18, 0, 16])
def test_bytes_by_hand(kind: str, exponent: int) -> None:
    x = drawn(kind, 5, (2, 2, 64), exponent, np.float32)
    assert Q8_0().encode(x).blocks.ravel().tolist() == by_hand(q8_0, x)


def test_halves_go_away_from_zero() -> None:
    x = np.zeros((1, 1, 32))
    x[..., :5] = 127.0, 0.5, -0.5, 1.5, 2.5
    assert Q8_0().encode(x).blocks[0, 0, 2:7].view(np.int8).tolist() == [127, 1, -1, 2, 3]


def test_scales_beyond_float16_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^x must have scales in the range of float16, got 7.87e\+04$"):
        Q8_0().encode(np.full((1, 1, 32), 1e7))


def test_small_blocks_vanish_within_the_bound() -> None:
    x = np.full((1, 1, 32), 2.0**-24)
    assert not Q8_0().decode(Q8_0().encode(x), np.float64).any()
    assert within(Q8_0(), x)
