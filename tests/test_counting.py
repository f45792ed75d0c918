"""Tallies form a monoid; blocks nest; pages leave when they die, whoever kills them and when."""

from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import FrozenInstanceError, fields
import gc
import sys
from threading import Thread
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from kvattn.counting import Recorder, Tally, charge, charge_page, counting, is_counting

NAMES = [field.name for field in fields(Tally)]
FLOPS = ["matmul", "arithmetic", "transcendental"]
BYTES = ["weights_read", "kv_read", "kv_written", "kv_copied", "tables_read", "activations"]
PAIRS = ["pairs_computed", "pairs_visible"]


class Page:
    """What a page is to the count: something that can die."""


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    """What a computation can leave: pages born and dead, so that the peak is never below 0 or what is live."""
    counts = {name: draw(st.integers(0, 2**70)) for name in FLOPS + BYTES + PAIRS}
    live = draw(st.integers(-1000, 1000))
    return Tally(**counts, cache_live=live, cache_peak=max(live, 0) + draw(st.integers(0, 1000)))


@given(tallies(), tallies(), tallies())
def test_addition_is_associative(a: Tally, b: Tally, c: Tally) -> None:
    assert (a + b) + c == a + (b + c)


@given(tallies())
def test_nothing_is_the_identity(a: Tally) -> None:
    assert a + Tally() == a == Tally() + a


@given(tallies(), tallies())
def test_counts_and_live_bytes_add_and_the_peak_is_the_high_water(a: Tally, b: Tally) -> None:
    both = a + b
    for name in NAMES[:-1]:
        assert getattr(both, name) == getattr(a, name) + getattr(b, name)
    assert both.cache_peak == max(a.cache_peak, a.cache_live + b.cache_peak)
    assert both.flops == sum(getattr(both, name) for name in FLOPS)
    assert both.bytes == sum(getattr(both, name) for name in BYTES)


@given(st.lists(st.integers(-50, 50), max_size=30))
def test_the_peak_is_that_of_the_water_itself(changes: list[int]) -> None:
    """Charge each change as pages do, and follow the water level by hand."""
    level = highest = 0
    with counting() as tally:
        for change in changes:
            charge(Tally(cache_live=change, cache_peak=max(change, 0)))
            level += change
            highest = max(highest, level)
    assert (tally.cache_live, tally.cache_peak) == (level, highest)


def test_a_wrong_peak_is_told_apart() -> None:
    """Mutants: peaks that add, or that forget what was live before."""
    a, b = Tally(cache_live=10, cache_peak=50), Tally(cache_live=5, cache_peak=45)
    assert (a + b).cache_peak == 55
    assert (a + b).cache_peak not in (a.cache_peak + b.cache_peak, max(a.cache_peak, b.cache_peak))


def test_a_tally_is_a_value() -> None:
    assert Tally(matmul=1) == Tally(matmul=1) != Tally(arithmetic=1)
    assert len({Tally(matmul=1), Tally(matmul=1), Tally()}) == 2
    with pytest.raises(FrozenInstanceError):
        Tally().matmul = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Tally() + 1  # type: ignore[operator]
    assert repr(Tally(matmul=1, kv_read=2)) == "Tally(matmul=1, kv_read=2)"
    assert repr(Tally()) == "Tally()"


def test_inner_counts_are_the_outer_blocks_too() -> None:
    with counting() as outer:
        charge(Tally(matmul=1))
        with counting() as inner:
            charge(Tally(matmul=10))
            with counting() as innermost:
                charge(Tally(matmul=100))
        charge(Tally(matmul=1000))
    assert (outer.matmul, inner.matmul, innermost.matmul) == (1111, 110, 100)


def test_nothing_is_counted_outside() -> None:
    assert not is_counting()
    charge(Tally(matmul=1))
    with counting() as tally:
        assert is_counting()
    assert not is_counting()
    charge(Tally(matmul=1))
    assert tally.tally == Tally()


def test_a_block_ends_when_an_error_leaves_it() -> None:
    def fail() -> None:
        with counting() as inner:
            charge(Tally(matmul=3))
            assert inner.matmul == 3
            raise KeyError

    with counting() as outer:
        with pytest.raises(KeyError):
            fail()
        charge(Tally(matmul=4))
    assert outer.matmul == 7
    assert not is_counting()


def test_a_recorder_reads_as_its_tally_so_far() -> None:
    with counting() as tally:
        assert isinstance(tally, Recorder)
        before = tally.tally
        charge(Tally(matmul=2, kv_read=3))
        assert (tally.flops, tally.bytes, tally.tally) == (2, 3, Tally(matmul=2, kv_read=3))
    assert before == Tally()
    for name in ("flop", "_matmul"):
        with pytest.raises(AttributeError, match=name):
            getattr(tally, name)


def test_pages_are_live_until_they_die() -> None:
    with counting() as tally:
        first, second = Page(), Page()
        charge_page(first, 64)
        charge_page(second, 32)
        assert (tally.cache_live, tally.cache_peak) == (96, 96)
        other = first
        del first
        assert tally.cache_live == 96
        del other
        assert (tally.cache_live, tally.cache_peak) == (32, 96)
        third = Page()
        charge_page(third, 40)
        assert (tally.cache_live, tally.cache_peak) == (72, 96)
    del second, third
    assert (tally.cache_live, tally.cache_peak) == (0, 96)


def test_a_page_counts_in_the_blocks_in_which_it_was_born() -> None:
    before = Page()
    charge_page(before, 1)
    with counting() as outer:
        first = Page()
        charge_page(first, 10)
        with counting() as inner:
            second = Page()
            charge_page(second, 100)
            del first, before
        assert (inner.cache_live, inner.cache_peak) == (100, 100)
        assert (outer.cache_live, outer.cache_peak) == (100, 110)
        del second
    assert (inner.cache_live, outer.cache_live) == (0, 0)


def test_pages_that_the_collector_finds_leave_too() -> None:
    """It may run in the middle of an addition: what it reports then must not be overwritten."""
    with counting() as tally:
        for _ in range(1500):
            page: Any = Page()
            page.itself = page
            charge_page(page, 1)
            del page
            for _ in range(10):
                charge(Tally(matmul=1))
        gc.collect()
    assert tally.cache_live == 0
    assert tally.matmul == 15_000


@pytest.fixture
def _hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Any, count: int = 4) -> None:
    threads = [Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_in_one_block_lose_nothing() -> None:
    with counting() as tally:
        contexts = [copy_context() for _ in range(4)]

        def charges() -> None:
            for _ in range(1000):
                charge(Tally(matmul=1, cache_live=1, cache_peak=1))

        def work() -> None:
            contexts.pop().run(charges)

        in_threads(work)
    assert (tally.matmul, tally.cache_live, tally.cache_peak) == (4000, 4000, 4000)


@pytest.mark.usefixtures("_hasty_threads")
def test_threads_of_their_own_count_for_themselves() -> None:
    found: list[int] = []

    def work() -> None:
        assert not is_counting()
        with counting() as mine:
            for _ in range(200):
                charge(Tally(matmul=1))
        found.append(mine.matmul)

    with counting() as tally:
        in_threads(work)
    assert found == [200] * 4
    assert tally.matmul == 0
