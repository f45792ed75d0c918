"""Context-parallel decoding: the answer, and bytes that do not grow with the keys."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.execution import Question, context_parallel_attend, context_parallel_bytes
from tests.execution.questions import distance, distance_by_hand, questions


def divisors(heads: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, heads + 1) if heads % n == 0])


@pytest.mark.by_hand("execution/context_parallel")
@pytest.mark.law("execution/context_parallel", "any number of ranks gives the answer", "bound")
@given(questions(), st.data())
def test_any_number_of_ranks_gives_the_answer(question: Question, data: st.DataObject) -> None:
    ranks = data.draw(divisors(question.q.shape[1]))
    found = context_parallel_attend(question, ranks)
    assert distance(found.answer, question, ranks) <= 1
    assert distance_by_hand(found.answer, question) <= 1


@pytest.mark.law("execution/context_parallel", "closed form equals what was sent", "integers")
@given(questions(), st.data())
def test_bytes_and_pairs_equal_a_count_by_loops(question: Question, data: st.DataObject) -> None:
    ranks = data.draw(divisors(question.q.shape[1]))
    found = context_parallel_attend(question, ranks)
    batch, heads, length, _ = question.q.shape
    sent, pairs = [0] * ranks, [0] * ranks
    number = 4 if question.q.dtype == np.float32 else 8
    for head in range(heads):
        owner = head * ranks // heads
        for rank in range(ranks):
            sent[rank] += number * batch * length * (3 + 1) * (rank != owner)
    seen = question.visible()
    for key in range(question.k.shape[2]):
        pairs[key % ranks] += int(seen[..., key].sum())
    assert list(found.sent) == sent == [context_parallel_bytes(question, ranks)] * ranks
    assert found.pairs == tuple((n,) for n in pairs)


def test_what_is_sent_does_not_grow_with_the_keys() -> None:
    short, long = (
        Question(np.ones((1, 4, 1, 2)), np.ones((1, 2, keys, 2)), np.ones((1, 2, keys, 2))) for keys in (3, 300)
    )
    assert context_parallel_attend(short, 4).sent == context_parallel_attend(long, 4).sent == (3 * 3 * 8,) * 4


@pytest.mark.parametrize(
    ("ranks", "words"),
    [(0, "^ranks must be an integer >= 1, got 0$"), (3, "^ranks must divide the 4 query heads, got 3$")],
)
def test_a_bad_number_of_ranks_is_named(ranks: int, words: str) -> None:
    x = np.ones((1, 4, 2, 2))
    with pytest.raises(ArgumentError, match=words):
        context_parallel_attend(Question(x, x, x), ranks)
