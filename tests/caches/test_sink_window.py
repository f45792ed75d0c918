"""Sinks and window: every query finds what it may see, and what is taken back is exact or refused."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, SinkWindow, key_value, live_bytes
from kvattn.errors import ArgumentError, DtypeError, RollbackError

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


@given(
    sinks=st.integers(0, 4),
    window=st.integers(1, 6),
    rollback=st.integers(0, 4),
    page=st.sampled_from([1, 2, 3, 5, 256]),
    steps=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=8),
)
def test_it_agrees_with_a_list_that_forgets_nothing(
    sinks: int, window: int, rollback: int, page: int, steps: list[tuple[int, int]]
) -> None:
    cache, twin = start(sinks, window, rollback, page), start(sinks, window, rollback, 1)
    tokens: list[int] = []
    fresh = 1
    for new, back in steps:
        before = len(tokens)
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
        assert cache.rows().v.ravel().tolist() == [-float(tokens[slot]) for slot in slots]

        length = max(0, len(tokens) - back)
        try:
            cut = cache.truncate(length)
        except RollbackError:
            assert length < before - rollback
            with pytest.raises(RollbackError):
                twin.truncate(length)
            continue
        twin = twin.truncate(length)
        assert sees(length, sinks, window) - {length} <= shown(cut).keys()
        cache, tokens = cut, tokens[:length]


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
    ("settings", "words"),
    [
        ({"sinks": -1, "window": 4}, "sinks must be an integer >= 0, got -1"),
        ({"sinks": 1, "window": 0}, "window must be an integer >= 1, got 0"),
        ({"sinks": 1, "window": True}, "window must be an integer >= 1, got True"),
        ({"sinks": 1, "window": 4, "rollback": -1}, "rollback must be an integer >= 0, got -1"),
        ({"sinks": 1, "window": 4, "page": 0}, "page must be an integer >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        SinkWindow.start(SCHEMA, **settings)


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
