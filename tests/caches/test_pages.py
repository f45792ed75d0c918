"""A page is written once: every slot has one writer, and what nobody wrote is NaN."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kvattn.caches.pages import Page, unwritten
from kvattn.caches.rows import Field, KeyValue, Schema, key_value
from kvattn.counting import counting

SCHEMA = key_value(2, 3, 1)


def test_a_new_page_is_nan() -> None:
    page = Page(SCHEMA, 4)
    assert [x.shape for x in page.arrays] == [(2, 3, 4), (2, 4, 1)]
    assert all(np.isnan(x).all() for x in page.arrays)
    assert page.nbytes == sum(x.nbytes for x in page.arrays) == 4 * SCHEMA.nbytes


def test_integer_memory_has_a_value_that_shows() -> None:
    fields = (Field("k", 1, 2, np.int8), Field("v", 1, 2, np.uint16))
    page = Page(Schema(KeyValue, fields), 2)
    assert [x.flat[0] for x in page.arrays] == [-128, 65535]
    assert unwritten(np.dtype(np.int64)) == -(2**63)


def test_a_slot_can_be_claimed_once() -> None:
    page = Page(SCHEMA, 4)
    assert page.claim(0, 2)
    assert not page.claim(0, 1)
    assert not page.claim(1, 3)
    assert not page.claim(3, 4)
    assert page.claim(2, 4)
    assert page.filled == 4


def test_threads_cannot_claim_the_same_slot() -> None:
    pages = [Page(SCHEMA, 4) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: pages[n % 200].claim(0, 1), range(1600)))
    assert sum(won) == 200


def test_what_was_written_is_read_back_in_both_layouts() -> None:
    page = Page(SCHEMA, 4)
    k, v = np.arange(12.0).reshape(2, 2, 3), np.arange(4.0).reshape(2, 2, 1)
    page.claim(0, 2)
    page.write(0, [k, v])
    assert np.array_equal(page.read(0, 2)[0], k)
    assert np.array_equal(page.read(0, 2)[1], v)
    for head in range(2):
        for slot in range(2):
            assert page.arrays[0][head, 1, slot] == k[head, slot, 1]
            assert page.arrays[1][head, slot, 0] == v[head, slot, 0]
    assert np.isnan(page.arrays[0][:, :, 2:]).all()


def test_a_copy_has_only_what_was_asked_for() -> None:
    page = Page(SCHEMA, 4)
    page.claim(0, 3)
    page.write(0, [np.ones((2, 3, 3)), np.ones((2, 3, 1))])
    twin = page.copy(2)
    assert twin.filled == 2
    assert twin.serial != page.serial
    assert np.isnan(twin.arrays[1][:, 2:]).all()
    assert not np.isnan(twin.arrays[1][:, :2]).any()


def test_readers_cannot_write() -> None:
    array = Page(SCHEMA, 4).arrays[0]
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_bytes_live_as_long_as_the_page() -> None:
    with counting() as tally:
        page = Page(SCHEMA, 4)
        assert tally.cache_live == page.nbytes
        del page
        assert (tally.cache_live, tally.cache_peak) == (0, 4 * SCHEMA.nbytes)
