"""Wrong caches, stores and files that the machine over all must reject, and what it must call them."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest

from kvattn.caches import (
    Coded,
    KiviCache,
    Layered,
    Paged,
    PrefixBlocks,
    PrefixTrie,
    SharedLayers,
    SinkWindow,
    Snapshots,
    Static,
    placed,
    prefix_trie,
    saved,
)
from kvattn.caches.flattened import Flat, flatten
from kvattn.caches.snapshots import State
from kvattn.codecs import Kivi, Symmetric
from kvattn.testing.machines import keeping, storages
from kvattn.testing.machines.marked import schema_of
from kvattn.testing.machines.pooled import Pooled
from kvattn.testing.machines.storages import Sizes, Storage
from tests.caches.driven import complaint
from tests.mutants.test_cache_mutants import LeaksOnFree, WritesShared


def schemas(sizes: Sizes) -> Any:
    return schema_of(sizes.dtype)


class LosesARow(Paged[Any]):
    """The last row of what stays after truncation is not there."""

    __slots__ = ()

    def truncate(self, length: Any) -> Paged[Any]:
        right = super().truncate(length)
        return Paged.truncate(right, [max(0, n - (n < m)) for n, m in zip(right.lengths, self.lengths, strict=True)])


class Resurrects(Paged[Any]):
    """Truncate moves the length and keeps the rows; the next append is behind them."""

    __slots__ = ()

    def truncate(self, length: Any) -> Paged[Any]:
        right = super().truncate(length)
        return replace(right, _tables=self._tables)


class SelectsAnother(Paged[Any]):
    """Indices are sorted on the way."""

    __slots__ = ()

    def select(self, indices: Any) -> Paged[Any]:
        super().select(indices)
        return super().select(sorted(indices))


class MergesInAnotherOrder(Paged[Any]):
    """The sequences of the others come first."""

    __slots__ = ()

    def merge(self, *others: Any) -> Paged[Any]:
        right = super().merge(*others)
        return right.select([*range(self.batch, right.batch), *range(self.batch)])


class ShiftsWithoutTurning(Paged[Any]):
    """Positions move, keys stay turned as they were."""

    __slots__ = ()

    def shift(self, by: Any, turn: Any = None, **named: Any) -> Paged[Any]:
        return super().shift(by, None, **named)


class EvictsTheNext(Paged[Any]):
    """The slot behind the one that was meant is kept."""

    __slots__ = ()

    def evict(self, keep: Any) -> Paged[Any]:
        right = super().evict(keep)
        if any(None in self.pages(b) for b in range(self.batch)):
            return right
        each = zip(keep, self.lengths, strict=True)
        return super().evict([sorted({min(n + (n + 1 not in row), most - 1) for n in row}) for row, most in each])


def _paged(cls: Any, base: Storage = storages.PAGED) -> Storage:
    """Pages of a wrong class; placed where the storage is."""
    return replace(
        base,
        start=lambda sizes, batch: cls.start(
            placed(schemas(sizes)) if base.placed else schemas(sizes), batch, sizes.page
        ),
    )


class CropsTheSource(Static[Any]):
    """Rolling back takes rows of the source away."""

    def truncate(self, length: Any) -> Static[Any]:
        right = super().truncate(length)
        return replace(right, memory=right.memory.truncate(min(*right.lengths, *right.memory.lengths)))


class Grows(Static[Any]):
    """A source takes rows."""

    def append(self, rows: Any) -> Any:
        return replace(self, memory=self.memory.append(rows))


class LeavesTheSource(Static[Any]):
    """Beams are reordered, their sources are not."""

    def select(self, indices: Any) -> Static[Any]:
        right = super().select(indices)
        return replace(right, memory=self.memory.select([i % self.batch for i in range(right.batch)]))


def _static(cls: Any) -> Storage:
    def start(sizes: Sizes, batch: int) -> Any:
        right = storages.STATIC.start(sizes, batch)
        return cls(right.memory, right.lengths)

    return replace(storages.STATIC, start=start)


class ForgetsSinks(SinkWindow[Any]):
    """A plain ring: the first tokens go like all others."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[Any]:
        return replace(SinkWindow.append(replace(self, sinks=0), rows), sinks=self.sinks)


class KeepsOneTooFew(SinkWindow[Any]):
    """The window is counted without the query itself."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[Any]:
        return replace(SinkWindow.append(replace(self, window=max(1, self.window - 1)), rows), window=self.window)


class NeverForgets(SinkWindow[Any]):
    """Right to read, wrong to pay for."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[Any]:
        return replace(SinkWindow.append(replace(self, window=10**6), rows), window=self.window)


def _sinks(cls: Any) -> Storage:
    return replace(
        storages.SINKS,
        start=lambda sizes, batch: cls.start(
            schemas(sizes),
            sinks=sizes.sinks,
            window=sizes.window,
            rollback=sizes.rollback,
            batch=batch,
            page=sizes.page,
        ),
    )


class KeepsTheState(Snapshots[Any]):
    """Going back changes the length and keeps the present state."""

    def truncate(self, length: Any) -> Snapshots[Any]:
        right = super().truncate(length)
        histories = tuple(
            (*new[:-1], (new[-1][0], old[-1][1])) for new, old in zip(right.histories, self.histories, strict=True)
        )
        return replace(right, histories=histories)


class MixesStates(Snapshots[Any]):
    """Every sequence gets the states of the first."""

    def select(self, indices: Any) -> Snapshots[Any]:
        right = super().select(indices)
        return replace(right, histories=(right.histories[0],) * right.batch)


class RemembersOneTooFew(Snapshots[Any]):
    """Of the lengths that were promised the earliest is missing."""

    def append(self, states: Any, tokens: Any = None) -> Snapshots[Any]:
        right = super().append(states, tokens)
        return replace(right, histories=tuple(h[1:] if len(h) > max(1, self.rollback) else h for h in right.histories))


def _snapshots(cls: Any) -> Storage:
    def start(sizes: Sizes, batch: int) -> Any:
        right = storages.SNAPSHOTS.start(sizes, batch)
        return cls(right.row, right.rollback, right.histories)

    return replace(storages.SNAPSHOTS, start=start)


class TruncatesTheFirst(Layered):
    """Only the first part goes back, the others say that they did."""

    def truncate(self, length: Any) -> Layered:
        right = super().truncate(length)
        first, *others = right.parts
        kept = [
            replace(old, memory=replace(new.memory, _tables=old.memory._tables))
            for old, new in zip(self.parts[1:], others, strict=True)
        ]
        return type(self)((first, *(replace(k, memory=k.memory) for k in kept)))

    def append(self, rows: Any) -> Layered:
        return type(self)(super().append(rows).parts)

    def select(self, indices: Any) -> Layered:
        return type(self)(super().select(indices).parts)


class SelectsTheFirst(Layered):
    """Only the first part is reordered."""

    def append(self, rows: Any) -> Layered:
        return type(self)(super().append(rows).parts)

    def select(self, indices: Any) -> Layered:
        right = super().select(indices)
        if len(indices) != self.batch:
            return type(self)(right.parts)
        return type(self)((right.parts[0], *(part.truncate(right.lengths) for part in self.parts[1:])))


class SwapsLayers(Layered):
    """Each part is given the rows of the other."""

    def append(self, rows: Any) -> Layered:
        return type(self)(super().append(rows[::-1] if len(rows) == len(self.parts) else rows).parts)


def _layered(cls: Any) -> Storage:
    return replace(storages.LAYERED, start=lambda sizes, batch: cls(storages.LAYERED.start(sizes, batch).parts))


class ReadsTheLast(SharedLayers):
    """Readers take the part of the layer in front of them."""

    def layer(self, number: int) -> Any:
        return super().layer(max(0, number - 1))


def _shared(cls: Any) -> Storage:
    def start(sizes: Sizes, batch: int) -> Any:
        right = storages.SHARED.start(sizes, batch)
        return cls(right.memory, right.reads)

    return replace(storages.SHARED, start=start)


class StaleScales(Coded):
    """Codes of a token are read with the scales of the token before."""

    def rows(self, sequence: int = 0) -> Any:
        k, v = super().rows(sequence)
        wrong = np.concatenate([k[:, :, :1], k[:, :, 1:] * 0.5], axis=2)
        wrong.flags.writeable = False
        return type(super().rows(sequence))(wrong, v)


class SelectsCodesBack(Coded):
    """Sequences are dropped, never reordered."""

    def select(self, indices: Any) -> Coded:
        super().select(indices)
        return super().select(sorted(indices))


def _coded(cls: Any) -> Storage:
    return replace(
        storages.CODED,
        start=lambda sizes, batch: cls.start(
            schemas(sizes), keys=Symmetric(8), values=Symmetric(8), batch=batch, page=sizes.page
        ),
    )


class KeepsGroups(KiviCache):
    """Going back to nothing leaves settled groups, and new tokens settle behind them."""

    def truncate(self, length: Any) -> KiviCache:
        right = super().truncate(length)
        return replace(right, key_groups=self.key_groups)


class SettlesOneTooMany(KiviCache):
    """A residual settles with its last token, before that token was read whole."""

    def settled_of(self, tokens: int) -> int:
        return self.kivi.settled_keys(tokens)


def _kivi(cls: Any) -> Storage:
    return replace(
        storages.KIVI,
        start=lambda sizes, batch: cls.start(
            schemas(sizes), Kivi(bits=8, group=2, residual=2 * sizes.window), batch=batch, page=sizes.page
        ),
    )


def _pooled(pool: Any) -> Storage:
    return replace(
        storages.POOLED,
        start=lambda sizes, batch: Pooled.start(
            schemas(sizes), batch, sizes.page, pool(schemas(sizes), 12, sizes.page)
        ),
    )


# The words that are said, and the verb beside append that shows it: with all verbs most examples would do others.
WRONG: dict[str, tuple[Storage, str] | tuple[Storage, str, str]] = {
    "a row is lost after truncate": (_paged(LosesARow), "lost", "truncate"),
    "a row is back after truncate and append": (_paged(Resurrects), "resurrected", "truncate"),
    "a foreign row after select": (_paged(SelectsAnother), "foreign", "select"),
    "a foreign row after merge": (_paged(MergesInAnotherOrder), "foreign", "merge"),
    "keys not turned by a shift": (_paged(ShiftsWithoutTurning, storages.PLACED), "not re-rotated", "shift"),
    "another token is evicted": (_paged(EvictsTheNext, storages.PLACED), "positions of sequence", "evict"),
    "a source is cropped": (_static(CropsTheSource), "lost", "truncate"),
    "a source grows": (_static(Grows), "a source must not grow"),
    "a source of another": (_static(LeavesTheSource), "foreign", "select"),
    "sinks are forgotten": (_sinks(ForgetsSinks), "released"),
    "a window is one too short": (_sinks(KeepsOneTooFew), "lost|must be done"),
    "a window never forgets": (_sinks(NeverForgets), "must be forgotten"),
    "a state is not taken back": (_snapshots(KeepsTheState), "another's", "truncate"),
    "a state of another": (_snapshots(MixesStates), "another's", "select"),
    "a state is missing": (_snapshots(RemembersOneTooFew), "must be kept", "truncate"),
    "one layer is taken back": (_layered(TruncatesTheFirst), "", "truncate"),
    "one layer is reordered": (_layered(SelectsTheFirst), "", "select"),
    "layers are swapped": (_layered(SwapsLayers), "changed"),
    "a reader reads another": (_shared(ReadsTheLast), "changed"),
    "scales of another": (_coded(StaleScales), "lost", "truncate"),
    "codes of another": (_coded(SelectsCodesBack), "foreign", "select"),
    "groups are left": (_kivi(KeepsGroups), "resurrected", "truncate"),
    "a token settles early": (_kivi(SettlesOneTooMany), ""),
    "a block is leaked": (_pooled(LeaksOnFree), "references must end at zero", "truncate"),
    "two write into one block": (_pooled(WritesShared), ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_cache_is_rejected(name: str) -> None:
    storage, words, *verbs = WRONG[name]
    said = complaint(storage, *verbs, words=words)
    assert said
    assert re.search(words, said)


def _for_all_adapters(right: Callable[..., Any]) -> Callable[..., Any]:
    """The adapter is not part of the key (vLLM #3264)."""
    return lambda self, origin, *more: right(self, replace(origin, adapter=None), *more)


RIGHT_LONGEST = PrefixTrie.longest


def _without_a_cut(self: PrefixTrie[Any], origin: Any, tokens: Any) -> Any:
    """The cache is given as it was remembered, with tokens behind those that were asked for."""
    found, store = RIGHT_LONGEST(self, origin, tokens)
    kept = [
        kept for _, kept in self._all() if found.length and kept.tokens[: found.length] == tuple(tokens)[: found.length]
    ]
    return (found._replace(cache=kept[0].cache), store) if kept else (found, store)


@pytest.mark.parametrize("store", [PrefixTrie, PrefixBlocks])
def test_a_prefix_of_another_adapter_is_rejected(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb in ("remember", "longest"):
        monkeypatch.setattr(store, verb, _for_all_adapters(getattr(store, verb)))
    assert "foreign" in complaint(storages.PAGED, "remember", "reuse", words="foreign")


def test_a_hash_that_is_believed_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefixBlocks, "_is", lambda self, known, origin, tokens, end, before: True)
    monkeypatch.setattr(
        PrefixBlocks, "_payload", lambda self, parent, origin, first, tokens: repr((first, tokens)).encode()
    )
    assert "foreign" in complaint(storages.PAGED, "remember", "reuse", words="foreign")


def test_a_prefix_that_is_not_cut_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefixTrie, "longest", _without_a_cut)
    assert complaint(storages.PAGED, "remember", "reuse")


def test_a_store_that_evicts_nothing_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_trie, "too_many", lambda caches, budget: 0)
    assert "a store must keep its budget" in complaint(storages.PAGED, "remember")


def _swapped(path: Path, cache: Any) -> None:
    """Two rows change places on the way."""
    flat = flatten(cache)
    arrays = {
        name: np.concatenate([x[:, 1:2], x[:, :1], x[:, 2:]], axis=1) if x.ndim == 3 else x
        for name, x in flat.arrays.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved, "flatten", lambda cache: Flat(flat.header, arrays))
        saved.save_npz(path, cache)


def _believing(path: Path, like: Any) -> Any:
    """No look at the checksum."""
    whole = path.read_bytes()[: -saved._TRAILER]
    path.write_bytes(whole + saved._MARK + sha256(whole).hexdigest().encode())
    return saved.restore_npz(path, like)


def _one_by_one(path: Path, like: Any) -> Any:
    """Sequences that shared pages share none any more."""
    right = saved.restore_npz(path, like)
    parts = []
    for b in range(right.batch):
        saved.save_npz(path, right.select([b]))
        parts.append(saved.restore_npz(path, like))
    return parts[0].merge(*parts[1:])


@pytest.mark.parametrize(
    ("save", "restore", "words"),
    [
        (_swapped, saved.restore_npz, "displaced|foreign"),
        (saved.save_npz, _believing, "changed must be refused, but it was taken"),
        (saved.save_npz, _one_by_one, "pages must be shared as before"),
    ],
    ids=["two rows swapped", "checksum not read", "pages not shared"],
)
def test_a_wrong_way_to_a_file_and_back_is_rejected(
    save: Any, restore: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FORMATS", {"npz": (save, restore)})
    assert re.search(words, complaint(storages.PAGED, "save_and_restore", "select", words=words))


def test_memory_that_somebody_keeps_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, right = [], State.__init__

    def keeps(self: State, arrays: Any) -> None:
        right(self, arrays)
        kept.append(self)

    monkeypatch.setattr(State, "__init__", keeps)
    assert re.search("bytes are alive|no byte must be held at the end", complaint(storages.SNAPSHOTS))


FAULT_CLASSES = {
    "crop-rollback": [LosesARow, Resurrects, TruncatesTheFirst, KeepsGroups],
    "beam-reorder": [SelectsAnother, SelectsTheFirst, SelectsCodesBack, LeavesTheSource],
    "kv-shift": [ShiftsWithoutTurning],
    "cross-cache": [CropsTheSource, Grows],
    "window-cache": [ForgetsSinks, KeepsOneTooFew],
    "linear-state": [KeepsTheState, MixesStates, RemembersOneTooFew],
    "shared-kv-layers": [ReadsTheLast],
    "quantised-kv": [StaleScales],
    "prefix-key": [_for_all_adapters],
    "prefix-reuse": [_without_a_cut],
    "leak": [NeverForgets, LeaksOnFree],
    "block-ownership": [WritesShared],
}
"""The mutants above that belong to a class of `kvattn.testing.fault_classes`."""
