"""H2O: the greedy loop with lists, and both ways to score a prompt at once."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.eviction import HeavyHitters, accumulated, averaged, decode, kept_slots, probabilities, top, untouched
from kvattn.execution import Question
from tests.eviction.drawn import fresh, listed, near, prompt, prompts


def greedy_by_hand(question: Question, b: int, head: int, heavy: int, recent: int) -> tuple[list[int], list[float]]:
    """Algorithm 1 for one key/value head, with its group's queries: what is left, and the totals."""
    group, width = question.q.shape[1] // question.k.shape[1], question.q.shape[3]
    q, k = question.q[b].tolist(), question.k[b][head].tolist()
    left: list[int] = []
    totals = [0.0] * len(k)
    for i in range(len(k)):
        left.append(i)
        for h in range(head * group, (head + 1) * group):
            scores = [sum(x * y for x, y in zip(q[h][i], k[j], strict=True)) / math.sqrt(width) for j in left]
            powers = [math.exp(score - max(scores)) for score in scores]
            for j, power in zip(left, powers, strict=True):
                totals[j] += power / sum(powers)
        if len(left) > heavy + recent:
            old = [j for j in left if j <= i - recent]
            least = old[0]
            for j in old:
                if totals[j] <= totals[least]:  # of equal ones the highest slot goes
                    least = j
            left.remove(least)
            totals[least] = 0.0
    return left, totals


@pytest.mark.by_hand("eviction/heavy_hitters")
@given(prompts(), st.integers(0, 3), st.integers(1, 3))
def test_the_loop_equals_by_hand(question: Question, heavy: int, recent: int) -> None:
    if question.q.dtype == np.float32:  # totals within a rounding of each other would be decided by it
        question = prompt(11, length=10)
    batch, kv_heads, length = question.k.shape[:3]
    found = decode(HeavyHitters(heavy, recent), untouched(batch, kv_heads), question).standing
    for b, head in np.ndindex(batch, kv_heads):
        left, totals = greedy_by_hand(question, b, head, heavy, recent)
        assert np.flatnonzero(found.kept[b, head]).tolist() == left
        assert near(found.totals[b, head], totals)
        assert len(left) == min(heavy + recent, length)


@pytest.mark.by_hand("eviction/heavy_hitters: a prompt at once")
@given(prompts())
def test_scores_of_a_prompt_equal_by_hand(question: Question) -> None:
    p, seen = probabilities(question), question.visible()
    batch, kv_heads, length = question.k.shape[:3]
    group = question.q.shape[1] // kv_heads
    sums = np.zeros((batch, kv_heads, length))
    means = np.zeros((batch, kv_heads, length))
    for b, head, j in np.ndindex(*sums.shape):
        for h in range(head * group, (head + 1) * group):
            column = [float(p[b, h, i, j]) for i in range(length) if i >= j]
            sums[b, head, j] += sum(column)
            means[b, head, j] += sum(column) / (length - j) / group
    assert near(accumulated(p, kv_heads), sums, p.dtype)
    assert near(averaged(p, seen, kv_heads), means, p.dtype)


@pytest.mark.law("eviction/heavy_hitters", "the last keys are always kept", "integers")
@given(prompts(), st.integers(0, 3), st.integers(1, 3))
def test_recent_keys_stay(question: Question, heavy: int, recent: int) -> None:
    found = decode(HeavyHitters(heavy, recent), fresh(question), question)
    assert found.standing.kept[:, :, -recent:].all()
    assert (found.standing.kept.sum(axis=2) == min(heavy + recent, question.k.shape[2])).all()
    assert (found.seen.sum(axis=3) <= heavy + recent + 1).all()
    assert not found.standing.totals[~found.standing.kept].any()


def test_the_loop_and_the_prompt_at_once_differ() -> None:
    """From full attention the totals are others, so other keys may stay; the issue of the authors' prefill."""
    differ = 0
    for seed in range(20):
        question = prompt(seed, batch=1, kv_heads=1, group=1, length=10)
        loop = decode(HeavyHitters(3, 1), untouched(1, 1), question).standing.kept
        whole = accumulated(probabilities(question), 1)
        whole[:, :, -1] = np.inf
        differ += not np.array_equal(loop, top(whole, 4))
    assert 0 < differ < 20


def test_undivided_sums_favour_early_keys() -> None:
    """Uniform attention: every mean is that of later rows, every sum is larger for an earlier key."""
    x = np.zeros((1, 1, 6, 1))
    question = Question(x, x, x, mask=prompt(0).mask)
    p = probabilities(question)
    assert (np.diff(accumulated(p, 1)) < 0).all()
    assert kept_slots(top(accumulated(p, 1), 2)).tolist() == [[[0, 1]]]
    assert kept_slots(top(averaged(p, question.visible(), 1), 2)).tolist() == [[[0, 1]]]
    assert averaged(p, question.visible(), 1)[0, 0, 5] == 1 / 6


def test_a_key_that_nobody_saw_is_worth_nothing() -> None:
    p = np.zeros((1, 1, 2, 2))
    assert averaged(p, p > 0, 1).tolist() == [[[0.0, 0.0]]]


def test_equal_totals_leave_the_lowest_slots() -> None:
    row = np.full((1, 1, 4), 0.25)
    start = untouched(1, 1)._replace(kept=np.ones((1, 1, 3), bool), totals=np.full((1, 1, 3), 1.0))
    assert listed(HeavyHitters(2, 1).observe(start, row).kept) == [[[0, 1, 3]]]


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"^recent must be an integer >= 1, got 0$"):
        HeavyHitters(0, 0)
    with pytest.raises(ArgumentError, match=r"^heavy must be an integer >= 0, got -1$"):
        HeavyHitters(-1, 2)
    with pytest.raises(ShapeError, match=r"^visible must have shape \[B, Hq, T, S\] with B=1, Hq=1, T=1, S=1, got "):
        averaged(np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1, 2), bool), 1)
