"""Selection: the best keys of each head, the lowest slot where scores are equal, and exactly so many."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.eviction import kept_slots, protect, shared, top
from kvattn.eviction.selection import budgets_of
from kvattn.typing import Array
from tests.eviction.drawn import best, listed

SCORES = arrays(
    np.float64,
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 9)),
    elements=st.sampled_from([-1.0, 0.0, -0.0, 0.5, 0.25, 3.0, -np.inf]),
)


@pytest.mark.by_hand("eviction/selection")
@given(SCORES, st.integers(0, 11))
def test_it_keeps_the_best_and_of_equals_the_lowest(scores: Array, budget: int) -> None:
    wanted = [[best(head, budget) for head in sequence] for sequence in scores.tolist()]
    assert listed(top(scores, budget)) == wanted


@pytest.mark.law("eviction/selection", "the budget is kept exactly; S or more keeps everything", "integers")
@given(SCORES, st.integers(0, 11), st.integers(0, 11))
def test_budgets_are_kept_exactly_in_each_head(scores: Array, one: int, other: int) -> None:
    budgets = np.resize([one, other], scores.shape[:2])
    counts = top(scores, budgets).sum(axis=2)
    assert np.array_equal(counts, np.minimum(budgets, scores.shape[2]))


@pytest.mark.law("eviction/selection", "a larger budget keeps all that a smaller one keeps", "integers")
@given(SCORES, st.integers(0, 8))
def test_kept_sets_are_nested(scores: Array, budget: int) -> None:
    assert (top(scores, budget) <= top(scores, budget + 1)).all()


@given(SCORES)
def test_deciding_twice_decides_the_same(scores: Array) -> None:
    before = scores.copy()
    assert np.array_equal(top(scores, 3), top(scores, 3))
    assert np.array_equal(scores, before)


def test_protected_keys_stay_whatever_their_scores() -> None:
    scores = -np.arange(8.0).reshape(1, 1, 8)
    assert listed(top(protect(scores, first=1, last=2), 4)) == [[[0, 1, 6, 7]]]
    assert np.isposinf(protect(scores, first=9)).all()
    assert np.array_equal(protect(scores), scores)
    assert protect(np.zeros((1, 1, 2), np.float32), last=1).dtype == np.float32


def test_shared_scores_give_every_head_the_same_set() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 3, 7))
    keep = top(shared(scores), 4)
    assert (keep == keep[:, :1]).all()
    assert np.allclose(shared(scores)[:, 1], scores.mean(axis=1), rtol=0, atol=1e-15)


def test_slots_are_read_in_increasing_order() -> None:
    keep = top(np.array([[[1.0, 5.0, 2.0, 9.0], [9.0, 1.0, 1.0, 5.0]]]), 2)
    assert kept_slots(keep).tolist() == [[[1, 3], [0, 3]]]
    assert kept_slots(np.zeros((1, 2, 0), bool)).shape == (1, 2, 0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: top(np.zeros((1, 2)), 1), ShapeError, r"^scores must have shape \[B, Hkv, S\], got \(1, 2\)$"),
        (lambda: top(np.full((1, 1, 1), np.nan), 1), ArgumentError, r"^scores must be numbers, got NaN$"),
        (lambda: top(np.zeros((1, 1, 1)), -1), ArgumentError, r"^budget must be an integer >= 0, got -1$"),
        (lambda: top(np.zeros((1, 1, 1)), True), ArgumentError, r"^budget must be an integer >= 0, got True$"),
        (
            lambda: top(protect(np.zeros((1, 2, 5)), last=3), 2),
            ArgumentError,
            r"^budget must be at least 3, the keys of head 0 that are always kept, got 2$",
        ),
        (
            lambda: budgets_of([1, 2], (1, 2)),
            ShapeError,
            r"^budget must be one integer or have shape \[B, Hkv\] = \(1, 2\), got \(2,\)$",
        ),
        (
            lambda: budgets_of([[1.0, 2.0]], (1, 2)),
            ArgumentError,
            r"^budget must be integers >= 0, got an array of shape \(1, 2\) of float64$",
        ),
        (lambda: protect(np.zeros((1, 1, 1)), first=-1), ArgumentError, r"^first must be an integer >= 0, got -1$"),
        (
            lambda: kept_slots(np.array([[[True], [False]]])),
            ShapeError,
            r"^keep must have as many keys in every head, got \[0, 1\]$",
        ),
    ],
    ids=range(9),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
