"""Ada-KV: budgets between an equal share and a head's part of the best scores of all heads."""

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.eviction import adaptive_budgets, protect, safeguarded_budgets, top
from kvattn.typing import Array
from tests.eviction.drawn import listed

SCORES = arrays(
    np.float64,
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 8)),
    elements=st.sampled_from([-1.0, 0.0, 0.5, 0.25, 3.0]),
)
FLOORS = st.sampled_from([0.0, 0.2, 0.3, 0.5, 1.0])


def counts(head_scores: list[list[float]], total: int) -> list[int]:
    """How many of the best of all heads each head has; equal ones: lowest head, then lowest slot."""
    ranked = sorted(
        ((-score, head, slot) for head, scores in enumerate(head_scores) for slot, score in enumerate(scores)),
    )
    return [sum(1 for _, head, _ in ranked[:total] if head == h) for h in range(len(head_scores))]


@pytest.mark.by_hand("eviction/adaptive")
@given(SCORES, st.integers(0, 9), FLOORS)
def test_it_equals_by_hand(scores: Array, budget: int, floor: float) -> None:
    found = adaptive_budgets(scores, budget, floor=floor)
    heads, length = scores.shape[1:]
    mean = min(budget, length)
    for b, head_scores in enumerate(scores.tolist()):
        shares = counts(head_scores, heads * mean)
        exact = [(1 - Fraction(str(floor))) * n + Fraction(str(floor)) * mean for n in shares]
        rounded = [int(x) for x in exact]
        while sum(rounded) < heads * mean:
            rest = [x - n for x, n in zip(exact, rounded, strict=True)]
            rounded[rest.index(max(rest))] += 1
        assert found[b].tolist() == rounded


@pytest.mark.by_hand("eviction/adaptive: protected")
@given(SCORES, st.integers(0, 9), FLOORS)
def test_the_protected_form_equals_by_hand(scores: Array, budget: int, floor: float) -> None:
    found = safeguarded_budgets(scores, budget, floor=floor)
    heads, length = scores.shape[1:]
    mean = min(budget, length)
    safe = max(1, int(Fraction(str(floor)) * mean)) if floor and mean else 0
    for b, head_scores in enumerate(scores.tolist()):
        lifted = []
        for row in head_scores:
            order = sorted(range(length), key=lambda slot: (-row[slot], slot))
            lifted.append([9e9 if slot in order[:safe] else row[slot] for slot in range(length)])
        assert found[b].tolist() == counts(lifted, heads * mean)


@pytest.mark.law("eviction/adaptive", "a layer keeps as many keys as with equal budgets", "integers")
@given(SCORES, st.integers(0, 9), FLOORS)
def test_the_sum_is_kept_exactly(scores: Array, budget: int, floor: float) -> None:
    heads, length = scores.shape[1:]
    for rule in (adaptive_budgets, safeguarded_budgets):
        budgets = rule(scores, budget, floor=floor)
        assert (budgets.sum(axis=1) == heads * min(budget, length)).all()
        assert ((budgets >= 0) & (budgets <= length)).all()
        assert (top(scores, budgets).sum(axis=2) == budgets).all()


def test_the_ends_of_the_floor() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 3, 8))
    assert (adaptive_budgets(scores, 4, floor=1.0) == 4).all()
    assert (safeguarded_budgets(scores, 4, floor=1.0) == 4).all()
    best = np.sort(scores.reshape(2, -1), axis=1)[:, -12:]
    keep = top(scores, adaptive_budgets(scores, 4, floor=0.0))
    assert np.array_equal(np.sort(scores[keep].reshape(2, 12), axis=1), best)


@given(SCORES, st.integers(2, 9), FLOORS)
def test_what_is_always_kept_fits_into_every_head(scores: Array, budget: int, floor: float) -> None:
    always = min(2, scores.shape[2])
    held = protect(scores, last=always)
    for rule in (adaptive_budgets, safeguarded_budgets):
        assert top(held, rule(held, budget, floor=floor))[..., -always:].all()


def test_batch_mates_are_invisible() -> None:
    scores = np.random.default_rng(1).normal(size=(3, 4, 9))
    whole = adaptive_budgets(scores, 3)
    for b in range(3):
        assert np.array_equal(adaptive_budgets(scores[b : b + 1], 3), whole[b : b + 1])


def test_scattered_heads_keep_more() -> None:
    scores = np.array([[[0.2] * 5, [0.96, 0.01, 0.01, 0.01, 0.01]]])
    budgets = adaptive_budgets(scores, 3, floor=0.0)
    assert budgets.tolist() == [[5, 1]]
    assert listed(top(scores, budgets)) == [[[0, 1, 2, 3, 4], [0]]]


@pytest.mark.parametrize(
    ("floor", "words"),
    [(1.5, r"^floor must be from 0 to 1, got 1\.5$"), (-0.1, r"^floor must be a finite number >= 0, got -0\.1$")],
)
def test_a_bad_argument_is_named(floor: Any, words: str) -> None:
    for rule in (adaptive_budgets, safeguarded_budgets):
        with pytest.raises(ArgumentError, match=words):
            rule(np.zeros((1, 1, 1)), 1, floor=floor)
