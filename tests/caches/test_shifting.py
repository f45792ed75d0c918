"""Tokens that move to other positions are tokens that stood there from the start."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged
from kvattn.counting import counting
from tests.caches.operated import PLACED, ROTARY, rows, same


@pytest.mark.law("caches/shifting", "a key that was turned on is a key turned at its new position", "bound")
@given(by=st.integers(-5, 300), start=st.sampled_from([0, 1, 3, 4, 5, 9]))
def test_shifted_keys_are_keys_turned_there(by: int, start: int) -> None:
    new, at = rows(1, 9), np.arange(5, 14)
    cache = Paged.start(PLACED, page=4).append(KeyValue(ROTARY.rotate(new.k, at), new.v), at[None])
    with counting() as tally:
        moved = cache.shift(by, ROTARY, start=start)
    there = at + by * (np.arange(9) >= start)
    assert moved.positions(0).tolist() == there.tolist()
    assert moved.ends == (14 + by,)
    # two turns of |angle| <= 314: the angle's rounding, and a few of the products
    assert np.abs(moved.rows().k - ROTARY.rotate(new.k, there)).max() <= 16 * (1 + 314) * 2.0**-53 * np.abs(new.k).max()
    assert moved.rows().v.tobytes() == new.v.tobytes()
    assert tally.kv_copied == (0 if start == 9 or not by else (9 - start // 4 * 4) * PLACED.nbytes)
    assert moved.pages(0)[: start // 4] == cache.pages(0)[: start // 4]


def test_tokens_that_come_after_a_shift_stand_behind_those_that_moved() -> None:
    new, more = rows(1, 5), rows(1, 2, 1)
    empty = Paged.start(PLACED, page=4)
    assert same(empty.append(new).shift(7).append(more), empty.append(new).append(more).shift(7))
    assert same(empty.shift(3).append(new), empty.append(new).shift(3))
    assert same(empty.append(new).shift([2]), empty.append(new).shift(2))
