"""The paged cache is a value: nothing done to it, or beside it, changes what it holds (also: tests/testing)."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import Field, KeyValue, Paged, Schema, key_value, latent, live_bytes
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, PositionError, RollbackError, ShapeError

SCHEMA = key_value(2, 3, 1)


def rows(*tokens: int, batch: int = 1) -> KeyValue:
    """Rows of which every number says which sequence, token, field, head and column it is."""
    k = np.zeros((batch, 2, len(tokens), 3))
    v = np.zeros((batch, 2, len(tokens), 1))
    for b in range(batch):
        for h in range(2):
            for t, token in enumerate(tokens):
                v[b, h, t, 0] = -(1000 * token + 100 * b + 10 * h)
                for w in range(3):
                    k[b, h, t, w] = 1000 * token + 100 * b + 10 * h + w
    return KeyValue(k, v)


def holds(cache: Paged[KeyValue], *tokens: int) -> bool:
    got, wanted = cache.rows(), rows(*tokens, batch=cache.batch)
    return np.array_equal(got.k, wanted.k) and np.array_equal(got.v, wanted.v)


@pytest.mark.parametrize("page", [1, 2, 3, 4, 256])
def test_what_is_appended_is_read(page: int) -> None:
    cache = Paged.start(SCHEMA, batch=2, page=page).append(rows(1, 2, batch=2)).append(rows(3, 4, 5, batch=2))
    assert holds(cache, 1, 2, 3, 4, 5)
    assert cache.length == 5
    part = cache.rows(1, 4)
    assert np.array_equal(part.k, rows(2, 3, 4, batch=2).k)
    assert np.array_equal(cache.rows(sequence=1).v[0], rows(1, 2, 3, 4, 5, batch=2).v[1])


def test_an_empty_cache_can_be_read_cut_selected_and_appended_to() -> None:
    empty = Paged.start(SCHEMA, batch=2)
    assert empty.rows().k.shape == (2, 2, 0, 3)
    assert empty.blocks(1) == ()
    assert empty.truncate(0).select([1, 1]).append(rows(batch=2)).length == 0
    assert empty.nbytes == live_bytes() == 0
    assert holds(empty.append(rows(7, batch=2)), 7)


def test_truncate_then_append_is_as_if_never_appended() -> None:
    cache = Paged.start(SCHEMA, page=4).append(rows(1, 2, 3))
    assert holds(cache.append(rows(8, 9)).truncate(3).append(rows(4)), 1, 2, 3, 4)


def test_branches_do_not_see_each_other() -> None:
    trunk = Paged.start(SCHEMA, page=4).append(rows(1, 2, 3, 4, 5))
    left, right = trunk.append(rows(6)), trunk.branch().append(rows(7, 8))
    low = trunk.truncate(2).append(rows(9))
    assert holds(trunk, 1, 2, 3, 4, 5)
    assert holds(left, 1, 2, 3, 4, 5, 6)
    assert holds(right, 1, 2, 3, 4, 5, 7, 8)
    assert holds(low, 1, 2, 9)


def test_repeated_beams_grow_apart() -> None:
    cache = Paged.start(SCHEMA, page=4).append(rows(1)).select([0, 0, 0])
    grown = cache.append(KeyValue(*(np.concatenate(x) for x in zip(rows(2), rows(3), rows(4), strict=True))))
    for b, token in enumerate((2, 3, 4)):
        assert np.array_equal(grown.rows(sequence=b).k, rows(1, token).k)


def test_the_callers_arrays_stay_the_callers() -> None:
    mine = rows(1, 2)
    cache = Paged.start(SCHEMA).append(mine)
    mine.k[...] = np.nan
    assert holds(cache, 1, 2)


def test_what_is_handed_out_is_read_only() -> None:
    cache = Paged.start(SCHEMA).append(rows(*range(300)))
    arrays: list[Any] = [*cache.rows(), *(x for block in cache.blocks(0) for x in block[1:4])]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_that_extend_one_value_do_not_meet(threads: int) -> None:
    for _ in range(20):
        trunk = Paged.start(SCHEMA, page=8).append(rows(1, 2))
        with ThreadPoolExecutor(threads) as pool:
            grown = list(pool.map(lambda n, trunk=trunk: trunk.append(rows(n, n)), range(3, 3 + threads)))
        assert all(holds(cache, 1, 2, n, n) for n, cache in enumerate(grown, 3))
        assert len({cache.pages(0) for cache in grown}) == threads


@given(
    page=st.sampled_from([1, 2, 3, 4, 7]),
    batch=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    wide=st.integers(1, 3),
)
def test_closed_form_cost_equals_the_count(page: int, batch: int, cuts: list[int], wide: int) -> None:
    schema = key_value(wide, 2, 5, np.float32)
    cache, past = Paged.start(schema, batch, page), 0
    with counting() as whole:
        for new in cuts:
            with counting() as part:
                cache = cache.append([np.zeros((batch, wide, new, f.width), np.float32) for f in schema.fields])
            assert part.tally == schema.append_cost(past=past, new=new, batch=batch, page=page)
            past += new
    assert whole.cache_live == whole.cache_peak == cache.nbytes
    assert whole.kv_written == batch * past * wide * 7 * 4


def test_a_branch_is_free_and_an_append_copies_one_page_at_most() -> None:
    token = SCHEMA.nbytes
    trunk = Paged.start(SCHEMA, page=8).append(rows(*range(21)))
    with counting() as tally:
        branch = trunk.branch().select([0]).truncate(19)
    assert tally.tally == Tally()
    assert live_bytes(trunk, branch) == trunk.nbytes == 3 * 8 * token
    with counting() as tally:
        trunk.append(rows(1))
        kept = trunk.append(rows(2)), branch.append(rows(3))
    assert tally.kv_copied == (5 + 3) * token
    assert live_bytes(trunk, *kept) == (3 + 2) * 8 * token


def test_pages_die_with_the_last_value_that_holds_them() -> None:
    with counting() as tally:
        trunk = Paged.start(SCHEMA, page=4).append(rows(*range(9)))
        twig = trunk.truncate(2)
        del trunk
    assert tally.cache_live == twig.nbytes == 4 * SCHEMA.nbytes
    assert tally.cache_peak == 3 * twig.nbytes


def test_released_pages_are_gone_and_their_place_is_known() -> None:
    cache = Paged.start(SCHEMA, page=4).append(rows(*range(14)))
    holed = cache.release(1, 13)
    assert holed.held(0).nonzero()[0].tolist() == [0, 1, 2, 3, 12, 13]
    assert holed.nbytes == 2 * 4 * SCHEMA.nbytes
    assert holed.pages(0)[1:3] == (None, None)
    assert np.array_equal(holed.rows(12).k, rows(12, 13).k)
    with pytest.raises(PositionError, match=r"slots 4 \.\. 7 must be held, but they have been released"):
        holed.rows(3)
    with pytest.raises(RollbackError, match="length must lie in or at the edge of a page that is held, got 6"):
        holed.truncate(6)
    assert holed.truncate(12).append(rows(20)).rows(12).k[0, 0, 0, 0] == 20000
    assert holds(cache, *range(14))


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (-1, r"length must be an integer in 0 \.\. 3, got -1"),
        (4, r"length must be an integer in 0 \.\. 3, got 4"),
        (True, "got True"),
        (1.0, r"got 1\.0"),
        ("1", "got '1'"),
        (None, "got None"),
        ([1], "length must be one integer or one for each of 2 sequences, got"),
        ([1, 4], r"length of sequence 1 must be an integer in 0 \.\. 3, got 4"),
        ([1, -1], "length of sequence 1 must be"),
    ],
)
def test_a_length_that_is_not_there_is_refused(length: Any, words: str) -> None:
    cache = Paged.start(SCHEMA, batch=2).append(rows(1, 2, 3, batch=2))
    with pytest.raises(ArgumentError, match=words):
        cache.truncate(length)
    assert holds(cache, 1, 2, 3)


@pytest.mark.parametrize("indices", [[], [2], [-1], [True], [0.0], [[0]], 0, np.array([], int), np.array([[0, 1]])])
def test_a_sequence_that_is_not_there_is_refused(indices: Any) -> None:
    with pytest.raises(ArgumentError, match="indices must be "):
        Paged.start(SCHEMA, batch=2).select(indices)


@pytest.mark.parametrize(
    ("batch", "page", "words"),
    [(1, 0, "page must be an integer >= 1, got 0"), (1, -4, "page"), (0, 4, "batch must be an integer >= 1, got 0")],
)
def test_no_room_is_refused(batch: int, page: int, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Paged.start(SCHEMA, batch, page)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda k, v: (k[0], v), ShapeError),
        (lambda k, v: (k, v[:, :1]), ShapeError),
        (lambda k, v: (k, v[:, :, :1]), ShapeError),
        (lambda k, v: (k,), ShapeError),
        (lambda k, v: (k.astype(object), v), DtypeError),
        (lambda k, v: (k.astype(int), v), DtypeError),
        (lambda k, v: (k, v.astype(np.float32)), DtypeError),
    ],
    ids=["rank", "heads", "tokens", "fields", "object", "int", "float32"],
)
def test_a_refused_append_leaves_room_and_rows_as_they_were(wrong: Any, error: type[Exception]) -> None:
    cache = Paged.start(SCHEMA, page=4).append(rows(1, 2))
    with counting() as tally, pytest.raises(error):
        cache.append(wrong(*rows(8, 9)))
    assert tally.tally == Tally()
    with counting() as tally:
        cache = cache.append(rows(3))
    assert tally.kv_copied == 0
    assert holds(cache, 1, 2, 3)


def test_sequences_of_different_lengths_have_no_common_length() -> None:
    cache = Paged.start(SCHEMA, batch=2).append(rows(1, 2, 3, batch=2)).truncate([1, 3])
    with pytest.raises(ArgumentError, match=r"length must be the same for all sequences, got \(1, 3\)"):
        _ = cache.length
    assert cache.append(rows(4, batch=2)).lengths == (2, 4)
    assert cache.rows(0, 1).k.shape == (2, 2, 1, 3)


@pytest.mark.parametrize("sequence", [-1, 2, True, 0.0])
def test_reading_a_sequence_that_is_not_there_is_refused(sequence: Any) -> None:
    cache = Paged.start(SCHEMA, batch=2)
    for read in (cache.blocks, cache.raw_blocks, cache.pages, cache.held):
        with pytest.raises(ArgumentError, match=r"sequence must be an integer in 0 \.\. 1, got"):
            read(sequence)


def test_blocks_for_the_softmax_need_keys_and_values() -> None:
    with pytest.raises(ArgumentError, match="schema must have keys k and values v to make blocks of them, got Latent"):
        Paged.start(latent(3)).blocks(0)
    flat = Schema(KeyValue, (Field("k", 1, 2), Field("v", 1, 2)))
    with pytest.raises(ArgumentError, match="schema must have keys k"):
        Paged.start(flat).blocks(0)


def test_integer_rows_are_kept_as_they_are() -> None:
    schema = Schema(KeyValue, (Field("k", 1, 2, np.int8, keys=True), Field("v", 1, 1, np.uint16)))
    codes = KeyValue(np.array([[[[-128, 127]]]], np.int8), np.array([[[[65535]]]], np.uint16))
    got = Paged.start(schema, page=2).append(codes).rows()
    assert (got.k.tolist(), got.v.tolist()) == (codes.k.tolist(), codes.v.tolist())
    assert [str(x.dtype) for x in got] == ["int8", "uint16"]


def test_it_says_what_it_is() -> None:
    assert repr(Paged.start(SCHEMA, 2, 16)) == "Paged(KeyValue, page=16, lengths=(0, 0))"
