"""Codes in bytes: every code, every place, and the order."""

import itertools
from typing import Any

import numpy as np
import pytest

from kvattn.codecs.packing import pack, unpack, unpack_signed, width_of
from kvattn.errors import ArgumentError, ShapeError
from tests.codecs.cases import low_bits_first


@pytest.mark.by_hand("codecs/packing")
@pytest.mark.law("codecs/packing", "every byte comes back, and so do its codes", "bits")
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_byte_by_hand(bits: int) -> None:
    each = 8 // bits
    codes = np.array(list(itertools.product(range(2**bits), repeat=each)), np.uint8)
    packed = pack(codes, bits)
    assert packed.ravel().tolist() == low_bits_first(codes.ravel().tolist(), bits)
    assert sorted(packed.ravel().tolist()) == list(range(256))
    assert np.array_equal(unpack(packed, bits), codes)
    signed = unpack_signed(packed, bits)
    assert np.array_equal(signed, np.where(codes >= 2 ** (bits - 1), codes.astype(int) - 2**bits, codes))
    assert np.array_equal(pack(signed, bits), packed)


def test_the_first_stands_in_the_lowest_bits() -> None:
    assert pack(np.array([[1, 0, 0, 0]]), 2).tolist() == [[1]]
    assert pack(np.array([[0, 1]]), 4).tolist() == [[16]]


def test_what_does_not_fill_a_byte_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"^x must have a width that is a multiple of 4 for 2 bits, got 6$"):
        pack(np.zeros((1, 6), np.uint8), 2)


@pytest.mark.parametrize("bits", [0, 1, 3, 16, True, 4.0])
def test_other_bits_are_refused(bits: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^bits must be "):
        width_of(bits)
