"""Signed integers times a scale: in fractions, and that zero is exact."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.codecs import Sharing, Symmetric
from kvattn.errors import ArgumentError, DtypeError
from tests.codecs.integers import BOXES, by_hand, rows, sharing_of, symmetric_box


@pytest.mark.by_hand("codecs/symmetric")
@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_and_scales_by_hand(bits: int, dtype: Any, kind: int) -> None:
    x = rows(kind)
    for box in BOXES:
        codec = Symmetric(bits, Sharing(*sharing_of(box)), dtype)
        found = codec.encode(x)
        packed, scales, _ = by_hand(symmetric_box, x, bits, box, dtype)
        assert np.array_equal(found.codes.view(np.uint8), packed)
        assert found.scales.dtype == dtype
        assert np.array_equal(found.scales.astype(float), scales)
        signed = codec.decode(found, np.float64)
        wide = codec.sharing.spread(scales, x.shape)
        steps = np.divide(signed, wide, out=np.zeros(x.shape), where=wide > 0)
        assert np.array_equal(steps, np.rint(steps))


@given(st.integers(0, 2**32), st.sampled_from([2, 4, 8]))
def test_zero_is_exact_and_signs_mirror(seed: int, bits: int) -> None:
    x = np.random.default_rng(seed).standard_normal((1, 3, 8))
    x[..., 3] = 0.0
    codec = Symmetric(bits)
    back = codec.decode(codec.encode(x), np.float64)
    assert not back[..., 3].any()
    assert np.array_equal(codec.decode(codec.encode(-x), np.float64), -back)


def test_the_lowest_code_is_never_written() -> None:
    x = np.random.default_rng(0).standard_normal((1, 1000, 8))
    assert Symmetric(8).encode(x).codes.min() == -127
    low_nibbles = Symmetric(4).encode(x).codes & 15
    assert not (low_nibbles == 8).any()


def test_unequal_heads_keep_their_own_scales() -> None:
    x = np.ones((3, 2, 4)) * np.array([1.0, 1e-3, 1e6])[:, None, None]
    codes = Symmetric(8).encode(x)
    assert np.array_equal(codes.codes, np.full((3, 2, 4), 127))
    assert np.allclose(codes.scales[:, 0, 0] * 127, [1.0, 1e-3, 1e6])


@pytest.mark.parametrize("scales", [np.float64, np.int8, "no such thing"])
def test_scales_are_kept_in_two_dtypes(scales: Any) -> None:
    with pytest.raises(DtypeError, match=r"^scales must be kept in float32 or float16, got "):
        Symmetric(8, scales=scales)
    with pytest.raises(ArgumentError, match=r"^bits must be 2, 4 or 8, got 5$"):
        Symmetric(5)
