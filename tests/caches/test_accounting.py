"""Bytes that are live, shared and padded: a slow recount, slot by slot, and what NumPy really allocated."""

from collections.abc import Callable
import tracemalloc
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Paged, key_value, live_bytes, placed
from kvattn.caches.accounting import padded_bytes, shared_bytes
from kvattn.counting import counting

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
"""Bytes for each page beside its rows: the page, three arrays with two views each, a node's share of the table."""


@pytest.mark.law("caches/accounting", "live bytes are what NumPy allocated, 3,000 bytes a page apart", "bound")
@pytest.mark.parametrize("page", [16, 256])
def test_live_bytes_are_what_was_allocated(page: int) -> None:
    schema = placed(key_value(4, 32))
    new = [np.ones((2, 4, 1000, 32)), np.ones((2, 4, 1000, 32))]
    Paged.start(schema, 2, page).append(new)  # imports and caches of the interpreter
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        cache = Paged.start(schema, 2, page).append(new)
        beams = cache.repeat(4).truncate(900)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    held = live_bytes(cache, beams)
    assert held == cache.nbytes
    assert held <= taken <= held + OVERHEAD * len(cache.footprint()) + OVERHEAD


def test_what_was_moved_is_counted_as_copied() -> None:
    cache = Paged.start(SCHEMA, page=4).append(rows(1, 9))
    with counting() as tally:
        cache.evict([[0, 1, 2, 3, 5, 6]])  # slots 5 and 6 go to a new page
        cache.shift(1, start=8)  # slot 8 is alone in its page
        cache.truncate(7).append(rows(1, 1))  # three rows of a page that somebody else has extended
    assert (tally.kv_copied, tally.kv_written) == ((2 + 1 + 3) * SCHEMA.nbytes, SCHEMA.nbytes)
