"""PyramidKV: an arithmetic sequence over layers whose sum is kept exactly."""

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from kvattn.errors import ArgumentError
from kvattn.eviction import pyramid_budgets


def exact(layers: int, budget: int, length: int, window: int, beta: int) -> list[Fraction]:
    """The sequence in fractions, with the words of the paper: top layer past / beta, bottom 2 · past - top."""
    past = Fraction(budget - window)
    upper = past / beta
    lower = 2 * past - upper
    if lower > length - window:
        lower = Fraction(length - window)
        upper = 2 * past - lower
    return [window + lower + (upper - lower) * Fraction(layer, layers - 1) for layer in range(layers)]


CASES = st.tuples(st.integers(2, 9), st.integers(0, 5), st.integers(1, 40), st.integers(1, 80), st.integers(1, 30))


@pytest.mark.by_hand("eviction/pyramid")
@given(CASES)
def test_it_is_the_sequence_to_within_a_key(case: tuple[int, ...]) -> None:
    layers, window, past, more, beta = case
    budget, length = window + past, window + past + more
    found = pyramid_budgets(layers, budget, length=length, window=window, beta=beta)
    wanted = exact(layers, budget, length, window, beta)
    assert all(abs(n - share) <= 1 for n, share in zip(found, wanted, strict=True))


@pytest.mark.law("eviction/pyramid", "the sum is layers times budget, falling from below", "integers")
@given(CASES)
def test_the_sum_is_kept_exactly(case: tuple[int, ...]) -> None:
    layers, window, past, more, beta = case
    budget, length = window + past, window + past + more
    found = pyramid_budgets(layers, budget, length=length, window=window, beta=beta)
    assert sum(found) == layers * budget
    assert list(found) == sorted(found, reverse=True)
    assert all(window <= n <= length for n in found)


def test_beta_one_is_flat_and_a_short_prompt_is_kept() -> None:
    assert pyramid_budgets(5, 20, length=100, window=4, beta=1) == (20,) * 5
    assert pyramid_budgets(5, 20, length=20) == (20,) * 5
    assert pyramid_budgets(5, 20, length=7) == (7,) * 5
    assert pyramid_budgets(1, 20, length=100) == (20,)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pyramid_budgets(0, 9, length=10), r"^layers must be an integer >= 1, got 0$"),
        (lambda: pyramid_budgets(2, 3, length=10, window=4), r"^budget must be an integer >= 4, got 3$"),
        (lambda: pyramid_budgets(2, 9, length=10, beta=0.5), r"^beta must be a finite number >= 1, got 0\.5$"),
        (lambda: pyramid_budgets(2, 9, length=-1), r"^length must be an integer >= 0, got -1$"),
    ],
    ids=range(4),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()
