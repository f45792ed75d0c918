"""TOVA: the newest query decides, for all heads alike."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.eviction import Tova, decode, last_query, probabilities, protect, top, untouched
from kvattn.execution import Question
from tests.eviction.drawn import fresh, near, prompt, prompts


def greedy_by_hand(question: Question, b: int, budget: int) -> list[int]:
    """After each query the key of least mean probability goes; of equal ones the highest slot."""
    heads, width = question.q.shape[1], question.q.shape[3]
    group = heads // question.k.shape[1]
    q, k = question.q[b].tolist(), question.k[b].tolist()
    left: list[int] = []
    for i in range(len(q[0])):
        left.append(i)
        means = [0.0] * len(left)
        for h in range(heads):
            scores = [
                sum(x * y for x, y in zip(q[h][i], k[h // group][j], strict=True)) / math.sqrt(width) for j in left
            ]
            powers = [math.exp(score - max(scores)) for score in scores]
            means = [mean + power / sum(powers) / heads for mean, power in zip(means, powers, strict=True)]
        if len(left) > budget:
            least = min(range(len(left)), key=lambda n: (means[n], -left[n]))
            del left[least]
    return left


@pytest.mark.by_hand("eviction/tova")
@given(prompts(), st.integers(1, 5))
def test_the_loop_equals_by_hand(question: Question, budget: int) -> None:
    if question.q.dtype == np.float32:  # probabilities within a rounding of each other would be decided by it
        question = prompt(11, length=10)
    batch, kv_heads = question.k.shape[:2]
    kept = decode(Tova(budget), untouched(batch, kv_heads), question).standing.kept
    for b in range(batch):
        wanted = greedy_by_hand(question, b, budget)
        for head in range(kv_heads):
            assert np.flatnonzero(kept[b, head]).tolist() == wanted


@pytest.mark.by_hand("eviction/tova: a prompt at once")
@given(prompts())
def test_scores_of_a_prompt_equal_by_hand(question: Question) -> None:
    p, kv_heads = probabilities(question), question.k.shape[1]
    found = last_query(p, kv_heads)
    for b, head, j in np.ndindex(*found.shape):
        wanted = sum(float(p[b, h, -1, j]) for h in range(p.shape[1])) / p.shape[1]
        assert near(found[b, head, j], wanted, p.dtype)


@pytest.mark.law("eviction/tova", "all heads keep the same keys", "bits")
@given(prompts(), st.integers(1, 5))
def test_all_heads_keep_the_same(question: Question, budget: int) -> None:
    kept = decode(Tova(budget), fresh(question), question).standing.kept
    assert (kept == kept[:, :1]).all()
    assert (kept.sum(axis=2) == min(budget, question.k.shape[2])).all()


def test_the_last_token_may_go_unless_it_is_protected() -> None:
    p = np.array([0.5, 0.4, 0.1]).reshape(1, 1, 1, 3)
    assert top(last_query(p, 1), 2)[0, 0].tolist() == [True, True, False]
    assert top(protect(last_query(p, 1), last=1), 2)[0, 0].tolist() == [True, False, True]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"^budget must be an integer >= 1, got 0$"):
        Tova(0)
    with pytest.raises(ShapeError, match=r"^probabilities must have at least one query, got shape \(1, 1, 0, 2\)$"):
        last_query(np.zeros((1, 1, 0, 2)), 1)
    with pytest.raises(ShapeError, match=r"^probabilities must have a multiple of 2 heads, got 3$"):
        last_query(np.zeros((1, 3, 1, 2)), 2)
