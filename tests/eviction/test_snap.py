"""SnapKV: votes of the last queries, pooled, by loops; the window always stays."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.eviction import MaxPool, MeanPool, probabilities, top, window_votes
from kvattn.eviction.snap import Pool
from kvattn.execution import Question
from tests.eviction.drawn import near, prompt, prompts

POOLS: list[Pool] = [MeanPool(1), MeanPool(3), MeanPool(5), MaxPool(1), MaxPool(3), MaxPool(7)]


def pooled_by_hand(pool: Any, numbers: list[float]) -> list[float]:
    reach, found = pool.width // 2, []
    for j in range(len(numbers)):
        around = [numbers[n] for n in range(j - reach, j + reach + 1) if 0 <= n < len(numbers)]
        found.append(sum(around) / pool.width if isinstance(pool, MeanPool) else max(around))
    return found


def by_hand(p: Any, kv_heads: int, window: int, pool: Pool) -> Any:
    batch, heads, length, held = p.shape
    group, early = heads // kv_heads, held - window
    scores = np.full((batch, kv_heads, held), np.inf)
    scores[:, :, :early] = 0.0
    for b in range(batch):
        for h in range(heads):
            votes = [sum(float(p[b, h, i, j]) for i in range(length - window, length)) / window for j in range(early)]
            for j, vote in enumerate(pooled_by_hand(pool, votes)):
                scores[b, h // group, j] += vote / group
    return scores


@pytest.mark.by_hand("eviction/snap")
@given(prompts(), st.integers(1, 4), st.sampled_from(POOLS))
def test_it_equals_by_hand(question: Question, window: int, pool: Pool) -> None:
    p, kv_heads = probabilities(question), question.k.shape[1]
    window = min(window, p.shape[2])
    wanted = by_hand(p, kv_heads, window, pool)
    found = window_votes(p, kv_heads, window=window, pool=pool)
    assert np.array_equal(np.isposinf(found), np.isposinf(wanted))
    early = slice(0, p.shape[3] - window)
    assert near(found[..., early], wanted[..., early], p.dtype)
    assert found.dtype == p.dtype


@pytest.mark.law("eviction/snap", "the last window queries are all it asks for", "bits")
@given(prompts(), st.integers(1, 4))
def test_earlier_queries_have_no_vote(question: Question, window: int) -> None:
    length = question.q.shape[2]
    window = min(window, length)
    last = probabilities(question.part(slice(length - window, length)))
    whole = probabilities(question)
    heads = question.k.shape[1]
    assert np.array_equal(
        window_votes(last, heads, window=window, pool=MeanPool(3)),
        window_votes(whole, heads, window=window, pool=MeanPool(3)),
    )


@pytest.mark.law("eviction/snap", "the window is always kept", "integers")
@given(prompts(), st.integers(1, 4), st.integers(0, 6), st.sampled_from(POOLS))
def test_the_window_stays(question: Question, window: int, more: int, pool: Pool) -> None:
    window = min(window, question.q.shape[2])
    scores = window_votes(probabilities(question), question.k.shape[1], window=window, pool=pool)
    assert top(scores, window + more)[..., question.k.shape[2] - window :].all()
    with pytest.raises(ArgumentError, match=f"^budget must be at least {window}, the keys of head 0 that are always"):
        top(scores, window - 1)


def test_pooling_keeps_neighbours_together() -> None:
    """A single high vote brings its neighbours along: what the pool is for."""
    p = np.full((1, 1, 1, 9), 0.01)
    p[..., 4] = 0.9
    keep = top(window_votes(p, 1, window=1, pool=MaxPool(3)), 4)
    assert np.flatnonzero(keep).tolist() == [3, 4, 5, 8]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MeanPool(4), r"^width must be odd, got 4$"),
        (lambda: MaxPool(0), r"^width must be an integer >= 1, got 0$"),
        (
            lambda: window_votes(probabilities(prompt(0)), 2, window=10, pool=MeanPool(1)),
            r"^window must be an integer in 1 \.\. 9, got 10$",
        ),
    ],
    ids=range(3),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()
