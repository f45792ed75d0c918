"""Bytes that are live, shared and padded: a slow recount, slot by slot, and what NumPy really allocated."""

from collections.abc import Callable
import gc
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Paged, key_value, live_bytes, placed
from kvattn.caches.accounting import padded_bytes, shared_bytes
from kvattn.caches.flattened import flatten
from kvattn.caches.pages import Page
from kvattn.counting import counting
from tests.caches.allocated import LIVES, LONG, PAGE, Memory, measured
from tests.caches.allocated import SCHEMA as SCHEMA_OF_LIVES

SCHEMA = placed(key_value(1, 2))
LENGTHS = st.sampled_from([0, 1, 3, 4, 5, 9])


def rows(batch: int, count: int) -> list[Any]:
    return [np.ones((batch, 1, count, 2)), np.ones((batch, 1, count, 2))]


def recount(caches: list[Paged[Any]]) -> tuple[int, int, int]:
    """Live, shared and padded bytes: every slot of every page, and who has a token in it."""
    owners: dict[int, dict[int, int]] = {}
    holders: dict[int, int] = {}
    for cache in caches:
        for b in range(cache.batch):
            table = cache.pages(b)
            for serial in table:
                if serial is not None:
                    owners.setdefault(serial, dict.fromkeys(range(cache.page), 0))
                    holders[serial] = holders.get(serial, 0) + 1
            for slot in range(cache.lengths[b]):
                serial = table[slot // cache.page]
                if serial is not None:
                    owners[serial][slot % cache.page] += 1
    token = caches[0].schema.nbytes
    live = sum(len(slots) * token for slots in owners.values())
    shared = sum(len(slots) * token for serial, slots in owners.items() if holders[serial] > 1)
    return live, shared, sum(token for slots in owners.values() for count in slots.values() if not count)


Count = Callable[..., int]


def check(shared: Count, padded: Count) -> None:
    @settings(phases=[Phase.generate])
    @given(lengths=st.tuples(LENGTHS, LENGTHS), cut=st.tuples(LENGTHS, LENGTHS), more=st.sampled_from([0, 1, 4]))
    def run(lengths: tuple[int, int], cut: tuple[int, int], more: int) -> None:
        cache = Paged.start(SCHEMA, 2, 4).append(rows(2, 9), counts=lengths)
        less = cache.truncate([min(pair) for pair in zip(lengths, cut, strict=True)])
        family = [
            cache,
            less,
            less.append(rows(2, more)),
            cache.repeat(2),
            cache.release(0, [min(4, n) for n in lengths]).merge(less),
        ]
        for group in (family, family[:1], family[1:2], family[3:]):
            live, together, spare = recount(group)
            assert live_bytes(*group) == live
            assert shared(*group) == together
            assert padded(*group) == spare

    run()


@pytest.mark.by_hand("caches/accounting")
@pytest.mark.no_peer(
    "caches/accounting", "what a page is differs from engine to engine; NumPy's allocations are the peer"
)
def test_bytes_are_those_of_a_slow_recount() -> None:
    check(shared_bytes, padded_bytes)


@pytest.mark.parametrize(
    ("shared", "padded"),
    [
        (lambda *c: sum(x.nbytes for x in c) - live_bytes(*c), padded_bytes),  # a page of three holders counts twice
        (shared_bytes, lambda *c: sum(padded_bytes(x) for x in c)),
        (shared_bytes, lambda *c: live_bytes(*c) - sum(sum(x.lengths) * SCHEMA.nbytes for x in c)),
    ],
    ids=["once for each holder", "each cache alone", "tokens of sequences"],
)
def test_wrong_counts_are_rejected(shared: Count, padded: Count) -> None:
    with pytest.raises(AssertionError):
        check(shared, padded)


OVERHEAD = 3000
"""Bytes for each page, buffer or state beside its numbers: arrays with two views each, its share of a table."""

WORK = {"Coded": 3.0, "KiviCache": 1.0, "Summaries": 0.25, "Snapshots": 1.0}
"""What a call works on beside, as a multiple of the rows given: codes before they are stored, sums, new states."""


def within(memory: Memory) -> bool:
    return memory.live <= memory.allocated <= memory.live + OVERHEAD * (memory.objects + 1)


@pytest.mark.law("caches/accounting", "live bytes are what NumPy allocated, 3,000 bytes a page apart", "bound")
@pytest.mark.parametrize("name", LIVES)
def test_live_bytes_are_what_was_allocated(name: str) -> None:
    memory, held = measured(name)
    assert within(memory)
    if len(held) > 1:  # a count that takes shared pages once for each holder, or leaves padding out, is noticed
        assert not within(memory._replace(live=sum(cache.nbytes for cache in held)))
    largest = max(n for cache in held for n in cache.footprint().values())
    if largest > 0.6 * OVERHEAD * (memory.objects + 1):  # one that forgets a page is noticed where a page is much
        assert not within(memory._replace(live=memory.live - largest))


@pytest.mark.law("caches/accounting", "counted live and peak bytes are those of the caches and of NumPy", "bound")
@pytest.mark.parametrize("name", LIVES)
def test_counted_bytes_are_those_of_the_caches(name: str) -> None:
    memory, _ = measured(name)
    with counting() as tally:
        held = LIVES[name]()
        assert tally.cache_live == memory.live == live_bytes(*held)
        peak = tally.cache_peak
        del held
    gc.collect()
    assert tally.cache_live == 0
    work = int(WORK.get(name, 0) * sum(x.nbytes for x in LONG))
    assert max(peak, memory.live) <= memory.peak <= peak + OVERHEAD * (memory.objects + 1) + work


@pytest.mark.law("caches/accounting", "written and copied bytes are those that were put into pages", "integers")
@pytest.mark.parametrize("name", sorted({*LIVES} - {"Snapshots", "BlockPool"}))
def test_written_and_copied_bytes_are_those_put_into_pages(name: str) -> None:
    put = 0
    write = Page.write

    def noted(page: Page, start: int, new: Any) -> None:
        nonlocal put
        put += sum(x.nbytes for x in new)
        write(page, start, new)

    with pytest.MonkeyPatch.context() as patch, counting() as tally:
        patch.setattr(Page, "write", noted)
        held = LIVES[name]()
    moved = held[-1].moved.out if name == "Tiered" else 0
    assert (moved > 0) == (name == "Tiered")
    assert tally.tally.kv_written + tally.tally.kv_copied == put + moved
    assert tally.tally.kv_copied >= moved
    assert tally.tally.kv_written > 0


def test_bytes_that_moved_are_those_of_the_file() -> None:
    _, held = measured("Tiered")
    whole = PAGE * SCHEMA_OF_LIVES.nbytes
    assert held[-1].moved.out % whole == 0
    assert held[-1].path.stat().st_size == held[-1].moved.out  # pages of whole lines of 64 bytes: nothing between them
    back = held[-1].moved.back
    held[0].rows(0, 5, sequence=0)
    assert held[-1].moved.back - back == whole


@pytest.mark.law("caches/accounting", "shared bytes of any storage are those that several sequences hold", "integers")
@pytest.mark.parametrize("name", sorted({*LIVES} - {"BlockPool"}))
def test_shared_bytes_of_any_storage(name: str) -> None:
    cache = LIVES[name]()[0]
    assert shared_bytes(cache) == 0
    assert shared_bytes(cache.select([0, 0, 1])) == cache.select([0]).nbytes
    assert shared_bytes(cache.select([0, 1]), cache.select([1])) == cache.select([1]).nbytes


@pytest.mark.parametrize("name", sorted({*LIVES} - {"BlockPool", "Tiered"}))
def test_what_is_padded_is_what_a_saving_leaves_out(name: str) -> None:
    cache = LIVES[name]()[1]
    used = sum(x.nbytes for x in flatten(cache).arrays.values())
    assert used <= cache.nbytes
    if name.startswith("Paged"):
        assert cache.nbytes - used == padded_bytes(cache) > 0
    if name == "Contiguous":
        assert cache.nbytes - used == cache.padded > 0


def test_what_was_moved_is_counted_as_copied() -> None:
    cache = Paged.start(SCHEMA, page=4).append(rows(1, 9))
    with counting() as tally:
        cache.evict([[0, 1, 2, 3, 5, 6]])  # slots 5 and 6 go to a new page
        cache.shift(1, start=8)  # slot 8 is alone in its page
        cache.truncate(7).append(rows(1, 1))  # three rows of a page that somebody else has extended
    assert (tally.kv_copied, tally.kv_written) == ((2 + 1 + 3) * SCHEMA.nbytes, SCHEMA.nbytes)
