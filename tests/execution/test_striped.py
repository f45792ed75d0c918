"""Striped attention: the answer, and causal work that is even to within a diagonal."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.execution import Question, ring_attend, striped_attend
from kvattn.masks import Causal
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.by_hand("execution/striped")
@pytest.mark.law("execution/striped", "any number of ranks gives the answer", "bound")
@given(questions(square=True), st.integers(1, 5))
def test_any_number_of_ranks_gives_the_answer(question: Question, ranks: int) -> None:
    found = striped_attend(question, ranks)
    assert distance(found.answer, question, ranks + 1) <= 1
    assert distance_by_hand(found.answer, question) <= 1


@pytest.mark.law("execution/striped", "half a square in every step", "integers")
@given(st.integers(1, 5), st.integers(1, 4))
def test_every_step_is_half_a_square(ranks: int, each: int) -> None:
    """Counted by loops, token by token; the closed form of the page beside it."""
    tokens = ranks * each
    x = np.zeros((1, 2, tokens, 1))
    found = striped_attend(Question(x, x, x, mask=Causal()), ranks)
    counted = [[0] * ranks for _ in range(ranks)]
    for i in range(tokens):
        for j in range(i + 1):
            counted[i % ranks][(i - j) % ranks] += 2  # two heads
    assert [list(steps) for steps in found.pairs] == counted
    for rank in range(ranks):
        for step in range(ranks):
            diagonal = each if rank - step >= 0 else -each
            assert found.pairs[rank][step] == each**2 + diagonal
    assert found.critical == 2 * ranks * each * (each + 1) // 2


def test_it_is_nearly_twice_as_fast_as_the_even_cut() -> None:
    x = np.zeros((1, 1, 64, 1))
    question = Question(x, x, x, mask=Causal())
    even, striped = ring_attend(question, 8).critical, striped_attend(question, 8).critical
    assert (even, striped) == (36 + 7 * 64, 8 * 36)
    assert 1.65 < even / striped < 2
