"""Blocks stand at multiples of 256 slots, whoever stores them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.core import streaming
from kvattn.masks import Causal
from kvattn.typing import Attended

Blocks = tuple[KeyBlock, ...]
Cut = Callable[[Any, Any, Any], Blocks]


def check(cut: Cut, length: int) -> None:
    """Look at every column of every block: the row of its slot, or exact zeros that nobody holds."""
    k = np.arange(2.0 * length * 3).reshape(2, length, 3) + 1.0
    v = -k[:, :, :1]
    places = np.arange(length) * 7 + 5
    found = cut(k, v, places)
    assert [block.start for block in found] == list(range(0, length, BLOCK))
    assert sum(block.key_count for block in found) == length
    for block in found:
        assert block.k.shape == (2, 3, BLOCK)
        assert block.v.shape == (2, BLOCK, 1)
        for column in range(BLOCK):
            slot = block.start + column
            held = slot < length
            assert (block.held is None or block.held[column]) == held
            assert np.array_equal(block.k[:, :, column], k[:, slot] if held else np.zeros((2, 3)))
            assert np.array_equal(block.v[:, column], v[:, slot] if held else np.zeros((2, 1)))
            assert block.positions[column] == (places[slot] if held else places[block.start])


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 44])
def test_every_row_stands_in_its_column_and_the_rest_is_zero(length: int) -> None:
    check(blocks_of, length)


def halves(k: Any, v: Any, places: Any) -> Blocks:
    """Mutant: a block ends where a chunk ended."""
    return blocks_of(k[:, :100], v[:, :100], places[:100]) + blocks_of(k[:, 100:], v[:, 100:], places[100:])


def dirty(k: Any, v: Any, places: Any) -> Blocks:
    """Mutant: what nobody wrote is not zero."""
    return tuple(block._replace(v=block.v + 1e-30) for block in blocks_of(k, v, places))


def all_held(k: Any, v: Any, places: Any) -> Blocks:
    """Mutant: empty columns count as keys."""
    return tuple(block._replace(held=None) for block in blocks_of(k, v, places))


def from_zero(k: Any, v: Any, places: Any) -> Blocks:
    """Mutant: empty columns stand at position 0, which widens what a mask is asked about."""
    return tuple(
        block if block.held is None else block._replace(positions=np.where(block.held, block.positions, 0))
        for block in blocks_of(k, v, places)
    )


@pytest.mark.parametrize("mutant", [halves, dirty, all_held, from_zero])
def test_wrong_blocks_are_rejected(mutant: Cut) -> None:
    with pytest.raises(AssertionError):
        check(mutant, BLOCK + 44)


def test_positions_may_come_in_any_order() -> None:
    places = np.array([9, 2, 5])
    (block,) = blocks_of(np.ones((1, 3, 2)), np.ones((1, 3, 2)), places)
    assert block.positions[:3].tolist() == [9, 2, 5]
    assert (block.positions[3:] == 9).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_blocks_keep_their_dtype(dtype: Any) -> None:
    for block in blocks_of(np.ones((1, 300, 2), dtype), np.ones((1, 300, 2), dtype), np.arange(300)):
        assert block.k.dtype == block.v.dtype == dtype


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x,
    "time before heads": lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
    "time last": lambda x: np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2),
    "columns first": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "every second number": lambda x: np.repeat(x, 2, 2)[:, :, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_products_take_them_without_a_transpose(name: str) -> None:
    for block in blocks_of(LAYOUTS[name](np.ones((2, 300, 3))), LAYOUTS[name](np.ones((2, 300, 8))), np.arange(300)):
        assert all(matrix.flags.c_contiguous for matrix in (*block.k, *block.v))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_layout_in_memory_does_not_show(name: str, dtype: Any) -> None:
    """To the bit: a full block that is read in place and a partial one that is copied must be one and the same."""
    random = np.random.default_rng(0)
    q, k, v = (random.normal(size=(2, 300, 16)).astype(dtype) for _ in range(3))
    there = [LAYOUTS[name](array) for array in (q, k, v)]
    for one, other in zip(attend(q, k, v), attend(*there), strict=True):
        assert one.tobytes() == other.tobytes()
    last = attend(q[:, :200], k[:, :200], v[:, :200])
    for one, other in zip(attend(*there), last, strict=True):
        assert np.array_equal(one[:, :200], other)


def attend(q: Any, k: Any, v: Any) -> Attended:
    """Causal attention of one sequence."""
    at = np.arange(q.shape[1])
    out, lse = streaming.attend(q[None], at[None], [blocks_of(k, v, at)], value_width=v.shape[2], mask=Causal())
    return Attended(out[0], lse[0])
