"""The ring: nobody sees too few keys, what is taken back is exact or refused, memory stays the same."""

from dataclasses import replace
import gc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, key_value, latent, live_bytes, placed
from kvattn.caches._tail import Tail
from kvattn.caches.ring import Ring
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, RollbackError
from kvattn.masks import Causal, Window
from kvattn.positions.rotary import Rotary
from kvattn.testing.machines import storages
from kvattn.testing.machines.marked import schema_of
from kvattn.testing.machines.storages import Storage
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.driven import complaint
from tests.caches.numbered import SCHEMA, rows


def storage(cls: type[Ring[Any]]) -> Storage:
    """How the machine over all drives a ring, which may be wrong."""
    return replace(
        storages.RING,
        start=lambda sizes, batch: cls.start(
            schema_of(sizes.dtype), window=sizes.window, rollback=sizes.rollback, batch=batch, page=sizes.page
        ),
    )


class KeepsAWindowInAll(Ring[Any]):
    """Forget after the append: W rows in all, whatever the first of many tokens sees."""

    def append(self, rows: Any, positions: Any = None) -> Ring[Any]:
        grown = super().append(rows)
        starts = [max(s, n - self.window) for s, n in zip(grown._tail.starts, grown.lengths, strict=True)]
        return replace(grown, _tail=replace_starts(grown._tail, starts))


def replace_starts(tail: Tail[Any], starts: list[int]) -> Tail[Any]:
    tables = [
        type(table).of(table.between(new // tail.page - old // tail.page, len(table)))
        for table, new, old in zip(tail._tables, starts, tail.starts, strict=True)
    ]
    return replace(tail, starts=tuple(starts), _tables=tuple(tables))


class WrapsOneEarly(Ring[Any]):
    """One row less is kept than the next query sees."""

    def append(self, rows: Any, positions: Any = None) -> Ring[Any]:
        short = Ring.append(replace(self, window=self.window - 1), rows) if self.window > 1 else super().append(rows)
        return replace(short, window=self.window)


class KeepsOneMore(Ring[Any]):
    """One row more is kept than anybody sees."""

    def append(self, rows: Any, positions: Any = None) -> Ring[Any]:
        return replace(Ring.append(replace(self, window=self.window + 1), rows), window=self.window)


class RollbackResurrects(Ring[Any]):
    """What was taken back stays in the pages and comes again with the next token."""

    def truncate(self, length: Any) -> Ring[Any]:
        cut = super().truncate(length)
        object.__setattr__(cut, "_tail", replace(cut._tail, _tables=self._tail._tables))
        return cut


class RollsBackIntoTheDark(Ring[Any]):
    """A length that is no longer remembered is returned to, and the window has a hole (mlx-lm #1427)."""

    @property
    def earliest(self) -> tuple[int, ...]:
        return (0,) * self.batch


class WritesOverTheOldest(Ring[Any]):
    """The row that was written last lies in the page of an older value."""

    def append(self, rows: Any, positions: Any = None) -> Ring[Any]:
        for table in self._tail._tables:
            for page in table:
                page.filled = min(page.filled, max(n % self._tail.page for n in self.lengths))  # type: ignore[union-attr]
        return super().append(rows)


class RefusesWhatItPromised(Ring[Any]):
    """One token less than stated can be taken back."""

    @property
    def earliest(self) -> tuple[int, ...]:
        return tuple(n + 1 if n else 0 for n in super().earliest)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (KeepsAWindowInAll, "lost"),
        (WrapsOneEarly, "lost"),
        (KeepsOneMore, "must be forgotten"),
        (RollbackResurrects, "resurrected"),
        (RollsBackIntoTheDark, "lost"),
        (WritesOverTheOldest, ""),
        (RefusesWhatItPromised, "must be done"),
    ],
    ids=lambda wrong: getattr(wrong, "__name__", ""),
)
def test_a_wrong_one_is_rejected(wrong: type[Ring[Any]], words: str) -> None:
    """The right one is driven by ``tests/testing/machines/test_serving.py``."""
    said = complaint(storage(wrong), "truncate", words=words)
    assert said
    assert words in said


def layer(window: int, page: int, seed: int, dtype: Any) -> Grouped:
    draw = np.random.default_rng(seed)
    q, k, v, o = (draw.normal(size=shape).astype(dtype) for shape in ((12, 8), (12, 4), (12, 6), (12, 12)))
    w = Projections(q, k, v, o, heads=4, kv_heads=2)
    return Grouped(w, Causal() & Window(window), query_key=(Rotary.of(2),), page=page)


@pytest.mark.law("caches/ring", "a layer over a ring equals the layer over pages, under the mask of the window", "bits")
@given(
    window=st.integers(1, 9),
    rollback=st.integers(0, 4),
    page=st.sampled_from([1, 3, 8, 256]),
    dtype=st.sampled_from([np.float64, np.float32]),
    cuts=st.lists(st.tuples(st.sampled_from([0, 1, 2, 7, 8, 9, 10, 300]), st.integers(0, 4)), min_size=1, max_size=5),
)
def test_a_layer_over_a_ring_equals_the_layer_over_pages(
    window: int, rollback: int, page: int, dtype: Any, cuts: list[tuple[int, int]]
) -> None:
    one = layer(window, 256, 3, dtype)
    paged, ring = one.start(2), Ring.start(one.start(2).schema, window=window, rollback=rollback, batch=2, page=page)
    draw = np.random.default_rng(5)
    for new, back in cuts:
        before = ring.length
        x = draw.normal(size=(2, new, 12)).astype(dtype)
        wanted, paged = one.step(paged, x)
        got, ring = one.step(ring, x)
        assert np.array_equal(got.out, wanted.out)
        assert np.array_equal(got.lse, wanted.lse)
        n = max(0, before - min(back, rollback)) if new else ring.length
        paged, ring = paged.truncate(n), ring.truncate(n)


@pytest.mark.by_hand("caches/ring")
def test_it_holds_the_rows_that_can_be_counted_by_hand() -> None:
    cache = Ring.start(SCHEMA, window=3, rollback=1, page=2)
    held = []
    for tokens in ([10, 11, 12, 13], [14], [15, 16, 17], [18]):
        cache = cache.append(rows([tokens]))
        held.append([int(-x) for x in cache.rows().v[0, 0, :, 0]])
    # W - 1 + rollback = 3 before, and the new ones
    assert held == [[10, 11, 12, 13], [11, 12, 13, 14], [12, 13, 14, 15, 16, 17], [15, 16, 17, 18]]


@pytest.mark.law("caches/ring", "memory stays the same however long it runs", "integers")
@pytest.mark.parametrize("page", [1, 4, 5, 64])
@pytest.mark.parametrize("step", [1, 3])
def test_memory_stays_the_same_however_long_it_runs(page: int, step: int) -> None:
    cache = Ring.start(SCHEMA, window=32, rollback=8, page=page)
    most = ((32 - 1 + 8 + step - 1) // page + 2) * page * SCHEMA.nbytes
    longest = 0
    for n in range(300):
        cache = cache.append(rows([[n] * step]))
        assert cache.nbytes <= most
        longest = max(longest, len(cache._tail._tables[0]))
    assert longest * page * SCHEMA.nbytes <= most
    assert len(cache.remembered(0)) == 32 - 1 + 8 + step


@pytest.mark.law(
    "caches/ring", "T tokens write T rows, and a branch that is extended twice copies part of a page", "integers"
)
def test_bytes_that_are_written_and_copied() -> None:
    with counting() as tally:
        cache = Ring.start(SCHEMA, window=3, page=4).append(rows([[1, 2, 3, 4, 5, 6]]))
        one, two = cache.append(rows([[7]])), cache.append(rows([[8]]))
    assert tally.kv_written == 8 * SCHEMA.nbytes
    assert tally.kv_copied == 2 * SCHEMA.nbytes
    assert tally.cache_live == live_bytes(cache, one, two) == 3 * 4 * SCHEMA.nbytes
    del cache, one, two
    gc.collect()
    assert tally.cache_live == 0


def test_old_values_keep_what_later_ones_forget() -> None:
    old = Ring.start(SCHEMA, window=2, page=1).append(rows([list(range(10))]))
    new = old.append(rows([[10]]))
    assert new.remembered(0).tolist() == [9, 10]
    assert old.remembered(0).tolist() == list(range(10))
    assert live_bytes(old, new) == 11 * SCHEMA.nbytes


def test_the_forgotten_does_not_come_back_with_a_rollback() -> None:
    cache = Ring.start(SCHEMA, window=2, rollback=2, page=4).append(rows([list(range(9))])).append(rows([[9]]))
    cut = cache.truncate(7).append(rows([[70, 71, 72]]))
    assert [-int(x) for x in cut.rows().v[0, 0, :, 0]] == [6, 70, 71, 72]
    assert cache.rows().v[0, 0, -1, 0] == -9.25


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"window": 0}, "window must be an integer >= 1, got 0"),
        ({"window": True}, "window must be an integer >= 1, got True"),
        ({"window": 4, "rollback": -1}, "rollback must be an integer >= 0, got -1"),
        ({"window": 4, "page": 0}, "page must be an integer >= 1, got 0"),
        ({"window": 4, "batch": 0}, "batch must be an integer >= 1, got 0"),
        ({"window": 4, "schema": placed(SCHEMA)}, "schema must not be placed, since slots are positions here"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Ring.start(**{"schema": SCHEMA, **wrong})


def test_bad_arguments_are_refused() -> None:
    cache = Ring.start(SCHEMA, window=3, page=2).append(rows([[1, 2, 3]])).append(rows([[4]]))
    with pytest.raises(RollbackError, match=r"length of sequence 0 must be at least 3, or 0, got 2: slots 0 \.\. 0"):
        cache.truncate(2)
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 4, got 5"):
        cache.truncate(5)
    with pytest.raises(DtypeError, match="k must have dtype float64"):
        cache.append([x.astype(np.float32) for x in rows([[4]])])
    with pytest.raises(ArgumentError, match="sequence must be"):
        cache.remembered(1)
    with pytest.raises(ArgumentError, match="schema must have keys k and values v"):
        Ring.start(latent(2), window=2).append([np.ones((1, 1, 3, 2))]).blocks(0)
    with pytest.raises(ArgumentError, match="length must be the same for all sequences"):
        _ = cache.select([0, 0]).truncate([3, 4]).length
    assert cache.branch() is cache
    assert isinstance(cache.rows(), KeyValue)
    assert Ring.start(key_value(1, 2), window=2).blocks(0) == ()
