"""Zigzag attention: the answer, and causal work that is the same for every rank in every step."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.execution import Question, zigzag_attend
from kvattn.masks import Causal
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.by_hand("execution/zigzag")
@pytest.mark.law("execution/zigzag", "any number of ranks gives the answer", "bound")
@given(questions(square=True), st.integers(1, 5))
def test_any_number_of_ranks_gives_the_answer(question: Question, ranks: int) -> None:
    found = zigzag_attend(question, ranks)
    assert distance(found.answer, question, ranks + 1) <= 1
    assert distance_by_hand(found.answer, question) <= 1


@pytest.mark.law("execution/zigzag", "all ranks have the same pairs in each step", "integers")
@given(st.integers(1, 5), st.integers(1, 3))
def test_all_ranks_have_the_same_work_in_each_step(ranks: int, run: int) -> None:
    """Counted by loops, token by token, with the owner found by walking down and up again."""
    tokens = 2 * ranks * run
    owner = []
    for number in [*range(ranks), *reversed(range(ranks))]:
        owner += [number] * run
    counted = [[0] * ranks for _ in range(ranks)]
    for i in range(tokens):
        for j in range(i + 1):
            counted[owner[i]][(owner[i] - owner[j]) % ranks] += 1
    x = np.zeros((1, 1, tokens, 1))
    found = zigzag_attend(Question(x, x, x, mask=Causal()), ranks)
    assert [list(steps) for steps in found.pairs] == counted
    assert set(found.pairs) == {(run * (run + 1) + run**2, *(2 * run**2,) * (ranks - 1))}
    assert found.critical * ranks == tokens * (tokens + 1) // 2
