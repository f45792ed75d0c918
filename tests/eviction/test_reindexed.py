"""Reindexed: moved keys are keys turned to their new place at first, and attention sees the new distances."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value, placed
from kvattn.errors import ShapeError
from kvattn.eviction import attend_kept, kept_slots, reindex, top
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.positions import Rotary
from tests.eviction.drawn import near
from tests.eviction.test_expected_attention import turned_by_hand

ROTARIES = st.sampled_from([Rotary.of(4), Rotary.of(4, layout="adjacent"), Rotary((1.0, 0.5), magnitude=1.25)])


def drawn(seed: int) -> tuple[Any, Any]:
    """Unrotated keys and a kept set of as many in each head."""
    random = np.random.default_rng(seed)
    keys = random.normal(size=(2, 3, 9, 4))
    return keys, top(random.normal(size=(2, 3, 9)), int(random.integers(0, 10)))


@pytest.mark.by_hand("eviction/reindexed")
@given(st.integers(0, 99), ROTARIES)
def test_it_equals_by_hand(seed: int, rotary: Rotary) -> None:
    keys, keep = drawn(seed)
    found = reindex(rotary.rotate(keys, np.arange(9)), keep, rotary)
    for b, head in np.ndindex(2, 3):
        for n, slot in enumerate(np.flatnonzero(keep[b, head])):
            row = turned_by_hand(keys[b, head, slot].tolist(), n, rotary.frequencies, rotary.layout == "adjacent")
            assert near(found[b, head, n], np.array(row) * rotary.magnitude)


@pytest.mark.law("eviction/reindexed", "a moved key equals a key turned there at first", "bound")
@given(st.integers(0, 99), ROTARIES, st.integers(0, 1000))
def test_a_moved_key_is_a_fresh_key(seed: int, rotary: Rotary, first: int) -> None:
    keys, keep = drawn(seed)
    at = first + np.arange(9)
    slots = kept_slots(keep)
    fresh = rotary.rotate(np.take_along_axis(keys, slots[..., None], axis=2), np.arange(slots.shape[2]))
    moved = reindex(rotary.rotate(keys, at), keep, rotary, at)
    assert np.allclose(moved, fresh, rtol=0, atol=1e-13 * (1 + first / 100))


def test_what_is_in_order_already_stays() -> None:
    keys, _ = drawn(0)
    rotary = Rotary.of(4)
    turned = rotary.rotate(keys, np.arange(9))
    keep = np.broadcast_to(np.arange(9) < 4, (2, 3, 9))
    assert np.array_equal(reindex(turned, keep, rotary), turned[:, :, :4])


def test_kept_and_new_positions_give_other_answers() -> None:
    """The same rows, attended from behind: at their old distances, and at new ones."""
    keys, _ = drawn(1)
    keep = np.zeros((2, 3, 9), bool)
    keep[:, :, [0, 4, 8]] = True
    rotary, q = Rotary.of(4), np.random.default_rng(2).normal(size=(2, 3, 1, 4))
    turned = rotary.rotate(keys, np.arange(9))
    old = attend_kept(Question(rotary.rotate(q, np.array([9])), turned, keys, q_positions=[9]), keep)
    few = reindex(turned, keep, rotary)
    new = Question(rotary.rotate(q, np.array([3])), few, keys[:, :, [0, 4, 8]], q_positions=[3]).attend()
    assert not np.allclose(old.out, new.out, rtol=0, atol=1e-3)
    rows = keys[:, :, [0, 4, 8]]
    there = rotary.rotate(rows, np.arange(3))
    wanted = Question(rotary.rotate(q, np.array([3])), there, rows, mask=Causal(), q_positions=[3]).attend()
    assert np.allclose(new.out, wanted.out, rtol=0, atol=1e-14)


def test_a_cache_that_is_moved_token_by_token_holds_the_same() -> None:
    """`Paged.evict` keeps positions; `Paged.shift` then closes the gaps, one run of slots at a time."""
    keys, _ = drawn(3)
    rotary = Rotary.of(4)
    turned = rotary.rotate(keys, np.arange(9))
    slots = [0, 4, 5, 8]
    cache = Paged.start(placed(key_value(3, 4)), 2).append(KeyValue(turned, keys)).evict([slots] * 2)
    assert cache.positions(0).tolist() == slots
    for start in range(1, 4):
        cache = cache.shift(start - int(cache.positions(0)[start]), rotary, start=start)
    assert cache.positions(0).tolist() == [0, 1, 2, 3]
    keep = np.zeros((2, 3, 9), bool)
    keep[:, :, slots] = True
    assert np.allclose(cache.rows().k, reindex(turned, keep, rotary), rtol=0, atol=1e-14)


def test_ragged_heads_are_refused() -> None:
    keys, _ = drawn(0)
    keep = np.zeros((2, 3, 9), bool)
    keep[0, 0, 0] = True
    with pytest.raises(ShapeError, match=r"^keep must have as many keys in every head, got \[0, 1\]$"):
        reindex(keys, keep, Rotary.of(4))
