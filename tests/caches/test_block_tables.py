"""A cache exported as blocks and tables is what engines read, and comes back as it was."""

from typing import Any

from hypothesis import given
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged, key_value, latent, live_bytes
from kvattn.caches.block_tables import export_block_table, import_block_table
from kvattn.caches.rows import placed
from kvattn.core import streaming
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.execution.block_table import BlockTable
from kvattn.masks import Causal, Window
from tests.caches.kept import drawn, goes_on, paged, readable

SCHEMA = key_value(2, 4, 3)


def forked(page: int = 4) -> Paged[KeyValue]:
    """Three sequences of 11, 14 and 6 tokens that share their beginnings."""
    trunk = Paged.start(SCHEMA, page=page).append(drawn(SCHEMA, 1, 9, 0))
    left, right = trunk.append(drawn(SCHEMA, 1, 2, 1)), trunk.append(drawn(SCHEMA, 1, 5, 2))
    return left.merge(right, trunk.truncate(6))


@pytest.mark.by_hand("caches/block_tables")
@pytest.mark.no_peer("caches/block_tables", "kernels that read block tables need an accelerator")
@given(paged().filter(lambda cache: not cache.schema.placed))
def test_every_row_is_where_the_table_says(cache: Paged[Any]) -> None:
    blocks, table, lengths = export_block_table(cache)
    assert table.dtype == lengths.dtype == np.dtype(np.int32)
    assert lengths.tolist() == list(cache.lengths)
    owned = set()
    for b, length in enumerate(cache.lengths):
        held = cache.held(b)
        for s in range(length):
            block = int(table[b, s // cache.page])
            assert (block >= 0) == held[s]
            if block >= 0:
                owned.add((block, s % cache.page))
        if length and held.all():
            for got, wanted in zip(blocks, cache.rows(sequence=b), strict=True):
                for s in range(length):
                    assert np.array_equal(got[table[b, s // cache.page], s % cache.page], wanted[0, :, s])
        assert (table[b, -(-length // cache.page) :] == -1).all()
    assert sum(array.nbytes for array in blocks) == cache.nbytes
    for array in blocks:
        for block in range(array.shape[0]):
            for slot in range(array.shape[1]):
                if (block, slot) not in owned and array.dtype.kind == "f":
                    assert np.isnan(array[block, slot]).all()


@pytest.mark.law("caches/block_tables", "imported equals exported, sharing included, and goes on so", "bits")
@given(paged().filter(lambda cache: not cache.schema.placed))
def test_what_was_exported_comes_back(cache: Paged[Any]) -> None:
    again = import_block_table(cache.schema, *export_block_table(cache))
    assert readable(again) == readable(cache)
    assert again.nbytes == cache.nbytes
    assert readable(goes_on(again)) == readable(goes_on(cache))
    one, two = export_block_table(again), export_block_table(cache)
    for left, right in zip([*one.blocks, *one[1:]], [*two.blocks, *two[1:]], strict=True):
        assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


@pytest.mark.law("caches/block_tables", "attention over the exported table equals attention over the cache", "bits")
@pytest.mark.parametrize("page", [1, 4, 5, 256])
@pytest.mark.parametrize("mask", [Causal(), Causal() & Window(3)], ids=repr)
def test_attention_over_the_table_is_attention_over_the_cache(page: int, mask: Any) -> None:
    cache = forked(page)
    q = np.random.default_rng(5).normal(size=(3, 4, 2, 4))
    (keys, values), table, lengths = export_block_table(cache)
    got = BlockTable(keys, values, table.tolist(), lengths.tolist()).attend(q, mask=mask)
    at = np.array(cache.lengths)[:, None] - 2 + np.arange(2)
    wanted = streaming.attend(q, at, [cache.blocks(b) for b in range(3)], value_width=3, mask=mask)
    assert np.array_equal(got.out, wanted.out)
    assert np.array_equal(got.lse, wanted.lse)
    assert np.isfinite(got.out).all()


def test_shared_pages_are_one_block() -> None:
    cache = forked()
    blocks, table, _ = export_block_table(cache)
    assert table.tolist() == [[0, 1, 2, -1], [0, 1, 3, 4], [0, 1, -1, -1]]
    assert blocks.k.shape == (5, 4, 2, 4)
    assert export_block_table(Paged.start(SCHEMA, 2)).table.shape == (2, 0)


def test_blocks_of_an_engine() -> None:
    """Blocks in any order, one that nobody has, one at two places, entries behind the end."""
    pool = np.arange(10.0).reshape(5, 2, 1, 1)
    with counting() as tally:
        cache = import_block_table(
            latent(1), [pool], np.array([[4, 1, 4], [4, 3, 77], [2, -5, 99]], np.int32), [6, 3, 1]
        )
    assert [cache.rows(sequence=b).latent.ravel().tolist() for b in range(3)] == [
        [8.0, 9.0, 2.0, 3.0, 8.0, 9.0],
        [8.0, 9.0, 6.0],
        [4.0],
    ]
    assert cache.pages(0)[0] == cache.pages(1)[0]
    assert tally.tally.cache_live == live_bytes(cache) == 5 * 16
    pool[...] = 0.0
    assert cache.rows(sequence=2).latent.ravel().tolist() == [4.0]
    holes = import_block_table(latent(1), [pool], [[-1, 0]], [3])
    assert holes.held(0).tolist() == [False, False, True]
    with pytest.raises(PositionError):
        holes.rows()


POOL = np.zeros((3, 2, 1, 1))


@pytest.mark.parametrize(
    ("blocks", "table", "lengths", "error", "words"),
    [
        ([], [[0]], [1], ShapeError, "blocks must have 1 entries (latent), got 0"),
        ([POOL[0]], [[0]], [1], ShapeError, "latent must have shape [N, page, heads=1, width=1]"),
        ([POOL[:, :0]], [[0]], [0], ShapeError, "latent must have shape [N, page, heads=1, width=1]"),
        ([POOL.astype("f4")], [[0]], [1], DtypeError, "latent must have dtype float64, got float32"),
        ([POOL], [0], [1], ShapeError, "table and lengths must be [B, columns] and [B], got (1,) and (1,)"),
        ([POOL], [[0]], [1, 1], ShapeError, "table and lengths must be [B, columns] and [B], got (1, 1) and (2,)"),
        ([POOL], [[0.5]], [1], ArgumentError, "table must hold integers, got dtype float64"),
        ([POOL], [[0]], [3], ArgumentError, "lengths[0] must be an integer in 0 .. 2, got 3"),
        ([POOL], [[0]], [-1], ArgumentError, "lengths[0] must be an integer in 0 .. 2, got -1"),
        ([POOL], [[3]], [1], ArgumentError, "table[0, 0] must be an integer in 0 .. 2, got 3"),
        ([POOL], [[-1]], [1], ArgumentError, "table[0, 0] must be an integer in 0 .. 2, got -1"),
        ([POOL], [[-2]], [2], ArgumentError, "table[0, 0] must be an integer in -1 .. 2, got -2"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    blocks: Any, table: Any, lengths: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as said:
        import_block_table(latent(1), blocks, table, lengths)
    assert str(said.value).startswith(words)


def test_positions_of_their_own_have_no_place_in_a_table() -> None:
    with pytest.raises(ArgumentError, match="cache must have slots for positions, got the placed schema Latent"):
        export_block_table(Paged.start(placed(latent(1))))
    with pytest.raises(ArgumentError, match="schema must not be placed, since tables say no positions, got Latent"):
        import_block_table(placed(latent(1)), [POOL], [[0]], [1])
