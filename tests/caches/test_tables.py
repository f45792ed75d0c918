"""A table is extended at its end and read by slot; blocks come out of it aligned and padded with zeros."""

import numpy as np
import pytest

from kvattn.caches.blocks import BLOCK, blocks_of
from kvattn.caches.rows import key_value
from kvattn.caches.tables import Table, extend, gather, raw_blocks
from kvattn.caches.vectors import Vector
from kvattn.errors import PositionError

SCHEMA = key_value(2, 3, 1)


def rows(start: int, stop: int) -> list[np.ndarray]:
    tokens = np.arange(start, stop, dtype=np.float64)[None, :, None] + 1.0
    return [tokens + np.arange(6.0).reshape(2, 1, 3) / 8, -tokens - np.arange(2.0).reshape(2, 1, 1) / 8]


def table_of(size: int, cuts: list[int]) -> tuple[Table, int]:
    table: Table = Vector()
    length = 0
    for count in cuts:
        table, copied = extend(SCHEMA, size, table, length, rows(length, length + count))
        assert copied == 0
        length += count
    return table, length


@pytest.mark.parametrize("size", [1, 7, 255, 256, 257, 512])
@pytest.mark.parametrize("cuts", [[1], [255], [256], [257], [300, 1, 1, 210, 3], [1, 511]])
def test_blocks_do_not_depend_on_page_size_nor_on_cuts(size: int, cuts: list[int]) -> None:
    table, length = table_of(size, cuts)
    k, v = rows(0, length)
    wanted = blocks_of(k, v, np.arange(length))
    found = raw_blocks(SCHEMA, size, table, length)
    assert len(found) == len(wanted)
    for got, right in zip(found, wanted, strict=True):
        assert (got.start, got.key_count) == (right.start, right.key_count)
        assert np.array_equal(got.arrays[0], right.k)
        assert np.array_equal(got.arrays[1], right.v)
        assert np.array_equal(got.positions, right.positions)
        assert (got.held is None) == (right.held is None)
        assert all(x.flags.c_contiguous and not x.flags.writeable for x in got.arrays)


def test_a_full_page_of_256_is_the_block_itself() -> None:
    table, length = table_of(BLOCK, [600])
    blocks = raw_blocks(SCHEMA, BLOCK, table, length)
    page = table[0]
    assert page is not None
    assert blocks[0].arrays[0] is page.arrays[0]
    assert blocks[0] is raw_blocks(SCHEMA, BLOCK, table, length)[0]
    assert not np.shares_memory(blocks[2].arrays[0], getattr(table[2], "arrays")[0])  # noqa: B009


def test_a_block_is_not_taken_from_a_page_that_somebody_else_filled() -> None:
    table, length = table_of(BLOCK, [200])
    extend(SCHEMA, BLOCK, table, length, rows(200, 256))
    (block,) = raw_blocks(SCHEMA, BLOCK, table, length)
    assert block.key_count == 200
    assert not block.arrays[0][:, :, 200:].any()


def test_holes_are_left_out() -> None:
    table, length = table_of(64, [700])
    holed = table.fill(1, 9, None)  # slots 64 .. 575 are gone
    found = raw_blocks(SCHEMA, 64, holed, length)
    assert [(block.start, block.key_count) for block in found] == [(0, 64), (512, 124)]
    held = found[1].held
    assert held is not None
    assert held.nonzero()[0].tolist() == list(range(64, 188))
    assert not found[1].arrays[1][:, :64].any()
    assert found[1].positions[:64].tolist() == [576] * 64
    out = [np.empty((2, 10, 3)), np.empty((2, 10, 1))]
    with pytest.raises(PositionError, match=r"slots 64 \.\. 69 must be held, but they have been released"):
        gather(64, holed, 60, 70, out)


def test_the_second_to_extend_gets_a_copy_of_one_page() -> None:
    table, length = table_of(8, [20])
    first, none = extend(SCHEMA, 8, table, length, rows(20, 30))
    second, four = extend(SCHEMA, 8, table, length, rows(40, 50))
    assert (none, four) == (0, 4)
    assert first.take(2) == second.take(2) == table.take(2)
    assert first[2] is table[2]
    assert second[2] is not table[2]
    out = [np.empty((2, 30, 3)), np.empty((2, 30, 1))]
    gather(8, second, 0, 30, out)
    assert np.array_equal(out[0], np.concatenate([rows(0, 20)[0], rows(40, 50)[0]], 1))
