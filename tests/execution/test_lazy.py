"""Lazy softmax: chunks summed up apart give the answer, in memory that grows as the root of the keys."""

import tracemalloc
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.execution import Question, lazy_attend, numbers_held
from kvattn.masks import Causal
from tests.execution.questions import distance, distance_by_hand, questions


@pytest.mark.by_hand("execution/lazy")
@pytest.mark.law("execution/lazy", "any chunks of queries and keys give the answer", "bound")
@given(questions(), st.integers(1, 4), st.none() | st.integers(1, 5))
def test_any_chunks_give_the_answer(question: Question, queries: int, keys: int | None) -> None:
    found = lazy_attend(question, queries=queries, keys=keys)
    assert distance_by_hand(found, question) <= 1
    assert distance(found, question, parts=2 + question.k.shape[2]) <= 1


def long(keys: int) -> Question:
    random = np.random.default_rng(keys)
    q, k, v = (random.normal(size=(1, h, n, 4)) for h, n in ((2, 8), (1, keys), (1, keys)))
    return Question(q, k, v, mask=Causal())


def peak(question: Question) -> int:
    """Bytes that a call allocates at most, NumPy's arrays among them."""
    lazy_attend(question, queries=8)
    tracemalloc.start()
    lazy_attend(question, queries=8)
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_grows_as_the_root_of_the_keys() -> None:
    """Measured: 16 times the keys take 4 times the memory, not 16; the closed form does so exactly.

    Ten times the closed form leaves room for the temporaries of elementwise steps (five are seen), and 20 kB for
    Python's own objects.
    """
    small, large = long(1024), long(16 * 1024)
    assert numbers_held(large, queries=8) == 4 * numbers_held(small, queries=8)
    assert peak(large) < 5 * peak(small)
    for question in (small, large):
        assert peak(question) <= 10 * 8 * numbers_held(question, queries=8) + 20_000
    assert peak(large) < 8 * 2 * 8 * 16 * 1024 / 3  # a third of the scores alone


def test_numbers_held_are_counted_by_hand() -> None:
    """2 heads · 8 queries · (32 scores + 32 chunks · (4 + 2))."""
    assert numbers_held(long(1024), queries=8) == 2 * 8 * (32 + 32 * 6)
    assert numbers_held(long(1024), queries=100, keys=1024) == 2 * 8 * (1024 + 6)


@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_garbage_behind_the_mask_changes_nothing(garbage: float) -> None:
    clean = long(30)
    k, v = clean.k.copy(), clean.v.copy()
    k[:, :, 25:], v[:, :, 25:] = garbage, garbage
    at = np.arange(17, 25)
    wanted = lazy_attend(Question(clean.q, clean.k, clean.v, mask=Causal(), q_positions=at))
    found = lazy_attend(Question(clean.q, k, v, mask=Causal(), q_positions=at))
    assert np.array_equal(found.lse, wanted.lse)
    assert np.allclose(found.out, wanted.out, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"queries": 0}, "^queries must be an integer >= 1, got 0$"),
        ({"keys": 1.5}, r"^keys must be an integer >= 1, got 1\.5$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        lazy_attend(long(3), **arguments)
