"""Blocks stand at multiples of 256 slots, whoever stores them."""

import numpy as np
import pytest

from kvattn.caches.blocks import BLOCK, blocks_of


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 44])
def test_every_row_stands_in_its_column_and_the_rest_is_zero(length: int) -> None:
    k = np.arange(2.0 * length * 3).reshape(2, length, 3) + 1.0
    v = -k[:, :, :1]
    places = np.arange(length) * 7 + 5
    found = blocks_of(k, v, places)
    assert [block.start for block in found] == list(range(0, length, BLOCK))
    assert sum(block.key_count for block in found) == length
    for block in found:
        assert block.k.shape == (2, 3, BLOCK)
        assert block.v.shape == (2, BLOCK, 1)
        for column in range(BLOCK):
            slot = block.start + column
            held = slot < length
            assert block.held is None or block.held[column] == held
            assert np.array_equal(block.k[:, :, column], k[:, slot] if held else np.zeros((2, 3)))
            assert np.array_equal(block.v[:, column], v[:, slot] if held else np.zeros((2, 1)))
            assert block.positions[column] == (places[slot] if held else places[block.start])


def test_products_take_them_without_a_transpose() -> None:
    for block in blocks_of(np.ones((2, 300, 3)), np.ones((2, 300, 4)), np.arange(300)):
        assert block.k.flags.c_contiguous
        assert block.v.strides[1:] == (4 * 8, 8)  # rows of one head lie side by side: BLAS takes them as they are
