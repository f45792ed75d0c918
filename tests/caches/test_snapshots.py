"""A recurrent state can be taken back to exactly the states that were kept, and to no other."""

from dataclasses import replace
from typing import Any, NamedTuple

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Snapshots, live_bytes
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, RollbackError, ShapeError
from kvattn.typing import Array


class Memory(NamedTuple):
    s: Array
    conv: Array


def state(token: float, batch: int = 2) -> Memory:
    each = np.arange(batch, dtype=float) + 10 * token
    return Memory(np.repeat(each, 6).reshape(batch, 2, 3), np.repeat(-each, 4).reshape(batch, 4))


def is_at(cache: Snapshots[Memory], token: float) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(cache.state, state(token, cache.batch), strict=True))


def agrees(cls: type[Snapshots[Memory]]) -> None:
    """Compare with a list of all states and the set of those that must be remembered."""

    @settings(phases=[Phase.generate] if cls is not Snapshots else tuple(Phase))
    @given(
        rollback=st.integers(0, 4),
        steps=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(0, 7)), min_size=1, max_size=8),
    )
    def check(rollback: int, steps: list[tuple[int, int, int]]) -> None:
        cache = cls.start(state(0), rollback)
        path, kept = [0.0], {0}
        fresh = 0.0
        for tokens, offered, back in steps:
            for _ in range(tokens):
                fresh += 1
                path.append(fresh)
            handed = min(offered, tokens)
            cache = cache.append([state(path[n]) for n in range(len(path) - handed, len(path))], tokens)
            end = len(path) - 1
            kept |= set(range(end - handed + 1, end + 1))
            if tokens:
                kept = {n for n in kept if n >= end - rollback}
            assert cache.length == end
            assert cache.remembered(1) == tuple(sorted(kept))
            assert is_at(cache, path[-1])
            length = max(0, end - back)
            if length in kept:
                cache, path, kept = cache.truncate(length), path[: length + 1], {n for n in kept if n <= length}
                assert is_at(cache, path[-1])
                assert cache.length == length
            else:
                with pytest.raises(RollbackError, match=f"must be one that is remembered, .*got {length}"):
                    cache.truncate(length)

    check()


@pytest.mark.law("caches/snapshots", "returns to what was kept, and refuses the rest", "bits")
def test_it_returns_to_what_was_kept_and_refuses_the_rest() -> None:
    agrees(Snapshots)


class MovesTheLengthOnly(Snapshots[Memory]):
    """Rejected tokens stay in the state (mlx-lm #1109)."""

    def truncate(self, length: Any) -> Snapshots[Memory]:
        right = super().truncate(length)
        ends = [history[-1][1] for history in self.histories]
        kept = zip(right.histories, ends, strict=True)
        return replace(right, histories=tuple((*history[:-1], (history[-1][0], end)) for history, end in kept))


class GoesToTheNearest(Snapshots[Memory]):
    """A length without a state is rounded down to one that has one."""

    def truncate(self, length: Any) -> Snapshots[Memory]:
        known = [n for n in self.remembered(0) if n <= length]
        return super().truncate(known[-1] if known else self.remembered(0)[0])


class KeepsOneTooFew(Snapshots[Memory]):
    """The snapshot furthest back is dropped one token early."""

    def append(self, states: Any, tokens: int | None = None) -> Snapshots[Memory]:
        right = super().append(states, tokens)
        least = [history[-1][0] - self.rollback + 1 for history in right.histories]
        return replace(
            right,
            histories=tuple(
                tuple(entry for entry in history[:-1] if entry[0] >= n) + history[-1:]
                for history, n in zip(right.histories, least, strict=True)
            ),
        )


class MixesUpTheBatch(Snapshots[Memory]):
    """Histories of the batch are mixed up."""

    def append(self, states: Any, tokens: int | None = None) -> Snapshots[Memory]:
        right = super().append(states, tokens)
        return replace(right, histories=right.histories[::-1])


@pytest.mark.parametrize(
    "wrong",
    [MovesTheLengthOnly, GoesToTheNearest, KeepsOneTooFew, MixesUpTheBatch],
    ids=lambda wrong: wrong.__name__,
)
def test_a_wrong_one_is_rejected(wrong: type[Snapshots[Memory]]) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        agrees(wrong)


def test_states_are_copies_and_read_only() -> None:
    mine = state(0)
    cache = Snapshots.start(mine, 1)
    mine.s[...] = np.nan
    assert is_at(cache, 0)
    with pytest.raises(ValueError, match="read-only"):
        cache.state.s[...] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        cache.select([0]).state.s[...] = 1.0


def test_bytes_count_each_state_once() -> None:
    one = (6 + 4) * 8
    cache = Snapshots.start(state(0), rollback=2)
    with counting() as tally:
        cache = cache.append([state(n) for n in range(1, 6)])
    assert tally.kv_written == 2 * 3 * one
    assert tally.cache_live == tally.cache_peak == cache.nbytes == 2 * 3 * one
    assert live_bytes(cache, cache.branch(), cache.select([1, 1, 0]), cache.truncate(4)) == cache.nbytes


def test_sequences_can_be_reordered_and_cut_apart() -> None:
    cache = Snapshots.start(state(0), rollback=3).append([state(1), state(2)])
    swapped = cache.select([1, 0, 1]).truncate([2, 1, 0])
    assert swapped.lengths == (2, 1, 0)
    assert swapped.state.s[:, 0, 0].tolist() == [21.0, 10.0, 1.0]
    with pytest.raises(ArgumentError, match=r"length must be the same for all sequences, got \(2, 1, 0\)"):
        _ = swapped.length
    assert cache.branch() is cache


def test_wrong_states_are_refused() -> None:
    cache = Snapshots.start(state(0))
    with pytest.raises(ShapeError, match="states must have shapes"):
        cache.append([state(1, batch=3)])
    with pytest.raises(
        DtypeError, match=r"states must have dtypes \['float64', 'float64'\], got \['float32', 'float64'\]"
    ):
        cache.append([Memory(state(1).s.astype(np.float32), state(1).conv)])
    with pytest.raises(ArgumentError, match="states must hold the state after 3 tokens, got none"):
        cache.append([], 3)
    with pytest.raises(ArgumentError, match="tokens must be an integer >= 2, got 1"):
        cache.append([state(1), state(2)], 1)
    with pytest.raises(ShapeError, match=r"state must be arrays \[B, ...\] of one B >= 1"):
        Snapshots.start(Memory(np.zeros((2, 3)), np.zeros((3, 3))))
    with pytest.raises(ShapeError, match="state must be arrays"):
        Snapshots.start(Memory(np.zeros((0, 3)), np.zeros((0, 3))))
    with pytest.raises(DtypeError, match="state must be floating or integer arrays, got object"):
        Snapshots.start(Memory(np.zeros((2, 3), object), np.zeros((2, 3))))
    with pytest.raises(ArgumentError, match="rollback must be an integer >= 0, got -1"):
        Snapshots.start(state(0), -1)


@pytest.mark.parametrize("length", [-1, 1, True, 0.0])
def test_lengths_it_never_had_are_refused(length: Any) -> None:
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 0, got "):
        Snapshots.start(state(0)).truncate(length)


@pytest.mark.parametrize("indices", [[], [2], [-1], [True]])
def test_sequences_that_are_not_there_are_refused(indices: Any) -> None:
    with pytest.raises(ArgumentError, match="indices must be "):
        Snapshots.start(state(0)).select(indices)
