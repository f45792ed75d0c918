"""Joining, cutting, forgetting, moving and choosing: what each operation on a paged cache equals, and what it costs."""

from collections.abc import Callable
import sys
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import KeyValue, Paged, latent, left_aligned, live_bytes, placed
from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, PositionError, RollbackError, ShapeError
from kvattn.masks import Causal, Tree
from kvattn.positions import Rotary
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from tests.caches.operated import COUNTS, PLACED, ROTARY, SCHEMA, part, rows, same


@pytest.mark.law("caches/paged: ragged", "padding is invisible: each sequence as if appended alone", "bits")
@given(past=st.tuples(COUNTS, COUNTS), counts=st.tuples(COUNTS, COUNTS), schema=st.sampled_from([SCHEMA, PLACED]))
def test_padding_is_invisible(past: tuple[int, int], counts: tuple[int, int], schema: Any) -> None:
    before, new = rows(2, 9, 1), rows(2, 9, 2)
    padded = KeyValue(*(x.copy() for x in new))
    for b, count in enumerate(counts):
        for array in padded:
            array[b, :, count:] = np.nan
    begun = Paged.start(schema, 2, 4).append(before, counts=past)
    alone = [
        Paged.start(schema, 1, 4).append(part(before, b, past[b])).append(part(new, b, counts[b])) for b in range(2)
    ]
    with counting() as tally:
        got = begun.append(padded, counts=counts)
    assert same(got, alone[0].merge(alone[1]))
    assert tally.kv_written == sum(counts) * schema.nbytes
    front = [np.concatenate([x[:, :, 9:], *[x]], axis=2) for x in padded]  # the other way about: padding in front
    for array, right in zip(front, new, strict=True):
        for b, count in enumerate(counts):
            array[b] = np.nan
            array[b, :, 9 - count :] = right[b, :, :count]
    assert same(begun.append(left_aligned(front, counts), counts=counts), got)


@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4), n=st.integers(1, 3))
@pytest.mark.law("caches/paged: merge and split", "split then merge is the cache itself; repeat is select", "bits")
def test_what_is_split_is_merged_again(cuts: list[int], n: int) -> None:
    batch = sum(cuts)
    cache = Paged.start(PLACED, batch, 4).append(rows(batch, 6), counts=[b % 7 for b in range(batch)])
    with counting() as tally:
        parts = cache.split(cuts)
        joined = parts[0].merge(*parts[1:])
        repeated = cache.repeat(n)
    assert tally.tally == Tally()
    assert [p.batch for p in parts] == cuts
    assert same(joined, cache)
    assert same(repeated, cache.select([b for b in range(batch) for _ in range(n)]))
    assert live_bytes(cache, joined, repeated, *parts) == cache.nbytes


def test_sequences_that_were_joined_grow_apart() -> None:
    one, two = (Paged.start(SCHEMA, page=4).append(rows(1, 3, seed)) for seed in (1, 2))
    joined = one.merge(two, one)
    grown = joined.append(rows(3, 2, 3))
    for b, seed in enumerate((1, 2, 1)):
        assert np.array_equal(grown.rows(0, 3, sequence=b).k, rows(1, 3, seed).k)
        assert np.array_equal(grown.rows(3, sequence=b).k[0], rows(3, 2, 3).k[b])
    assert one.lengths == (3,)


def test_blocks_have_the_positions_that_tokens_keep() -> None:
    for page in (64, 256):
        cache = Paged.start(PLACED, page=page).append(rows(1, 600)).evict([[*range(10), *range(200, 600)]])
        at = np.concatenate([np.arange(10), np.arange(200, 600)])
        found = cache.blocks(0)
        assert [block.key_count for block in found] == [256, 154]
        for block in found:
            held = slice(0, block.key_count)
            assert np.array_equal(block.positions[held], at[block.start : block.start + block.key_count])
            assert (block.positions[block.key_count :] == block.positions[0]).all()
            assert len(cache.raw_blocks(0)[0].arrays) == 2


@pytest.mark.law("caches/paged: placed", "a cache that keeps positions gives what a plain one gives", "bits")
def test_a_layer_over_a_placed_cache_gives_the_same_bits() -> None:
    random = np.random.default_rng(0)
    q, k, v, o = (random.normal(size=shape) for shape in ((6, 8), (6, 4), (6, 4), (8, 6)))
    layer = Grouped(Projections(q, k, v, o, heads=2, kv_heads=1), mask=Causal(), query_key=(Rotary.of(4),), page=4)
    x = random.normal(size=(2, 300, 6))
    plain: Any = layer.start(2)
    own: Any = Paged.start(placed(plain.schema), 2, 4)
    for cut in (slice(0, 7), slice(7, 8), slice(8, 300)):
        one, plain = layer.step(plain, x[:, cut])
        other, own = layer.step(own, x[:, cut])
        assert one.out.tobytes() == other.out.tobytes()
    assert own.ends == (300, 300)


def test_rows_and_tree_positions_meet_in_a_tree() -> None:
    tree = Tree([-1, 0, 0, 2], start=3)
    held = Paged.start(PLACED).append(rows(1, 3)).append(rows(1, 4, 1), tree.positions[None])
    assert held.positions(0).tolist() == [0, 1, 2, 3, 4, 4, 5]
    assert held.commit(3, [0, 2, 3]).positions(0).tolist() == [0, 1, 2, 3, 4, 5]


def holed() -> Paged[KeyValue]:
    return Paged.start(PLACED, page=4).append(rows(1, 12)).release(4, 8)


def refusal(begin: Any, act: Any, error: type[KvattnError], words: str) -> tuple[Any, ...]:
    return begin, act, error, words


def two(schema: Any = PLACED) -> Paged[KeyValue]:
    return Paged.start(schema, 2, 4).append(rows(2, 3))


PLAIN = two(SCHEMA)

BAD = {
    "foreign": refusal(two, lambda c: c.merge(None), ArgumentError, "others must be paged caches of the same schema"),
    "schema": refusal(two, lambda c: c.merge(PLAIN), ArgumentError, r"page, Paged\(KeyValue, page=4, leng"),
    "page": refusal(two, lambda c: c.merge(Paged.start(PLACED, page=8)), ArgumentError, "got Paged.*page=8"),
    "sizes": refusal(two, lambda c: c.split([1, 2]), ArgumentError, r"sizes must sum to 2, the batch, got \(1, 2\)"),
    "none": refusal(two, lambda c: c.split([]), ArgumentError, "sizes must be a non-empty sequence"),
    "n": refusal(two, lambda c: c.repeat(0), ArgumentError, "n must be an integer >= 1, got 0"),
    "counts": refusal(
        two, lambda c: c.append(rows(2, 2), counts=[3, 0]), ArgumentError, r"counts\[0\] must be an integer in 0 \.\. 2"
    ),
    "one count": refusal(
        two,
        lambda c: c.append(rows(2, 2), counts=1),
        ArgumentError,
        "counts must be one for each of 2 sequences, got 1",
    ),
    "shape": refusal(
        two,
        lambda c: c.append(rows(2, 2), np.arange(2)),
        ShapeError,
        r"positions must have shape \[B=2, T=2\], got \(2,\)",
    ),
    "dtype": refusal(
        two, lambda c: c.append(rows(2, 2), np.zeros((2, 2))), DtypeError, "positions must be integers, got float64"
    ),
    "negative": refusal(
        two,
        lambda c: c.append(rows(2, 2), np.array([[0, 1], [4, -1]])),
        PositionError,
        "positions of sequence 1 must be at least 0, got -1",
    ),
    "beside": refusal(
        lambda: two(SCHEMA),
        lambda c: c.append(rows(2, 2), np.array([[3, 4], [3, 5]])),
        PositionError,
        r"positions of sequence 1 must be 3 \.\. 4, the slots, since the schema is not placed, got 5",
    ),
    "evict": refusal(
        lambda: two(SCHEMA), lambda c: c.evict([[0], [0]]), ArgumentError, "schema must be placed to evict, .* KeyValue"
    ),
    "kept": refusal(two, lambda c: c.evict([[0]]), ArgumentError, "keep must be slots for each of 2 sequences, got"),
    "slot": refusal(
        two,
        lambda c: c.evict([[0], [3]]),
        ArgumentError,
        r"keep of sequence 1\[0\] must be an integer in 0 \.\. 2, got 3",
    ),
    "order": refusal(
        two, lambda c: c.evict([[0], [2, 1]]), ArgumentError, r"keep of sequence 1 must be increasing, got \[2, 1\]"
    ),
    "truth": refusal(
        two, lambda c: c.evict([[True], [0]]), ArgumentError, "keep of sequence 0 must have a truth value for each of 3"
    ),
    "row": refusal(two, lambda c: c.evict([0, 1]), ArgumentError, "keep of sequence 0 must be a row of numbers, got 0"),
    "hole": refusal(
        holed, lambda c: c.evict([[0, 5]]), PositionError, "keep of sequence 0 must name slots that are held, got 5"
    ),
    "back": refusal(
        two, lambda c: c.shift(-1), PositionError, "by must not move position 0 of sequence 0 below 0, got -1"
    ),
    "shift": refusal(lambda: two(SCHEMA), lambda c: c.shift(1), ArgumentError, "schema must be placed to shift"),
    "ways": refusal(
        two, lambda c: c.shift([1, 2, 3]), ArgumentError, "by must be one integer or one for each of 2 sequences"
    ),
    "field": refusal(two, lambda c: c.shift(1, ROTARY, field="q"), ArgumentError, "field must be one of k, v, got 'q'"),
    "turn": refusal(two, lambda c: c.shift(1, Shorter()), ShapeError, "turn must keep shape and dtype"),
    "prefix": refusal(two, lambda c: c.commit(4, []), ArgumentError, r"prefix must be an integer in 0 \.\. 3, got 4"),
    "node": refusal(
        two,
        lambda c: c.commit(1, [0, 2]),
        ArgumentError,
        r"path of sequence 0\[1\] must be an integer in 0 \.\. 1, got 2",
    ),
    "path": refusal(two, lambda c: c.commit(1, 0), ArgumentError, "path must be a row of node numbers"),
    "paths": refusal(
        two, lambda c: c.commit(1, [[0]] * 3), ArgumentError, "path must be one for all or one for each of 2"
    ),
    "falling": refusal(two, lambda c: c.commit(0, [2, 1]), ArgumentError, "path of sequence 0 must be increasing"),
    "gone": refusal(
        holed, lambda c: c.commit(0, [0, 5]), PositionError, "slot 5 must be held, but it has been released"
    ),
    "edge": refusal(
        holed, lambda c: c.truncate(8), RollbackError, "length must lie behind a token that is held, .* got 8"
    ),
    "stranded": refusal(
        lambda: Paged.start(PLACED, page=4).append(rows(1, 8)).release(4, 8).append(rows(1, 2)),
        lambda c: c.commit(8, [1]),
        RollbackError,
        "length must lie behind a token that is held, .* got 8",
    ),
    "new": refusal(two, lambda c: c.coming(-1), ArgumentError, "new must be an integer >= 0, got -1"),
}


class Shorter:
    def shift(self, x: Any, by: Any) -> Any:
        return x[:, :1]


@pytest.mark.parametrize("name", BAD)
def test_a_refused_operation_leaves_everything_as_it_was(name: str) -> None:
    begin, act, error, words = BAD[name]
    cache: Paged[KeyValue] = begin()
    before = (
        cache.footprint(),
        [[x.tobytes() for b in cache.raw_blocks(n) for x in b.arrays] for n in range(cache.batch)],
    )
    with counting() as tally, pytest.raises(error, match=words):
        act(cache)
    assert tally.tally == Tally()
    after = (
        cache.footprint(),
        [[x.tobytes() for b in cache.raw_blocks(n) for x in b.arrays] for n in range(cache.batch)],
    )
    assert before == after
    with counting() as tally:
        cache.append(rows(cache.batch, 1))
    assert tally.kv_copied == 0  # the room behind the end is still free


def test_left_padded_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"rows must be arrays \[B, heads, T, width\], got \[\(2, 3\)\]"):
        left_aligned([np.zeros((2, 3))], [1, 1])
    with pytest.raises(ArgumentError, match="counts must be one for each of 2 sequences"):
        left_aligned([np.zeros((2, 1, 3, 1))], [1])


def test_a_schema_of_one_field_can_be_placed() -> None:
    cache = Paged.start(placed(latent(2)), page=2).append([np.arange(10.0).reshape(1, 1, 5, 2)])
    assert cache.evict([[1, 4]]).rows().latent[0, 0, :, 0].tolist() == [2.0, 8.0]
    assert cache.nbytes == 3 * 2 * (16 + 8)


VERBS: dict[str, Callable[[Paged[Any]], object]] = {
    "truncate": lambda c: c.truncate(c.length - 1),
    "select": lambda c: c.select([0, 0]),
    "append": lambda c: c.append([np.ones((1, 1, 1, 1))]),
    "commit": lambda c: c.commit(c.length - 2, [1]),
    "merge": lambda c: c.merge(c),
    "coming": lambda c: c.coming(3),
}


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.law("caches/paged: cost", "steps do not grow with length", "integers")
def test_steps_do_not_grow_with_length(name: str) -> None:
    """Lines of Python executed, each of bounded work: 1,000 times the tokens, a few lines more for the taller tree."""

    def lines(length: int) -> int:
        cache = Paged.start(placed(latent(1)), page=4).append([np.ones((1, 1, length, 1))])
        count = 0

        def trace(frame: Any, event: str, argument: object) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        old = sys.gettrace()
        sys.settrace(trace)
        try:
            VERBS[name](cache)
        finally:
            sys.settrace(old)
        return count

    short, long = lines(130), lines(130_002)
    assert long <= short + 40, f"{name} took {short} lines for 130 tokens and {long} for 130,002"
