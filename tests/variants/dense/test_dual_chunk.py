"""Dual chunk attention against each pair's distance in loops, and its mask of chunks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Chunked
from kvattn.positions import Rotary
from kvattn.testing.heads_by_hand import drawn_projections
from kvattn.testing.laws import stepped
from kvattn.typing import Answer, Span
from kvattn.variants.dense.dual_chunk import ChunksBehind, dual_chunk
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.placed import Cycle, Placed, Way
from tests.variants.dense.placed import Distance, Example, T

ROTARY = Rotary.of(4, base=100.0)


def layer(chunk: int, farthest: int, **settings: Any) -> Placed:
    return Placed(drawn_projections(4, 2), ROTARY, dual_chunk(chunk=chunk, farthest=farthest), page=3, **settings)


def distance(chunk: int, farthest: int) -> Distance:
    def of(i: int, j: int) -> int:
        behind = i // chunk - j // chunk
        if behind == 0:
            return i - j
        if behind == 1:
            return min(chunk + i % chunk, farthest) - j % chunk
        return farthest - j % chunk

    return of


SIZES = [(3, 4), (3, 5), (4, 4), (2, 3), (1, 1), (100, 150), (6, 7)]


@pytest.mark.by_hand("variants/dense/dual_chunk")
@pytest.mark.no_peer(
    "variants/dense/dual_chunk",
    "released implementations call kernels for a GPU, and none was found that runs on a CPU",
)
@pytest.mark.parametrize(("chunk", "farthest"), SIZES)
def test_definition_and_steps_equal_by_hand(chunk: int, farthest: int) -> None:
    example = Example(layer(chunk, farthest), distance(chunk, farthest))
    assert example.gap(example.layer.definition(example.x, np.arange(T))) <= 1
    for cuts in ((), (4,), tuple(range(1, T))):
        assert example.gap(stepped(example.layer, example.x, cuts)[0]) <= 1


def test_the_papers_figure() -> None:
    """Trained for 10, chunks of 6 and 12 tokens: places 6 to 9, and then 9 again (2402.17463, figure 2)."""
    own, before, earlier = dual_chunk(chunk=6, farthest=9)
    at = np.arange(12)
    assert own.keys(at).tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert own.queries(at).tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert before.queries(at).tolist() == [6, 7, 8, 9, 9, 9] * 2
    assert earlier.queries(at).tolist() == [9] * 12


S, F = 3, 4
OWN, BEFORE, EARLIER = dual_chunk(chunk=S, farthest=F)
MUTANTS: dict[str, tuple[Way, ...]] = {
    "another chunk": dual_chunk(chunk=4, farthest=4),
    "one farther": dual_chunk(chunk=S, farthest=F + 1),
    "the chunk before as an earlier one": (OWN, EARLIER._replace(mask=ChunksBehind(S, 1))),
    "an earlier chunk as the one before": (OWN, BEFORE._replace(mask=ChunksBehind(S, 1))),
    "not held back": (OWN, BEFORE._replace(queries=Cycle(S, S)), EARLIER),
    "own place for all": tuple(way._replace(queries=OWN.queries) for way in (OWN, BEFORE, EARLIER)),
    "no earlier chunks": (OWN, BEFORE),
    "own chunk alone": (OWN,),
    "farthest for the position": (OWN, BEFORE, EARLIER._replace(queries=Cycle(S, F))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_ways_are_rejected(name: str) -> None:
    example = Example(layer(S, F), distance(S, F))
    mutant = replace(example.layer, ways=MUTANTS[name])
    assert example.gap(stepped(mutant, example.x, (5,))[0]) > 1e6
    assert example.gap(mutant.definition(example.x, np.arange(T))) > 1e6


def test_every_pair_has_one_way_and_no_place_exceeds_the_range() -> None:
    at = np.arange(60)
    for chunk, farthest in SIZES:
        ways = dual_chunk(chunk=chunk, farthest=farthest)
        owners = sum(way.mask(0, 0, at[:, None], at).astype(int) for way in ways)
        assert (np.asarray(owners)[at[:, None] >= at] == 1).all()
        for way in ways:
            own = way.mask(0, 0, at[:, None], at) & (at[:, None] >= at)
            places = (way.queries(at)[:, None] - way.keys(at))[own]
            assert not places.size or (places.min() >= 0 and places.max() <= farthest)


def test_near_keys_of_the_chunk_before_keep_their_distance() -> None:
    _, before, _ = dual_chunk(chunk=6, farthest=9)
    for i in range(6, 10):  # 6 + i mod 6 <= 9
        for j in range(6):
            assert int(before.queries(np.array(i)) - before.keys(np.array(j))) == i - j


@pytest.mark.law("variants/dense/dual_chunk", "a text of one chunk is plain rotation", "bound")
def test_one_chunk_is_plain_attention() -> None:
    """Bound: one softmax joined with two empty parts, 100 roundings of numbers below 10."""
    example = Example(layer(T, T), distance(T, T))
    plain, _ = stepped(Grouped(drawn_projections(4, 2), query_key=(ROTARY,)), example.x, ())
    found, _ = stepped(example.layer, example.x, (3,))
    assert np.abs(found.out - plain.out).max() < 1e-12


@pytest.mark.parametrize("mask", [ChunksBehind(4, 1, 1), ChunksBehind(4, 2), ChunksBehind(3, 0, 1), ChunksBehind(1, 1)])
def test_blocks_say_what_their_pairs_say(mask: ChunksBehind) -> None:
    met = set()
    for q in (Span(a, a + n) for a in range(14) for n in (0, 1, 4)):
        for k in (Span(a, a + n) for a in range(14) for n in (0, 2, 5)):
            pairs = mask(0, 0, np.arange(q.low, q.high + 1)[:, None], np.arange(k.low, k.high + 1))
            answer = mask.block(0, q, k)
            met.add(answer)
            assert answer is not Answer.ALL or pairs.all()
            assert answer is not Answer.NONE or not pairs.any()
            assert answer is not Answer.LOOK or q != k or len(set(q)) > 1
    assert met == set(Answer)


def test_chunks_behind_joins_with_other_masks() -> None:
    at = np.arange(9)
    own, rest = Chunked(3), ChunksBehind(3, 1)
    assert ((own | rest)(0, 0, at[:, None], at) == (at[:, None] // 3 >= at // 3)).all()
    assert ((~rest)(0, 0, at[:, None], at) == (at[:, None] // 3 <= at // 3)).all()
    assert not (own & rest)(0, 0, at[:, None], at).any()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"chunk": 0, "farthest": 4}, r"^chunk must be an integer >= 1, got 0$"),
        ({"chunk": 4, "farthest": 3}, r"^farthest must be an integer in 4 \.\. 7, got 3$"),
        ({"chunk": 4, "farthest": 8}, r"^farthest must be an integer in 4 \.\. 7, got 8$"),
        ({"chunk": 4, "farthest": 5.0}, r"^farthest must be an integer in 4 \.\. 7, got 5\.0$"),
    ],
    ids=range(4),
)
def test_a_bad_size_is_named(sizes: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        dual_chunk(**sizes)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 1), r"^size must be an integer >= 1, got 0$"),
        ((3, -1), r"^nearest must be an integer >= 0, got -1$"),
        ((3, 2, 1), r"^farthest must be an integer >= 2, got 1$"),
    ],
    ids=range(3),
)
def test_a_bad_mask_is_named(numbers: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        ChunksBehind(*numbers)
