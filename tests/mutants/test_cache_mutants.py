"""Wrong caches that the machines must reject within 300 examples; tests/testing runs the right ones.

Each is small, and most are real: the number of an upstream thread stands where one is known.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
import numpy as np
import pytest

from kvattn.caches import paged, pages, tables
from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.pages import Page
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.rows import Schema
from kvattn.errors import KvattnError
from kvattn.testing.machines import PagedMachine, PoolMachine

# Shrinking a failure that is expected only costs time; most are found within 25 examples, the rest need a longer look.
PROFILE = settings(phases=[Phase.generate], max_examples=300)


def rejected(machine: type[RuleBasedStateMachine]) -> bool:
    """Whether the machine fails: by a sentence of its own, or because a legal step was refused."""
    with pytest.raises(Exception) as found:  # noqa: PT011
        run_state_machine_as_test(machine, settings=PROFILE)
    raised = found.value
    leaves = list(raised.exceptions) if isinstance(raised, BaseExceptionGroup) else [raised]
    return any(isinstance(leaf, AssertionError | KvattnError) for leaf in leaves)


def paged_machine(cache: type[Paged[Any]]) -> type[RuleBasedStateMachine]:
    class Machine(PagedMachine):
        def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
            return cache.start(schema, batch, page)

    return Machine


def pool_machine(cache: type[BlockPool[Any]]) -> type[RuleBasedStateMachine]:
    class Machine(PoolMachine):
        def start_pool(self, schema: Schema[Any], blocks: int, size: int) -> Any:
            return cache(schema, blocks, size)

    return Machine


class Resurrecting(Paged[Any]):
    """Truncate moves the length and keeps the rows; the next append brings them back (mlx-lm #1502)."""

    __slots__ = ()

    def truncate(self, length: Any) -> Paged[Any]:
        right = super().truncate(length)
        return replace(right, _tables=self._tables)


class TruncatesOneTooMany(Paged[Any]):
    """One token more than asked for is forgotten (mlxcel #994)."""

    __slots__ = ()

    def truncate(self, length: Any) -> Paged[Any]:
        right = super().truncate(length)
        return Paged.truncate(right, tuple(max(0, n - 1) for n in right.lengths))


class TruncateZeroKeepsAll(Paged[Any]):
    """``x[-0:]`` is everything (transformers #47433)."""

    __slots__ = ()

    def truncate(self, length: Any) -> Paged[Any]:
        right = super().truncate(length)
        return self if isinstance(length, int) and length == 0 else right


class NegativeTruncation(Paged[Any]):
    """A negative length counts from the end, as a slice does."""

    __slots__ = ()

    def truncate(self, length: Any) -> Paged[Any]:
        if isinstance(length, int) and length < 0:
            return super().truncate(max(0, min(self.lengths) + length))
        return super().truncate(length)


class SelectsKeysOnly(Paged[Any]):
    """Beams are reordered in k; v stays where it was."""

    __slots__ = ()

    def select(self, indices: Any) -> Paged[Any]:
        right = super().select(indices)
        if len(right.lengths) != len(self.lengths) or right.lengths != self.lengths:
            return right
        halves = []
        for b in range(self.batch):
            k, v = right.rows(sequence=b).k, self.rows(sequence=b).v
            halves.append((k, v))
        fresh = Paged.start(self.schema, self.batch, self.page)
        return (
            fresh.append([np.concatenate(x) for x in zip(*halves, strict=True)])
            if len(set(self.lengths)) == 1
            else right
        )


class SelectForgetsOrder(Paged[Any]):
    """The chosen sequences come out sorted."""

    __slots__ = ()

    def select(self, indices: Any) -> Paged[Any]:
        super().select(indices)
        return super().select(sorted(indices))


class BranchCopies(Paged[Any]):
    """A branch that copies every row: right to read, wrong to pay for."""

    __slots__ = ()

    def branch(self) -> Paged[Any]:
        if len(set(self.lengths)) > 1 or any(None in self.pages(b) for b in range(self.batch)):
            return self
        return Paged.start(self.schema, self.batch, self.page).append(self.rows())


class ReleasesHalfPages(Paged[Any]):
    """Pages that lie only partly inside what may be forgotten go too (evict before all have read)."""

    __slots__ = ()

    def release(self, start: int, stop: Any) -> Paged[Any]:
        return super().release(start // self.page * self.page, stop)


class CastsQuietly(Paged[Any]):
    """Rows of another dtype are cast in silence (vllm #54338)."""

    __slots__ = ()

    def append(self, rows: Any) -> Paged[Any]:
        return super().append([np.asarray(x).astype(f.dtype) for x, f in zip(rows, self.schema.fields, strict=False)])


class ChecksLate(Paged[Any]):
    """A refused append has already written."""

    __slots__ = ()

    def append(self, rows: Any) -> Paged[Any]:
        if len(rows) < len(self.schema.fields):
            for table, length in zip(self._tables, self.lengths, strict=True):
                if length % self.page:
                    cast(Page, table[-1])._writers[0][..., 0] = 0.0
        return super().append(rows)


@pytest.mark.parametrize(
    "cache",
    [
        Resurrecting,
        TruncatesOneTooMany,
        TruncateZeroKeepsAll,
        NegativeTruncation,
        SelectsKeysOnly,
        SelectForgetsOrder,
        BranchCopies,
        ReleasesHalfPages,
        CastsQuietly,
        ChecksLate,
    ],
    ids=lambda cache: cache.__name__,
)
def test_a_wrong_persistent_cache_is_rejected(cache: type[Paged[Any]]) -> None:
    assert rejected(paged_machine(cache))


def _claims_always(self: Page, start: int, stop: int) -> bool:
    """Two branches write into the same room: copy-on-write forgotten."""
    self.filled = max(self.filled, stop)
    return True


def _claims_at_mark_or_below(self: Page, start: int, stop: int) -> bool:
    """Whoever was cut back below the mark writes over the rows of others."""
    if start > self.filled:
        return False
    self.filled = stop
    return True


def _copies_one_too_few(self: Page, stop: int) -> Page:
    twin = Page(self._schema, self.size)
    twin.claim(0, stop)
    twin.write(0, self.read(0, max(0, stop - 1)))
    return twin


def _copies_nothing(self: Page, stop: int) -> Page:
    twin = Page(self._schema, self.size)
    twin.claim(0, stop)
    return twin


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("claim", _claims_always),
        ("claim", _claims_at_mark_or_below),
        ("copy", _copies_one_too_few),
        ("copy", _copies_nothing),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_a_wrong_page_is_rejected(monkeypatch: pytest.MonkeyPatch, name: str, wrong: Callable[..., Any]) -> None:
    monkeypatch.setattr(pages.Page, name, wrong)
    assert rejected(paged_machine(Paged))


def _leaks_rows(schema: Schema[Any], size: int, table: Any, start: int, stop: int) -> Any:
    """Columns behind the end keep what the page has there: NaN, or the rows of another branch."""
    block = RIGHT_GATHER(schema, size, table, start, stop)
    if block is None or size != BLOCK or table[start // size] is None:
        return block
    return block._replace(arrays=table[start // size].arrays)


RIGHT_GATHER = tables._gathered


def test_a_block_that_shows_unowned_columns_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_gathered", _leaks_rows)
    assert rejected(paged_machine(Paged))


def test_bytes_that_count_a_shared_page_twice_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(cache: Any) -> int:
        return sum(page.nbytes for table in cache._tables for page in table if page is not None)

    monkeypatch.setattr(paged, "live_bytes", twice)
    assert rejected(paged_machine(Paged))


class ForksByName(BlockPool[Any]):
    """Fork shares the table but nobody counts, so the partly filled block is written by both."""

    def fork(self, handle: Handle) -> Handle:
        return self._name(list(self._live(handle)), self._lengths[handle])


class WritesShared(BlockPool[Any]):
    """Counts are right, but append does not look at them: copy-on-write forgotten."""

    def append(self, handle: Handle, rows: Any) -> None:
        table, length = self._live(handle), self.length(handle)
        if length % self.size:
            counted = self._counts[table[-1]]
            self._counts[table[-1]] = 1
            try:
                super().append(handle, rows)
            finally:
                self._counts[table[length // self.size]] = counted
        else:
            super().append(handle, rows)


class FreesDirty(BlockPool[Any]):
    """Freed blocks keep their rows."""

    def _clean(self, blocks: Any, first: int) -> None:
        pass


class TruncatesDirty(BlockPool[Any]):
    """Rows behind the new end stay in the block."""

    dirty = False

    def truncate(self, handle: Handle, length: int) -> None:
        self.dirty = True
        super().truncate(handle, length)
        self.dirty = False

    def _clean(self, blocks: Any, first: int) -> None:
        if not self.dirty:
            super()._clean(blocks, first)


class LeaksOnFree(BlockPool[Any]):
    """The last block of a freed sequence is never given back."""

    def free(self, handle: Handle) -> None:
        table = self._live(handle)
        if table:
            self._counts[table[-1]] += 1
        super().free(handle)


class LeaksOnTruncate(BlockPool[Any]):
    """Truncate moves the length and keeps the blocks."""

    def truncate(self, handle: Handle, length: int) -> None:
        table = list(self._live(handle))
        super().truncate(handle, length)
        for block in table[len(self._live(handle)) :]:
            if not self._counts[block]:
                self._spare.remove(block)


class DoubleFree(BlockPool[Any]):
    """Freeing a stale name is taken in silence."""

    def free(self, handle: Handle) -> None:
        if handle in self._tables:
            super().free(handle)


class ReusesNames(BlockPool[Any]):
    """A freed name is given out again, so a stale handle reads another sequence."""

    def free(self, handle: Handle) -> None:
        super().free(handle)
        self._given = handle.number


class ExhaustedHalfway(BlockPool[Any]):
    """An append that does not fit writes what it can before it fails."""

    def append(self, handle: Handle, rows: Any) -> None:
        room = (len(self._spare) + len(self._live(handle))) * self.size - self.length(handle)
        shared = self._live(handle) and self._counts[self._live(handle)[-1]] > 1
        if not shared and 0 < room < rows[0].shape[2]:
            super().append(handle, [x[:, :, :room] for x in rows])
            raise ValueError("no block is free")
        super().append(handle, rows)


class TruncatesOneBlockLess(BlockPool[Any]):
    """``length // size`` blocks are kept where the ceiling is needed."""

    def truncate(self, handle: Handle, length: int) -> None:
        super().truncate(handle, length)
        table = self._live(handle)
        if length % self.size and len(table) > 1:
            self._drop([table.pop()])


@pytest.mark.parametrize(
    "cache",
    [
        ForksByName,
        WritesShared,
        FreesDirty,
        TruncatesDirty,
        LeaksOnFree,
        LeaksOnTruncate,
        DoubleFree,
        ReusesNames,
        ExhaustedHalfway,
        TruncatesOneBlockLess,
    ],
    ids=lambda cache: cache.__name__,
)
def test_a_wrong_pool_is_rejected(cache: type[BlockPool[Any]]) -> None:
    assert rejected(pool_machine(cache))
