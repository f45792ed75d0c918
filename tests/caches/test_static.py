"""The source of cross-attention is stored once: it does not grow, and rolling back does not crop it."""

from typing import Any

import numpy as np
import pytest

from kvattn.caches import KeyValue, Static, key_value, live_bytes
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, ShapeError

SCHEMA = key_value(2, 3)
SOURCE = KeyValue(*(np.arange(2.0 * 2 * 5 * 3).reshape(2, 2, 5, 3) + 100 * n for n in range(2)))


def test_the_source_is_there_at_every_step_and_costs_nothing_more() -> None:
    cache = Static.start(SCHEMA, SOURCE)
    with counting() as tally:
        later = cache.advance(3).advance(0).truncate(1).branch()
    assert tally.tally == Tally()
    assert later.length == 1
    assert later.memory is cache.memory
    assert np.array_equal(later.rows().k, SOURCE.k)
    assert live_bytes(cache, later) == cache.nbytes


def test_sources_of_several_lengths_leave_out_their_padding() -> None:
    cache = Static.start(SCHEMA, SOURCE, lengths=[5, 2])
    assert [block.key_count for b in range(2) for block in cache.blocks(b)] == [5, 2]
    assert np.array_equal(cache.rows(sequence=1).v[0], SOURCE.v[1, :, :2])


@pytest.mark.law("caches/static", "beams carry their source along", "bits")
def test_beams_carry_their_source_along() -> None:
    cache = Static.start(SCHEMA, SOURCE).advance(2).select([1, 0, 1])
    assert np.array_equal(cache.rows().k, SOURCE.k[[1, 0, 1]])
    assert cache.lengths == (2, 2, 2)
    assert cache.nbytes == Static.start(SCHEMA, SOURCE).nbytes
    assert cache.truncate([0, 1, 2]).lengths == (0, 1, 2)


def test_appending_is_refused() -> None:
    with pytest.raises(ArgumentError, match="rows must not be appended to a static cache, got "):
        Static.start(SCHEMA, SOURCE).append(SOURCE)


@pytest.mark.parametrize("length", [-1, 4, True, 1.5])
def test_only_what_was_decoded_can_be_taken_back(length: Any) -> None:
    with pytest.raises(ArgumentError, match=r"length must be an integer in 0 \.\. 3, got "):
        Static.start(SCHEMA, SOURCE).advance(3).truncate(length)


@pytest.mark.parametrize("source", [(), (np.zeros(()),), (np.zeros((0, 2, 5, 3)),) * 2, (1, 2)])
def test_no_batch_is_refused(source: Any) -> None:
    with pytest.raises(ShapeError, match=r"rows must be arrays \[B, heads, S, width\] with B >= 1"):
        Static.start(SCHEMA, source)


def test_wrong_sources_are_refused() -> None:
    with pytest.raises(DtypeError, match="k must have dtype float64, got float32"):
        Static.start(SCHEMA, [x.astype(np.float32) for x in SOURCE])
    with pytest.raises(ArgumentError, match=r"length of sequence 1 must be an integer in 0 \.\. 5, got 6"):
        Static.start(SCHEMA, SOURCE, lengths=[5, 6])
    with pytest.raises(ArgumentError, match="tokens must be an integer >= 0, got -1"):
        Static.start(SCHEMA, SOURCE).advance(-1)
