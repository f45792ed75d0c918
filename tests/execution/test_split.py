"""Split keys: any parts, empty ones too, merge to the answer, and a sink is counted once."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.core.merge import base2_from_natural, merge, merge_cost, natural_from_base2
from kvattn.counting import counting
from kvattn.errors import ArgumentError
from kvattn.execution import Question, attend_parts, split_attend
from kvattn.masks import Causal
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.by_hand("execution/split")
@pytest.mark.law("execution/split", "any number of parts gives the answer", "bound")
@given(questions(), st.integers(1, 12))
def test_any_number_of_parts_gives_the_answer(question: Question, parts: int) -> None:
    found = split_attend(question, parts)
    assert distance(found, question, parts) <= 1
    assert distance_by_hand(found, question) <= 1


@pytest.mark.law("execution/split", "parts may be cut anywhere and merged in any order", "bound")
@given(questions(), st.data())
def test_parts_may_be_cut_anywhere_and_merged_in_any_order(question: Question, data: st.DataObject) -> None:
    edges = sorted(data.draw(st.lists(st.integers(0, question.k.shape[2]), max_size=4)))
    parts = data.draw(st.permutations([*attend_parts(question, edges), question.of_sinks()]))
    assert distance(merge(*parts), question, len(parts)) <= 1


@pytest.mark.parametrize("edges", [[0, 0], [2, 4], [3, 3], [4, 4]])
def test_a_sink_is_counted_once_wherever_the_empty_parts_are(edges: list[int]) -> None:
    """By hand, for scores that are all 0: 4 keys, or none, and e^s."""
    x = np.zeros((1, 1, 4, 1))
    sees = Question(x[:, :, :1], x, x + 1, sinks=np.array([1.5]))
    blind = Question(x[:, :, :1], x, x + 1, sinks=np.array([1.5]), mask=Causal(), q_positions=[-1])
    for question, keys in ((sees, 4), (blind, 0)):
        out, lse = merge(*attend_parts(question, edges), question.of_sinks())
        assert lse.item() == pytest.approx(math.log(keys + math.exp(1.5)), rel=1e-14)
        assert out.item() == pytest.approx(keys / (keys + math.exp(1.5)), rel=1e-14)


@given(questions())
def test_parts_to_base_2_convert_there_and_back(question: Question) -> None:
    parts = [
        part._replace(lse=natural_from_base2(base2_from_natural(part.lse))) for part in attend_parts(question, [0, 0])
    ]
    assert distance(merge(*parts, question.of_sinks()), question, 4) <= 1


def test_a_split_costs_a_merge_more() -> None:
    """5 keys in parts of 1, 2 and 2 for 2 heads · 3 queries, counted by hand."""
    question = Question(np.ones((1, 2, 3, 4)), np.ones((1, 1, 5, 4)), np.ones((1, 1, 5, 2)))
    rows, pairs = 2 * 3, 2 * 3 * 5
    with counting() as whole:
        question.attend()
    with counting() as cut:
        split_attend(question, 3)
    assert (cut.matmul, cut.pairs_visible, cut.kv_read) == (whole.matmul, whole.pairs_visible, whole.kv_read)
    assert whole.transcendental == pairs + rows + rows  # weights, the fade of one span, the log
    assert cut.transcendental == pairs + 3 * (rows + rows) + merge_cost(rows, parts=3 + 1, width=2).transcendental


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda q: split_attend(q, 0), "^parts must be an integer >= 1, got 0$"),
        (lambda q: attend_parts(q, [2, 1]), r"^edges must not fall and must lie in 0 \.\. 4, got \[2, 1\]$"),
        (lambda q: attend_parts(q, [5]), r"^edges must not fall and must lie in 0 \.\. 4, got \[5\]$"),
        (lambda q: attend_parts(q, [-1]), r"^edges\[0\] must be an integer >= 0, got -1$"),
    ],
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    x = np.ones((1, 1, 4, 1))
    with pytest.raises(ArgumentError, match=words):
        call(Question(x, x, x))
