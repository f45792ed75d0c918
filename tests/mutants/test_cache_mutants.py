"""Wrong caches that the machines must reject within 400 examples; tests/testing runs the right ones.

Each is small, and most are real: the number of an upstream thread stands where one is known.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from hypothesis.stateful import RULE_MARKER, RuleBasedStateMachine
import numpy as np
import pytest

from kvattn.caches import paged, pages, tables
from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.pages import Page
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.rows import Schema, key_value, placed
from kvattn.caches.vectors import Vector
from kvattn.errors import KvattnError
from kvattn.positions import Rotary
from kvattn.testing.machines import PagedMachine, PoolMachine
from kvattn.typing import Array
from tests.caches.driven import failures


def rejected(machine: type[RuleBasedStateMachine]) -> bool:
    """Whether the machine fails: by a sentence of its own, or because a legal step was refused."""
    return any(isinstance(error, AssertionError | KvattnError) for error in failures(machine, 50))


def paged_machine(cache: type[Paged[Any]]) -> type[RuleBasedStateMachine]:
    """The machine with append and the verbs that the class overrides: with all, most steps would be others."""
    kept = ("append", "refusals", *vars(cache))
    left = [
        name
        for name in dir(PagedMachine)
        if hasattr(getattr(PagedMachine, name), RULE_MARKER) and not name.startswith(kept)
    ]

    class Machine(PagedMachine):
        def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
            return cache.start(schema, batch, page)

    return type("Machine", (Machine,), dict.fromkeys(left))


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

    def append(self, rows: Any, *more: Any, **named: Any) -> Paged[Any]:
        cast_ones = [np.asarray(x).astype(f.dtype) for x, f in zip(rows, self.schema.fields, strict=False)]
        return super().append(cast_ones, *more, **named)


class ChecksLate(Paged[Any]):
    """A refused append has already written."""

    __slots__ = ()

    def append(self, rows: Any, *more: Any, **named: Any) -> Paged[Any]:
        if len(rows) < len(self.schema.fields):
            for table, length in zip(self._tables, self.lengths, strict=True):
                if length % self.page:
                    cast(Page, table[-1])._writers[0][..., 0] = 0.0
        return super().append(rows, *more, **named)


class MergeLosesAToken(Paged[Any]):
    """What is joined on is one token short."""

    __slots__ = ()

    def merge(self, *others: Any) -> Paged[Any]:
        right = super().merge(*others)
        return right.truncate([*right.lengths[:-1], max(0, right.lengths[-1] - 1)])


class MergeChangesOwners(Paged[Any]):
    """Others come first, so that every sequence answers to another one's number."""

    __slots__ = ()

    def merge(self, *others: Any) -> Paged[Any]:
        right = super().merge(*others)
        return right.select([*range(self.batch, right.batch), *range(self.batch)])


class MergeTakesTheFirstEnd(Paged[Any]):
    """All sequences go on at the first one's position (unsloth #3699)."""

    __slots__ = ()

    def merge(self, *others: Any) -> Paged[Any]:
        right = super().merge(*others)
        return replace(right, ends=right.ends[:1] * right.batch) if self.schema.placed else right


class MergeTakesAnything(Paged[Any]):
    """Pages of another size are joined in silence."""

    __slots__ = ()

    def merge(self, *others: Any) -> Paged[Any]:
        return super().merge(*(replace(other, page=self.page) for other in others))


class RepeatTiles(Paged[Any]):
    """The batch n times over, in the place of each sequence n times."""

    __slots__ = ()

    def repeat(self, n: int) -> Paged[Any]:
        super().repeat(n)
        return self.select([*range(self.batch)] * n)


class SplitsFromTheEnd(Paged[Any]):
    """Sizes are counted from the last sequence."""

    __slots__ = ()

    def split(self, sizes: Any) -> Any:
        super().split(sizes)
        parts = super().split(list(reversed(sizes)))
        return tuple(reversed(parts))


class RaggedKeepsPadding(Paged[Any]):
    """Padding becomes tokens."""

    __slots__ = ()

    def append(self, rows: Any, positions: Any = None, counts: Any = None) -> Paged[Any]:
        right = super().append(rows, positions, counts)
        return right if counts is None or positions is not None else super().append(rows)


class RaggedWritesAtTheFirstEnd(Paged[Any]):
    """Every sequence takes as many tokens as the first (gemma #765)."""

    __slots__ = ()

    def append(self, rows: Any, positions: Any = None, counts: Any = None) -> Paged[Any]:
        super().append(rows, positions, counts)
        first = None if counts is None else [counts[0]] * self.batch
        return super().append(rows, positions if counts is None else None, first)


class EvictsOffByOne(Paged[Any]):
    """The slot behind the one that was meant is kept."""

    __slots__ = ()

    def evict(self, keep: Any) -> Paged[Any]:
        right = super().evict(keep)
        if any(isinstance(x, bool) for row in keep for x in row) or any(
            None in self.pages(b) for b in range(self.batch)
        ):
            return right
        return super().evict(
            [[n if n + 1 in row else min(n + 1, most - 1) for n in row] for row, most in self._rows(keep)]
        )

    def _rows(self, keep: Any) -> Any:
        return zip(keep, self.lengths, strict=True)


class EvictForgetsNothing(Paged[Any]):
    """Tokens that were to go are there again."""

    __slots__ = ()

    def evict(self, keep: Any) -> Paged[Any]:
        super().evict(keep)
        return self


class EvictCountsAnew(Paged[Any]):
    """The next token's position is the number of tokens kept (llama.cpp #12160)."""

    __slots__ = ()

    def evict(self, keep: Any) -> Paged[Any]:
        right = super().evict(keep)
        return replace(right, ends=right.lengths)


class EvictCopiesAll(Paged[Any]):
    """Pages in front of the first change are written again too: right to read, wrong to pay for."""

    __slots__ = ()

    def evict(self, keep: Any) -> Paged[Any]:
        right = super().evict(keep)
        tables = tuple(
            Vector.of([None if page is None else page.copy(page.filled) for page in table]) for table in right._tables
        )
        return replace(right, _tables=tables)


class ShiftsTwice(Paged[Any]):
    """Positions move twice as far."""

    __slots__ = ()

    def shift(self, by: Any, *more: Any, **named: Any) -> Paged[Any]:
        return Paged.shift(super().shift(by, *more, **named), by, None, **named)


class ShiftTurnsTwice(Paged[Any]):
    """Positions are right, and keys are turned twice as far."""

    __slots__ = ()

    def shift(self, by: Any, turn: Any = None, **named: Any) -> Paged[Any]:
        return super().shift(by, turn and Twice(), **named)


class Twice:
    def shift(self, x: Array, by: Any) -> Array:
        return np.ldexp(x, 2 * int(by))


class ShiftMovesTheKeysOfAll(Paged[Any]):
    """Keys in front of the first slot that moves are turned with their page."""

    __slots__ = ()

    def shift(self, by: Any, turn: Any = None, *, start: Any = 0, field: str = "k") -> Paged[Any]:
        right = super().shift(by, turn, start=start, field=field)
        if turn is None or not isinstance(start, int):
            return right
        return super().shift(by, turn, start=start // self.page * self.page, field=field)


class ShiftLeavesTheEnd(Paged[Any]):
    """Tokens to come stand where they would have stood before."""

    __slots__ = ()

    def shift(self, by: Any, *more: Any, **named: Any) -> Paged[Any]:
        return replace(super().shift(by, *more, **named), ends=self.ends)


class ShiftTurnsValuesToo(Paged[Any]):
    """Values are turned on as keys are."""

    __slots__ = ()

    def shift(self, by: Any, turn: Any = None, *, start: Any = 0, field: str = "k") -> Paged[Any]:
        right = super().shift(by, turn, start=start, field=field)
        if turn is None or not isinstance(by, int):
            return right
        moved: Paged[Any] = self
        for step, what, name in sorted([(by, turn, field), (by, turn, "v"), (-by, None, field)], key=lambda s: -s[0]):
            moved = Paged.shift(moved, step, what, start=start, field=name)  # up first: none goes below 0
        return moved


class ShiftTurnsByThePosition(Paged[Any]):
    """Keys are turned by the new position of the first of them in place of the difference."""

    __slots__ = ()

    def shift(self, by: Any, turn: Any = None, *, start: Any = 0, field: str = "k") -> Paged[Any]:
        there = isinstance(start, int) and start < self.lengths[0]
        first = int(self.positions(0)[start]) if there else 0
        return super().shift(by, turn and Absolute(turn, first + by), start=start, field=field)


class Absolute:
    def __init__(self, turn: Any, position: int) -> None:
        self.turn, self.position = turn, position

    def shift(self, x: Array, by: Any) -> Any:
        return self.turn.shift(x, np.full(x.shape[-2], self.position))


class CommitKeepsASibling(Paged[Any]):
    """A node that was rejected stays beside the path."""

    __slots__ = ()

    def commit(self, prefix: Any, path: Any) -> Paged[Any]:
        right = super().commit(prefix, path)
        room = self.lengths[0] - prefix[0] if isinstance(prefix, list) else 0
        if path and isinstance(path[0], int) and 0 < path[0] < room:
            return super().commit(prefix, [path[0] - 1, *path])
        return right


class CommitKeepsTheTree(Paged[Any]):
    """Nothing is dropped, and rejected tokens are there again."""

    __slots__ = ()

    def commit(self, prefix: Any, path: Any) -> Paged[Any]:
        super().commit(prefix, path)
        return self


class CommitKeepsTheFirstNodes(Paged[Any]):
    """As many tokens as were accepted, but the first ones."""

    __slots__ = ()

    def commit(self, prefix: Any, path: Any) -> Paged[Any]:
        return self.truncate(super().commit(prefix, path).lengths)


@pytest.mark.parametrize(
    "cache",
    [
        MergeLosesAToken,
        MergeChangesOwners,
        MergeTakesTheFirstEnd,
        MergeTakesAnything,
        RepeatTiles,
        SplitsFromTheEnd,
        RaggedKeepsPadding,
        RaggedWritesAtTheFirstEnd,
        EvictsOffByOne,
        EvictForgetsNothing,
        EvictCountsAnew,
        EvictCopiesAll,
        ShiftsTwice,
        ShiftTurnsTwice,
        ShiftMovesTheKeysOfAll,
        ShiftLeavesTheEnd,
        CommitKeepsASibling,
        CommitKeepsTheTree,
        CommitKeepsTheFirstNodes,
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


@pytest.mark.parametrize(
    ("cache", "right"), [(Paged, True), (ShiftTurnsValuesToo, False), (ShiftTurnsByThePosition, False)]
)
def test_a_shift_that_turns_other_rows_or_by_another_angle_is_rejected(cache: type[Paged[Any]], right: bool) -> None:
    """A moved key is a fresh key at that place, and no value changes."""
    rotary, kept = Rotary.of(4), [0, 1, 4, 5]
    k, v = np.random.default_rng(0).standard_normal((2, 1, 2, 6, 4))
    held = cache.start(placed(key_value(2, 4)), 1, 4).append([rotary.keys(k, np.arange(6)[None]), v])
    moved = held.evict([kept]).shift(-2, rotary, start=2)
    assert moved.positions(0).tolist() == [0, 1, 2, 3]
    fresh = rotary.keys(k[:, :, kept], np.arange(4)[None])
    assert (np.allclose(moved.rows().k, fresh, atol=1e-12) and np.array_equal(moved.rows().v, v[:, :, kept])) == right


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


def _leaks_rows(schema: Schema[Any], size: int, table: Any, first: int, start: int, stop: int) -> Any:
    """Columns behind the end keep what the page has there: NaN, or the rows of another branch."""
    block = RIGHT_GATHER(schema, size, table, first, start, stop)
    if block is None or size != BLOCK or table[start // size - first] is None:
        return block
    return block._replace(arrays=table[start // size - first].arrays[: len(schema.fields)])


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


FAULT_CLASSES = {
    "crop-rollback": [
        Resurrecting,
        TruncatesOneTooMany,
        TruncateZeroKeepsAll,
        NegativeTruncation,
        TruncatesOneBlockLess,
    ],
    "beam-reorder": [SelectsKeysOnly, SelectForgetsOrder, RepeatTiles],
    "cache-dtype": [CastsQuietly],
    "batch-row-state": [MergeChangesOwners, MergeTakesTheFirstEnd, RaggedWritesAtTheFirstEnd],
    "padding-positions": [RaggedKeepsPadding],
    "window-cache": [ReleasesHalfPages],
    "kv-shift": [
        ShiftsTwice,
        ShiftTurnsTwice,
        ShiftMovesTheKeysOfAll,
        ShiftLeavesTheEnd,
        ShiftTurnsValuesToo,
        ShiftTurnsByThePosition,
    ],
    "rope-offset": [EvictCountsAnew],
    "spec-tree": [CommitKeepsASibling, CommitKeepsTheTree, CommitKeepsTheFirstNodes],
    "block-ownership": [ForksByName, WritesShared, DoubleFree, ReusesNames],
    "leak": [LeaksOnFree, LeaksOnTruncate],
    "stale-state": [FreesDirty, TruncatesDirty],
}
"""The mutants above that belong to a class of `kvattn.testing.fault_classes`."""
