"""Cascade: shared segments attended to once, merged with what each sequence has of its own."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import counting
from kvattn.errors import ArgumentError, ShapeError
from kvattn.execution import Question, Segment, bytes_read, cascade_attend
from kvattn.masks import Causal, Document, Window
from kvattn.mods import Bias
from kvattn.positions.alibi import Alibi
from kvattn.typing import Array
from tests.execution.questions import distance, distance_by_hand

HKV, GROUP, D, DV = 2, 3, 5, 3
HEADS = HKV * GROUP


def flat(q: Array, segments: list[Segment], b: int, **pipeline: Any) -> Question:
    """One sequence by itself, its segments put together in the order of their positions."""
    mine = sorted((s for s in segments if b in s.members), key=lambda s: s.start)
    k, v = (
        np.concatenate([np.zeros((1, HKV, 0, w)), *(getattr(s, n)[None] for s in mine)], 2)
        for n, w in (("k", D), ("v", DV))
    )
    at = np.concatenate([np.zeros(0, int), *(s.start + np.arange(s.k.shape[1]) for s in mine)])
    return Question(q[b : b + 1], k, v, k_positions=at, **pipeline)


@st.composite
def levels(draw: st.DrawFn) -> tuple[Array, list[Segment]]:
    """Three levels: all sequences, some of them, each by itself; any of them may be without keys."""
    batch, random = draw(st.integers(1, 4)), np.random.default_rng(draw(st.integers(0, 2**16)))

    def segment(members: list[int], start: int) -> Segment:
        n = draw(st.integers(0, 5))
        return Segment(random.normal(size=(HKV, n, D)), random.normal(size=(HKV, n, DV)), members, start)

    segments = [segment(list(range(batch)), 0)]
    middle = draw(st.lists(st.integers(0, batch - 1), unique=True, max_size=3))
    if middle:
        segments.append(segment(middle, 5))
    segments += [segment([b], 10) for b in range(batch)]
    q: Array = random.normal(size=(batch, HEADS, draw(st.integers(1, 3)), D))
    return q, draw(st.permutations(segments))


PIPELINES: list[dict[str, Any]] = [
    {},
    {"mask": Causal(), "sinks": np.linspace(-1, 2, HEADS)},
    {"mask": Window(4), "softcap": 2.0},
    {"mask": Causal(), "mods": (Alibi.of(HEADS),), "scale": 0.4},
]


@pytest.mark.by_hand("execution/cascade")
@pytest.mark.law("execution/cascade", "shared segments equal flat attention of each sequence", "bound")
@given(levels(), st.integers(9, 16), st.sampled_from(PIPELINES))
def test_it_equals_each_sequence_by_itself(
    case: tuple[Array, list[Segment]], first: int, pipeline: dict[str, Any]
) -> None:
    q, segments = case
    at = first + np.arange(q.shape[2])
    found = cascade_attend(q, segments, q_positions=at, **pipeline)
    for b in range(len(q)):
        alone = flat(q, segments, b, q_positions=at, **pipeline)
        mine = type(found)(found.out[b : b + 1], found.lse[b : b + 1])
        assert distance(mine, alone, parts=4) <= 1
        assert distance_by_hand(mine, alone) <= 1


def test_masks_and_biases_that_depend_on_the_sequence_are_asked_for_each() -> None:
    random = np.random.default_rng(4)
    q, k = random.normal(size=(3, HEADS, 2, D)), random.normal(size=(HKV, 6, D))
    v, at = random.normal(size=(HKV, 6, DV)), np.array([[4, 5], [3, 5], [0, 2]])
    mask = Causal() & Document([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    table = random.normal(size=(3, HEADS, 6, 6))
    bias = Bias(table)
    found = cascade_attend(q, [Segment(k, v, [2, 0, 1])], q_positions=at, mask=mask, mods=[bias])
    whole = Question(
        q, np.stack([k] * 3), np.stack([v] * 3), mask=mask, mods=(bias,), q_positions=at, k_positions=np.arange(6)
    )
    wanted = whole.attend()
    assert np.allclose(found.out, wanted.out, rtol=1e-13, atol=1e-14)
    assert np.allclose(found.lse, wanted.lse, rtol=1e-13, atol=1e-14)


@pytest.mark.law("execution/cascade", "closed form equals bytes counted, cascade and flat", "integers")
@given(levels())
def test_a_prefix_is_read_once(case: tuple[Array, list[Segment]]) -> None:
    q, segments = case
    at = np.arange(15, 15 + q.shape[2])
    with counting() as shared:
        cascade_attend(q, segments, q_positions=at, mask=Causal())
    with counting() as apart:
        for b in range(len(q)):
            flat(q, segments, b, q_positions=at, mask=Causal()).attend()
    assert (shared.kv_read, apart.kv_read) == bytes_read(segments)
    assert (shared.pairs_visible, shared.matmul) == (apart.pairs_visible, apart.matmul)
    by_loops = [0, 0]
    for segment in segments:
        for _ in range(HKV * segment.k.shape[1] * (D + DV)):
            by_loops[0] += 8
            by_loops[1] += 8 * len(segment.members)
    assert tuple(by_loops) == bytes_read(segments)


K = np.zeros((1, 2, 4))


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ([], "^segments must hold at least one, got none$"),
        ([Segment(K, K, [0, 2])], r"^members of segment 0 must be below 2, got \[0, 2\]$"),
        (
            [Segment(K, K, [0, 1]), Segment(K, K, [1], 1)],
            "^segments must not overlap, got position 1 of sequence 1 twice$",
        ),
    ],
)
def test_bad_segments_are_named(segments: list[Segment], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        cascade_attend(np.zeros((2, 1, 1, 4)), segments, q_positions=np.array([3]))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((K, K, []), ArgumentError, r"^members must be a non-empty sequence of integers >= 0, got \[\]$"),
        ((K, K, [1, 1]), ArgumentError, r"^members must name each sequence once, got \[1, 1\]$"),
        ((K, K, [0], -1), ArgumentError, "^start must be an integer >= 0, got -1$"),
        ((K, K[:, :1], [0]), ShapeError, r"^v must have shape \[Hkv, S, Dv\] with Hkv=1, S=2, got \(1, 1, 4\)$"),
    ],
)
def test_a_bad_segment_is_named(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Segment(*arguments)


def test_a_query_of_another_rank_is_named() -> None:
    with pytest.raises(ShapeError, match=r"^q must have shape \[B, Hq, T, D\], got \(2, 1, 4\)$"):
        cascade_attend(np.zeros((2, 1, 4)), [Segment(K, K, [0])], q_positions=np.array([3]))
