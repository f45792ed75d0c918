"""What stays of a paged cache is what was there: paths of trees that are kept, and tokens that are not evicted."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged
from kvattn.counting import Tally, counting
from tests.caches.operated import PLACED, SCHEMA, rows, same


@pytest.mark.law("caches/moving: commit", "keeping a path of a tree is appending that path alone", "bits")
@given(
    prefix=st.sampled_from([0, 1, 3, 4, 5, 8]),
    path=st.sets(st.integers(0, 6)),
    schema=st.sampled_from([SCHEMA, PLACED]),
)
def test_a_committed_path_is_as_if_appended_alone(prefix: int, path: set[int], schema: Any) -> None:
    chosen = sorted(path)
    past = Paged.start(schema, 2, 4).append(rows(2, prefix, 1))
    new = rows(2, 7, 2)
    depth = np.array([[prefix + sum(other < n for other in chosen) for n in range(7)]] * 2)
    tree = past.append(new, depth) if schema.placed else past.append(new)
    alone = past.append(KeyValue(*(x[:, :, chosen] for x in new)))
    assert same(tree.commit(prefix, chosen), alone)
    assert tree.lengths == (prefix + 7,) * 2
    own = tree.commit([prefix, prefix + 1], [chosen, []])
    assert own.lengths == (prefix + len(chosen), prefix + 1)


def test_what_stands_where_it_should_is_not_moved() -> None:
    tree = Paged.start(SCHEMA, page=4).append(rows(1, 9))
    with counting() as stays:
        tree.commit(4, [0, 1])
    with counting() as moves:
        tree.commit(6, [0, 2])  # slot 7 takes the row of slot 8, in a copy of its page
    assert stays.tally == Tally()
    assert (moves.kv_written, moves.kv_copied) == (0, (3 + 1) * SCHEMA.nbytes)


@pytest.mark.law("caches/moving: evict", "what is kept is kept to the bit, at its position", "bits")
@given(keep=st.lists(st.sets(st.integers(0, 10)), min_size=2, max_size=2), page=st.sampled_from([1, 2, 4, 256]))
def test_what_is_kept_stays_as_it_was(keep: list[set[int]], page: int) -> None:
    new = rows(2, 11)
    cache = Paged.start(PLACED, 2, page).append(new)
    chosen = [sorted(k) for k in keep]
    with counting() as tally:
        less = cache.evict(chosen)
    moved = 0
    for b, slots in enumerate(chosen):
        assert np.array_equal(less.positions(b), slots)
        for got, was in zip(less.rows(sequence=b), new, strict=True):
            assert np.array_equal(got[0], was[b][:, slots])
        first = next((n for n, slot in enumerate(slots) if n != slot), len(slots))
        assert less.pages(b)[: first // page] == cache.pages(b)[: first // page]
        moved += len(slots) - first // page * page if first < len(slots) else 0
    assert tally.kv_copied == moved * PLACED.nbytes
    assert tally.kv_written == 0
    assert less.ends == (11, 11)
    truth = np.array([[n in slots for n in range(11)] for slots in chosen])
    assert same(cache.evict(truth), less)
    assert cache.rows().k.tobytes() == new.k.tobytes()


def test_rolling_back_behind_an_eviction_forgets_what_came_after_it() -> None:
    """Even where the last token went: the time it stood for has passed."""
    cache = Paged.start(PLACED, page=4).append(rows(1, 9)).evict([[0, 2, 5]])
    assert cache.coming(1).tolist() == [[9]]
    again = cache.append(rows(1, 3, 1)).truncate(3)
    assert same(again, cache)
    assert cache.truncate(2).coming(2).tolist() == [[3, 4]]
    assert cache.truncate(0).coming(1).tolist() == [[0]]
