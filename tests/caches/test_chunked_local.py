"""The present chunk: its queries find all of it, the next one begins with nothing, and borders can be returned to."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.batches import per_sequence
from kvattn.caches.chunked_local import ChunkedLocal
from kvattn.counting import counting
from kvattn.errors import ArgumentError, RollbackError
from kvattn.masks import Causal, Chunked
from kvattn.testing.machines import storages
from kvattn.testing.machines.marked import schema_of
from kvattn.testing.machines.storages import Storage
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.driven import complaint
from tests.caches.numbered import SCHEMA, rows


def storage(cls: type[ChunkedLocal[Any]]) -> Storage:
    """How the machine over all drives a cache of chunks, which may be wrong."""
    return replace(
        storages.CHUNKED,
        start=lambda sizes, batch: cls.start(
            schema_of(sizes.dtype), size=sizes.window, rollback=sizes.rollback, batch=batch, page=sizes.page
        ),
    )


class ForgetsAtOnce(ChunkedLocal[Any]):
    """The chunk is dropped as its last token comes, before anybody has read it."""

    def append(self, rows: Any, positions: Any = None) -> ChunkedLocal[Any]:
        grown = super().append(rows)
        return grown.truncate([0] * grown.batch) if grown.lengths[0] < 0 else _begun(grown, self.size)


def _begun(cache: ChunkedLocal[Any], size: int) -> ChunkedLocal[Any]:
    tail = cache._tail
    starts = [max(start, n // size * size) for start, n in zip(tail.starts, tail.lengths, strict=True)]
    tables = [
        type(table).of(table.between(new // tail.page - old // tail.page, len(table)))
        for table, new, old in zip(tail._tables, starts, tail.starts, strict=True)
    ]
    return replace(cache, _tail=replace(tail, starts=tuple(starts), _tables=tuple(tables)))


class BorderOneLate(ChunkedLocal[Any]):
    """The last token of a chunk is thought to be the first of the next."""

    def append(self, rows: Any, positions: Any = None) -> ChunkedLocal[Any]:
        starts = [
            max(start, min((n + 1) // self.size * self.size, n))
            for start, n in zip(self._tail.starts, self.lengths, strict=True)
        ]
        new = self.schema.check(rows, self.batch)[1]
        return replace(self, _tail=self._tail.append(rows, starts)) if new else self


class NeverBeginsAnew(ChunkedLocal[Any]):
    """Everything stays."""

    def append(self, rows: Any, positions: Any = None) -> ChunkedLocal[Any]:
        new = self.schema.check(rows, self.batch)[1]
        return replace(self, _tail=self._tail.append(rows, self._tail.starts)) if new else self


class GoesBackIntoTheLastChunk(ChunkedLocal[Any]):
    """A length inside a chunk that is gone is returned to in silence."""

    def truncate(self, length: Any) -> ChunkedLocal[Any]:
        try:
            return super().truncate(length)
        except RollbackError:
            return replace(self, _tail=self._tail.truncate(per_sequence("length", length, self.lengths)))


class RefusesBorders(ChunkedLocal[Any]):
    """A border cannot be returned to once rows are gone, though nothing is needed there."""

    def truncate(self, length: Any) -> ChunkedLocal[Any]:
        cut = super().truncate(length)
        if any(n <= start and start for n, start in zip(cut.lengths, self._tail.starts, strict=True)):
            raise RollbackError("gone")
        return cut


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (ForgetsAtOnce, "lost"),
        (BorderOneLate, "lost"),
        (NeverBeginsAnew, "must be forgotten"),
        (GoesBackIntoTheLastChunk, "lost"),
        (RefusesBorders, "must be done"),
    ],
    ids=lambda wrong: getattr(wrong, "__name__", ""),
)
def test_a_wrong_one_is_rejected(wrong: type[ChunkedLocal[Any]], words: str) -> None:
    """The right one is driven by ``tests/testing/machines/test_serving.py``."""
    said = complaint(storage(wrong), "truncate", "select", words=words)
    assert said
    assert words in said


@pytest.mark.law(
    "caches/chunked_local", "a layer over it equals the layer over pages, under the mask of chunks", "bits"
)
@given(
    size=st.integers(1, 9),
    page=st.sampled_from([1, 3, 8, 256]),
    rollback=st.integers(0, 4),
    dtype=st.sampled_from([np.float64, np.float32]),
    cuts=st.lists(st.tuples(st.sampled_from([0, 1, 2, 7, 8, 9, 10, 300]), st.integers(0, 4)), min_size=1, max_size=5),
)
def test_a_layer_over_it_equals_the_layer_over_pages(
    size: int, page: int, rollback: int, dtype: Any, cuts: list[tuple[int, int]]
) -> None:
    draw = np.random.default_rng(3)
    q, k, v, o = (draw.normal(size=shape).astype(dtype) for shape in ((12, 8), (12, 4), (12, 6), (12, 12)))
    layer = Grouped(Projections(q, k, v, o, heads=4, kv_heads=2), Causal() & Chunked(size))
    paged = layer.start(2)
    local = ChunkedLocal.start(paged.schema, size=size, rollback=rollback, batch=2, page=page)
    for new, back in cuts:
        before = local.length
        x = draw.normal(size=(2, new, 12)).astype(dtype)
        wanted, paged = layer.step(paged, x)
        got, local = layer.step(local, x)
        assert np.array_equal(got.out, wanted.out)
        assert np.array_equal(got.lse, wanted.lse)
        n = max(0, before - min(back, rollback)) if new else local.length
        paged, local = paged.truncate(n), local.truncate(n)


@pytest.mark.by_hand("caches/chunked_local")
def test_it_holds_the_rows_that_can_be_counted_by_hand() -> None:
    cache = ChunkedLocal.start(SCHEMA, size=3, page=2)
    held = []
    for tokens in ([10, 11], [12], [13], [14, 15, 16, 17], [18]):
        cache = cache.append(rows([tokens]))
        held.append([int(-x) for x in cache.rows().v[0, 0, :, 0]])
    # chunks are 10 11 12 | 13 14 15 | 16 17 18
    assert held == [[10, 11], [10, 11, 12], [13], [13, 14, 15, 16, 17], [16, 17, 18]]


@pytest.mark.law("caches/chunked_local", "one token at a time it never holds more than a chunk", "integers")
@pytest.mark.parametrize("page", [1, 4, 8, 5])
def test_one_token_at_a_time_it_never_holds_more_than_a_chunk(page: int) -> None:
    cache = ChunkedLocal.start(SCHEMA, size=8, page=page)
    most = (8 + (0 if 8 % page == 0 else 2 * (page - 1))) * SCHEMA.nbytes
    with counting() as tally:
        for n in range(100):
            cache = cache.append(rows([[n]]))
            assert len(cache.remembered(0)) == n % 8 + 1
            assert cache.nbytes <= -(-most // (page * SCHEMA.nbytes)) * page * SCHEMA.nbytes
    assert tally.kv_written == 100 * SCHEMA.nbytes
    assert tally.kv_copied == 0


def test_a_border_can_be_returned_to_when_its_page_is_gone() -> None:
    cache = ChunkedLocal.start(SCHEMA, size=3, page=4)
    for n in range(12):
        cache = cache.append(rows([[n]]))
    assert cache.remembered(0).tolist() == [9, 10, 11]
    cut = cache.truncate(3)
    assert cut.lengths == (3,)
    assert cut.rows().v.size == 0
    again = cut.append(rows([[70, 71]]))
    assert again.remembered(0).tolist() == [3, 4]
    assert [-int(x) for x in again.rows().v[0, 0, :, 0]] == [70, 71]
    assert not np.isnan(again.blocks(0)[0].k).any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, "size must be an integer >= 1, got 0"),
        ({"size": 4, "rollback": -1}, "rollback must be an integer >= 0, got -1"),
        ({"size": 4, "page": 0}, "page must be an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        ChunkedLocal.start(SCHEMA, **wrong)


def test_bad_arguments_are_refused() -> None:
    cache = ChunkedLocal.start(SCHEMA, size=4).append(rows([[1, 2, 3, 4, 5]])).append(rows([[6]]))
    with pytest.raises(RollbackError, match=r"must be at least 4, or a border of chunks of 4, got 3: slots 0 \.\. 3"):
        cache.truncate(3)
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 6, got 7"):
        cache.truncate(7)
    assert cache.branch() is cache
    assert cache.length == 6
