"""The block pool: shared by count, refused whole, NaN where nobody lives (also: tests/testing)."""

from typing import Any

import numpy as np
import pytest

from kvattn.caches import BlockPool, Handle, KeyValue, key_value
from kvattn.caches.rows import placed
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError

SCHEMA = key_value(2, 3, 1)


def rows(*tokens: int) -> KeyValue:
    numbers = np.array(tokens, float).reshape(1, 1, -1, 1) * 16
    return KeyValue(numbers + np.arange(6.0).reshape(1, 2, 1, 3), numbers + np.arange(6.0, 8.0).reshape(1, 2, 1, 1))


def holds(pool: BlockPool[KeyValue], handle: Handle, *tokens: int) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(pool.rows(handle), rows(*tokens), strict=True))


def nan_slots(pool: BlockPool[KeyValue], block: int) -> list[int]:
    k, v = pool.storage
    found = np.isnan(k[block]).all((0, 1))
    assert np.array_equal(found, np.isnan(v[block]).all((0, 2)))
    assert np.array_equal(found, np.isnan(k[block]).any((0, 1)))
    return [int(n) for n in found.nonzero()[0]]


def test_a_fork_shares_until_one_of_them_writes() -> None:
    pool = BlockPool(SCHEMA, blocks=5, size=4)
    first = pool.allocate()
    pool.append(first, rows(1, 2, 3, 4, 5))
    second = pool.fork(first)
    with counting() as tally:
        pool.append(second, rows(6))
    assert tally.kv_copied == 1 * SCHEMA.nbytes
    assert tally.kv_written == 1 * SCHEMA.nbytes
    pool.append(first, rows(7, 8, 9, 10))
    assert holds(pool, first, 1, 2, 3, 4, 5, 7, 8, 9, 10)
    assert holds(pool, second, 1, 2, 3, 4, 5, 6)
    assert pool.table(first) == (0, 1, 3)
    assert pool.table(second) == (0, 2)
    assert pool.references == (2, 1, 1, 1, 0)


@pytest.mark.law("caches/pool", "counts return to zero, freed blocks to NaN", "bits")
def test_counts_return_to_zero_and_blocks_to_nan() -> None:
    pool = BlockPool(SCHEMA, blocks=3, size=2)
    first = pool.allocate()
    pool.append(first, rows(1, 2, 3))
    second = pool.fork(first)
    pool.free(first)
    assert pool.references == (1, 1, 0)
    assert holds(pool, second, 1, 2, 3)
    pool.free(second)
    assert pool.references == (0, 0, 0)
    assert pool.free_blocks == 3
    assert [nan_slots(pool, block) for block in range(3)] == [[0, 1]] * 3


def test_slots_that_the_longest_sharer_leaves_are_nan() -> None:
    pool = BlockPool(SCHEMA, blocks=4, size=4)
    long, short = pool.allocate(), None
    pool.append(long, rows(1, 2, 3))
    short = pool.fork(long)
    pool.truncate(short, 1)
    assert nan_slots(pool, 0) == [3]
    pool.append(long, rows(4))  # shared, so the long one moves to a block of its own
    assert pool.table(long) == (1,)
    assert nan_slots(pool, 0) == [1, 2, 3]
    pool.truncate(long, 2)
    assert nan_slots(pool, 1) == [2, 3]
    assert holds(pool, short, 1)
    assert holds(pool, long, 1, 2)


def test_an_append_that_does_not_fit_changes_nothing() -> None:
    pool = BlockPool(SCHEMA, blocks=3, size=2)
    first = pool.allocate()
    pool.append(first, rows(1, 2, 3))
    second = pool.fork(first)
    with pytest.raises(ArgumentError, match="rows must fit the free blocks, got 3 tokens that need 2 of 1 free"):
        pool.append(second, rows(4, 5, 6))
    assert pool.references == (2, 2, 0)
    assert holds(pool, first, 1, 2, 3)
    assert holds(pool, second, 1, 2, 3)
    pool.append(second, rows(4))
    assert holds(pool, second, 1, 2, 3, 4)


@pytest.mark.parametrize("kind", ["freed", "of another pool", "made up", "no handle", "unhashable"])
def test_names_that_do_not_live_are_refused_everywhere(kind: str) -> None:
    pool, other = BlockPool(SCHEMA, blocks=3, size=2), BlockPool(SCHEMA, blocks=3, size=2)
    kept, handle = pool.allocate(), pool.allocate()
    pool.append(kept, rows(1))
    pool.free(handle)
    stale: Any = {
        "freed": handle,
        "of another pool": other.allocate(),
        "made up": Handle(handle.pool, 99),
        "no handle": 0,
        "unhashable": [],
    }[kind]
    words = "one that has been freed" if kind == "freed" else "which this pool never gave out"
    for use in (
        lambda: pool.free(stale),
        lambda: pool.fork(stale),
        lambda: pool.truncate(stale, 0),
        lambda: pool.append(stale, rows(2)),
        lambda: pool.rows(stale),
        lambda: pool.table(stale),
        lambda: pool.length(stale),
    ):
        with pytest.raises(ArgumentError, match=f"handle must name a live sequence, got .*{words}"):
            use()
    assert pool.references == (1, 0, 0)
    assert holds(pool, kept, 1)


@pytest.mark.parametrize("length", [-1, 4, True, 1.0])
def test_a_length_that_is_not_there_is_refused(length: Any) -> None:
    pool = BlockPool(SCHEMA, blocks=3, size=2)
    first = pool.allocate()
    pool.append(first, rows(1, 2, 3))
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 3, got "):
        pool.truncate(first, length)
    assert holds(pool, first, 1, 2, 3)


def test_wrong_rows_are_refused() -> None:
    pool = BlockPool(SCHEMA, blocks=3, size=2)
    first = pool.allocate()
    k, v = rows(1)
    with pytest.raises(ShapeError, match=r"k must have shape \[B=1, heads=2, T, width=3\]"):
        pool.append(first, (k[0], v))
    with pytest.raises(DtypeError, match="v must have dtype float64, got object"):
        pool.append(first, (k, v.astype(object)))
    with pytest.raises(DtypeError, match="k must have dtype float64, got int64"):
        pool.append(first, (k.astype(np.int64), v))
    assert pool.references == (0, 0, 0)


@pytest.mark.parametrize(("blocks", "size", "name"), [(0, 4, "blocks"), (4, 0, "size"), (-1, 4, "blocks")])
def test_a_pool_without_room_is_refused(blocks: int, size: int, name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} must be an integer >= 1, got "):
        BlockPool(SCHEMA, blocks, size)


def test_nothing_is_a_sequence_too() -> None:
    pool = BlockPool(SCHEMA, blocks=1, size=2)
    first = pool.fork(pool.allocate())
    pool.append(first, rows())
    pool.truncate(first, 0)
    assert pool.rows(first).k.shape == (1, 2, 0, 3)
    assert pool.table(first) == ()


def test_readers_cannot_write() -> None:
    pool = BlockPool(SCHEMA, blocks=1, size=2)
    with pytest.raises(ValueError, match="read-only"):
        pool.storage[0][...] = 0.0
    assert list(pool.footprint().values()) == [pool.nbytes] == [2 * SCHEMA.nbytes]


def test_a_placed_schema_is_refused() -> None:
    with pytest.raises(ArgumentError) as raised:
        BlockPool(placed(SCHEMA), 4, 4)
    assert (
        str(raised.value) == "schema must not be placed, since a block's place says the position, got a placed schema"
    )
