"""Ring attention: the answer however tokens are dealt out, its bytes, and its unbalanced causal work."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.execution import Layout, Question, contiguous, folded, ring_attend, ring_bytes, stripes
from kvattn.masks import Causal
from tests.execution.questions import distance, distance_by_hand, questions

LAYOUTS = st.sampled_from([contiguous, stripes, folded])


def pairs_by_loops(question: Question, asked: list[list[int]], held: list[list[int]]) -> list[list[int]]:
    """For each rank and step, count the pairs that a causal mask shows, head by head."""
    ranks, found = len(asked), []
    for rank in range(ranks):
        steps = []
        for step in range(ranks):
            count = 0
            for b in range(len(question.q)):
                for i in asked[rank]:
                    for j in held[(rank - step) % ranks]:
                        count += int(question.q_positions[b, i] >= question.k_positions[b, j])
            steps.append(count * question.q.shape[1])
        found.append(steps)
    return found


@pytest.mark.by_hand("execution/ring")
@pytest.mark.law("execution/ring", "any ranks and any layout give the answer", "bound")
@given(questions(), st.integers(1, 5), LAYOUTS)
def test_any_ranks_and_any_layout_give_the_answer(question: Question, ranks: int, layout: Layout) -> None:
    found = ring_attend(question, ranks, layout)
    assert distance(found.answer, question, ranks + 1) <= 1
    assert distance_by_hand(found.answer, question) <= 1


@given(questions(), st.integers(1, 4), LAYOUTS)
def test_visible_pairs_are_those_of_the_question(question: Question, ranks: int, layout: Layout) -> None:
    found = ring_attend(question, ranks, layout)
    assert sum(map(sum, found.pairs)) == question.visible().sum()


@pytest.mark.law("execution/ring", "closed form equals what was sent", "integers")
@given(questions(), st.integers(1, 5), LAYOUTS)
def test_bytes_sent_equal_a_count_by_loops(question: Question, ranks: int, layout: Layout) -> None:
    shares = layout(question.k.shape[2], ranks)
    sent = [0] * ranks
    number = 4 if question.q.dtype == np.float32 else 8
    holds = list(range(ranks))
    for _ in range(ranks - 1):
        for rank in range(ranks):
            for _ in shares[holds[rank]]:
                sent[rank] += number * question.q.shape[0] * question.k.shape[1] * (5 + 3)
        holds = [holds[rank - 1] for rank in range(ranks)]
    assert ring_attend(question, ranks, layout).sent == tuple(sent) == ring_bytes(question, shares)


def test_an_even_cut_is_unbalanced() -> None:
    """12 tokens on 3 ranks of 4: a triangle of 10 and squares of 16; the last rank never rests."""
    x = np.zeros((1, 1, 12, 1))
    question = Question(x, x, x, mask=Causal())
    found = ring_attend(question, 3)
    rows = [list(range(4)), list(range(4, 8)), list(range(8, 12))]
    assert [list(steps) for steps in found.pairs] == pairs_by_loops(question, rows, rows)
    assert [sum(steps) for steps in found.pairs] == [10, 26, 42]
    assert found.critical == 10 + 16 + 16


@given(st.integers(0, 13), st.integers(1, 5), LAYOUTS)
def test_a_layout_gives_each_token_to_one_rank(tokens: int, ranks: int, layout: Layout) -> None:
    shares = layout(tokens, ranks)
    assert len(shares) == ranks
    assert sorted(np.concatenate(shares).tolist()) == list(range(tokens))
    assert max(map(len, shares)) - min(map(len, shares)) <= 2


def test_a_bad_number_of_ranks_is_named() -> None:
    x = np.ones((1, 1, 2, 1))
    with pytest.raises(ArgumentError, match=r"^ranks must be an integer >= 1, got 0$"):
        ring_attend(Question(x, x, x), 0)
