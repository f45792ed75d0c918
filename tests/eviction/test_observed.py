"""Probabilities of keys: one-hot values read the same from attention, and loops from the softmax."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.eviction import group_mean, group_sum, probabilities, query_sum
from kvattn.execution import Question
from kvattn.masks import Causal
from kvattn.testing.balls import agree
from tests.eviction.drawn import alone, prompt, prompts
from tests.execution.questions import by_hand, questions


def one_hot(question: Question) -> Question:
    """Value j says j: attention then mixes the probabilities themselves."""
    batch, kv_heads, held = question.k.shape[:3]
    eye = np.broadcast_to(np.eye(held), (batch, kv_heads, held, held))
    return replace(question, v=np.ascontiguousarray(eye))


@pytest.mark.by_hand("eviction/observed")
@given(questions())
def test_it_equals_the_softmax_by_hand(question: Question) -> None:
    found = probabilities(question)
    assert found.shape == (*question.q.shape[:3], question.k.shape[2])
    assert found.dtype == question.q.dtype
    if question.k.shape[2]:
        assert agree(found, by_hand(one_hot(question))[0]) <= 1


@pytest.mark.law("eviction/observed", "a row does not feel which queries came with it", "bits")
@given(questions(), st.integers(0, 4))
def test_rows_do_not_feel_their_neighbours(question: Question, row: int) -> None:
    row = min(row, question.q.shape[2] - 1)
    single = probabilities(question.part(slice(row, row + 1)))
    assert np.array_equal(single, probabilities(question)[:, :, row : row + 1])


@pytest.mark.law("eviction/observed", "batch mates are invisible", "bits")
@given(prompts())
def test_batch_mates_are_invisible(question: Question) -> None:
    whole = probabilities(question)
    for b in range(question.q.shape[0]):
        assert np.array_equal(probabilities(alone(question, b))[0], whole[b])


@pytest.mark.parametrize("length", [255, 256, 257, 600])
def test_blocks_are_put_where_their_keys_are(length: int) -> None:
    question = prompt(3, batch=1, kv_heads=1, group=2, length=length).part(slice(length - 3, length))
    found = probabilities(question)
    assert np.allclose(found, one_hot(question).attend().out, rtol=0, atol=1e-15)
    assert np.allclose(found.sum(axis=3), 1, rtol=0, atol=1e-13)


def test_what_is_hidden_has_no_share_not_even_nan() -> None:
    question = prompt(1)
    k = question.k.copy()
    k[:, :, 5] = np.nan
    spoilt = replace(question, k=k)
    assert np.array_equal(probabilities(spoilt)[:, :, :5], probabilities(question)[:, :, :5])
    assert (probabilities(question)[~question.visible()] == 0).all()


def test_a_sink_takes_its_share() -> None:
    x = np.zeros((1, 1, 1, 1))
    assert probabilities(Question(x, x, x, sinks=np.zeros(1))).item() == 0.5
    assert probabilities(Question(x, x, x, sinks=np.array([-np.inf]))).item() == 1.0


@pytest.mark.law("eviction/observed", "queries doubled and keys halved change nothing", "bits")
def test_scaling_queries_against_keys_changes_nothing() -> None:
    question = prompt(2)
    assert np.array_equal(probabilities(replace(question, q=question.q * 2, k=question.k / 2)), probabilities(question))


def test_nothing_in_nothing_out() -> None:
    x = np.zeros((1, 2, 3, 1))
    assert probabilities(Question(x, x[:, :, :0], x[:, :, :0])).shape == (1, 2, 3, 0)
    assert probabilities(Question(x[:, :, :0], x, x, mask=Causal())).shape == (1, 2, 0, 3)
    ahead = Question(x, x, x, mask=Causal(), k_positions=np.arange(9, 12), q_positions=np.arange(3))
    assert not probabilities(ahead).any()


def test_sums_are_taken_over_the_right_axes() -> None:
    p = np.random.default_rng(0).normal(size=(2, 6, 4, 3))
    for b in range(2):
        for head in range(2):
            for s in range(3):
                three = [sum(p[b, h, t, s] for t in range(4)) for h in range(3 * head, 3 * head + 3)]
                assert abs(group_sum(query_sum(p), 2)[b, head, s] - sum(three)) < 1e-14
                assert abs(group_mean(query_sum(p), 2)[b, head, s] - sum(three) / 3) < 1e-14


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: group_sum(np.zeros((1, 3)), 2),
            ShapeError,
            r"^numbers must have a multiple of 2 heads on axis 1, got ",
        ),
        (lambda: group_sum(np.zeros((1, 3)), 0), ArgumentError, r"^kv_heads must be an integer >= 1, got 0$"),
    ],
    ids=range(2),
)
def test_a_bad_argument_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
