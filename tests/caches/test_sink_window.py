"""Sinks and window: every query finds what it may see, and what is taken back is exact or refused."""

from dataclasses import replace
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, SinkWindow, key_value, live_bytes
from kvattn.errors import ArgumentError, DtypeError, KvattnError, RollbackError

SCHEMA = key_value(1, 2, 1)


def rows(tokens: list[int]) -> KeyValue:
    numbers = np.array(tokens, float).reshape(1, 1, -1, 1)
    return KeyValue(np.concatenate([numbers, numbers + 0.5], 3), -numbers)


def start(sinks: int, window: int, rollback: int, page: int) -> SinkWindow[KeyValue]:
    return SinkWindow.start(SCHEMA, sinks=sinks, window=window, rollback=rollback, page=page)


def sees(query: int, sinks: int, window: int) -> set[int]:
    """List what a query may see: the first keys, and itself with those just before it."""
    return {key for key in range(query + 1) if key < sinks or query - key < window}


def shown(cache: SinkWindow[KeyValue]) -> dict[int, float]:
    """Slot and value of every column that the blocks hold."""
    found = {}
    for block in cache.blocks(0):
        for column in range(256):
            if block.held is None or block.held[column]:
                found[int(block.positions[column])] = -float(block.v[0, column, 0])
            else:
                assert not block.k[:, :, column].any()
    return found


def agrees(cls: type[SinkWindow[KeyValue]]) -> None:
    """Compare a cache with a list that forgets nothing, through any appends and cuts."""

    @settings(phases=[Phase.generate] if cls is not SinkWindow else tuple(Phase))
    @given(
        sinks=st.integers(0, 4),
        window=st.integers(1, 6),
        rollback=st.integers(0, 4),
        page=st.sampled_from([1, 2, 3, 5, 256]),
        steps=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=8),
    )
    def check(sinks: int, window: int, rollback: int, page: int, steps: list[tuple[int, int]]) -> None:
        cache, twin = (
            cls.start(SCHEMA, sinks=sinks, window=window, rollback=rollback, page=size) for size in (page, 1)
        )
        tokens: list[int] = []
        fresh, promised = 1, 0
        for new, back in steps:
            before = len(tokens)
            promised = max(promised, before - rollback) if new else promised
            added = list(range(fresh, fresh + new))
            fresh += new
            tokens += added
            cache, twin = cache.append(rows(added)), twin.append(rows(added))
            found = shown(cache)
            for query in range(before, len(tokens)):
                assert sees(query, sinks, window) <= found.keys()
            assert all(tokens[slot] == token for slot, token in found.items())
            slots = cache.remembered(0)
            assert slots.tolist() == twin.remembered(0).tolist() == sorted(shown(twin))
            assert not new or len(slots) <= sinks + window - 1 + rollback + new
            assert cache.rows().v.ravel().tolist() == [-float(tokens[slot]) for slot in slots]

            length = max(0, len(tokens) - back)
            try:
                cut = cache.truncate(length)
            except RollbackError:
                assert length < promised
                with pytest.raises(RollbackError):
                    twin.truncate(length)
                continue
            twin = twin.truncate(length)
            assert sees(length, sinks, window) - {length} <= shown(cut).keys()
            cache, tokens = cut, tokens[:length]

    check()


@pytest.mark.by_hand("caches/sink_window")
@pytest.mark.law("caches/sink_window", "agrees with a list that forgets nothing", "bits")
def test_it_agrees_with_a_list_that_forgets_nothing() -> None:
    agrees(SinkWindow)


class EvictsTooEarly(SinkWindow[KeyValue]):
    """Forget after the append what the last of its tokens does not need, before the first has read."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[KeyValue]:
        grown = super().append(rows)
        keep = self.window - 1 + self.rollback
        forgotten = tuple(max(f, n - keep) for f, n in zip(grown.forgotten, grown.lengths, strict=True))
        stops = [min(f, n) for f, n in zip(forgotten, grown.lengths, strict=True)]
        return replace(grown, memory=grown.memory.release(self.sinks, stops), forgotten=forgotten)


class KeepsOneTooFew(SinkWindow[KeyValue]):
    """The window is counted without the query itself on one side only."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[KeyValue]:
        short = replace(self, window=max(1, self.window - 1))
        return replace(SinkWindow.append(short, rows), window=self.window)


class ForgetsSinks(SinkWindow[KeyValue]):
    """A plain ring: the first tokens go like all others."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[KeyValue]:
        return replace(SinkWindow.append(replace(self, sinks=0), rows), sinks=self.sinks)


class ForgetsNothing(SinkWindow[Any]):
    """Everything stays."""

    def append(self, rows: Any, positions: Any = None) -> SinkWindow[Any]:
        return replace(self, memory=self.memory.append(rows))


class GoesBackInSilence(SinkWindow[Any]):
    """A length that is no longer remembered is returned to with a hole in the window (mlx-lm #1427)."""

    def truncate(self, length: Any) -> SinkWindow[Any]:
        try:
            return super().truncate(length)
        except RollbackError:
            start = -(-min(length, self.lengths[0]) // self.memory.page) * self.memory.page
            return replace(self, memory=self.memory.truncate(min(start, self.lengths[0])))


@pytest.mark.parametrize(
    "wrong",
    [EvictsTooEarly, KeepsOneTooFew, ForgetsSinks, ForgetsNothing, GoesBackInSilence],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_one_is_rejected(wrong: type[SinkWindow[KeyValue]]) -> None:
    with pytest.raises((AssertionError, KvattnError)):
        agrees(wrong)


@pytest.mark.law("caches/sink_window", "memory stays the same however long it runs", "integers")
def test_memory_stays_the_same_however_long_it_runs() -> None:
    cache = start(sinks=4, window=32, rollback=8, page=4)
    sizes = set()
    for token in range(400):
        cache = cache.append(rows([token]))
        if token > 60:
            sizes.add(cache.nbytes // (4 * SCHEMA.nbytes))
    assert max(sizes) <= 1 + -(-(31 + 8 + 1) // 4) + 1
    assert cache.length == 400


def test_old_values_keep_what_later_ones_forget() -> None:
    old = start(sinks=1, window=2, rollback=0, page=1).append(rows(list(range(10))))
    new = old.append(rows([10]))
    assert new.remembered(0).tolist() == [0, 9, 10]
    assert old.remembered(0).tolist() == list(range(10))
    assert shown(old) == {n: float(n) for n in range(10)}
    assert live_bytes(old, new) == 11 * SCHEMA.nbytes


def test_it_says_how_far_it_can_go_back() -> None:
    cache = start(sinks=2, window=4, rollback=3, page=1).append(rows(list(range(20)))).append(rows([20]))
    assert cache.earliest == (17,)
    assert cache.truncate(17).length == 17
    with pytest.raises(
        RollbackError, match=r"must be at least 17 \(or at most 2\), got 16: slots 2 \.\. 13 have been forgotten"
    ):
        cache.truncate(16)
    assert cache.truncate(2).append(rows([70, 71])).rows().v.ravel().tolist() == [0, -1, -70, -71]


def test_beams_share_and_are_cut_apart() -> None:
    cache = start(sinks=1, window=3, rollback=4, page=1).append(rows(list(range(9)))).append(rows([9]))
    pair = cache.select([0, 0]).truncate([10, 7])
    assert pair.lengths == (10, 7)
    assert pair.nbytes == cache.nbytes
    grown = pair.append(KeyValue(*(np.concatenate([x, x + 1]) for x in rows([50]))))
    assert grown.rows(0).v.ravel().tolist()[-1] == -50
    assert grown.rows(1).v.ravel().tolist()[-1] == -49
    assert cache.branch() is cache


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sinks": -1, "window": 4}, "sinks must be an integer >= 0, got -1"),
        ({"sinks": 1, "window": 0}, "window must be an integer >= 1, got 0"),
        ({"sinks": 1, "window": True}, "window must be an integer >= 1, got True"),
        ({"sinks": 1, "window": 4, "rollback": -1}, "rollback must be an integer >= 0, got -1"),
        ({"sinks": 1, "window": 4, "page": 0}, "page must be an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        SinkWindow.start(SCHEMA, **wrong)


def test_bad_arguments_are_refused() -> None:
    cache = start(sinks=1, window=3, rollback=0, page=2).append(rows([1, 2, 3]))
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 3, got 4"):
        cache.truncate(4)
    with pytest.raises(ArgumentError, match="got -1"):
        cache.truncate(-1)
    with pytest.raises(DtypeError, match="k must have dtype float64"):
        cache.append([x.astype(np.float32) for x in rows([4])])
    with pytest.raises(ArgumentError, match="sequence must be"):
        cache.remembered(1)
