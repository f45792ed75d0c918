"""KeyDiff: keys away from the mean direction stay, by loops."""

import math

from hypothesis import given
import numpy as np
import pytest

from kvattn.errors import ShapeError
from kvattn.eviction import key_difference
from kvattn.execution import Question
from kvattn.positions import Rotary
from tests.eviction.drawn import alone, near, prompt, prompts


def by_hand(keys: list[list[float]]) -> list[float]:
    norms = [math.hypot(*key) for key in keys]
    width = len(keys[0])
    anchor = [sum(key[i] / norm for key, norm in zip(keys, norms, strict=True)) / len(keys) for i in range(width)]
    length = math.hypot(*anchor)
    return [
        -sum(a * b for a, b in zip(key, anchor, strict=True)) / norm / length
        for key, norm in zip(keys, norms, strict=True)
    ]


@pytest.mark.by_hand("eviction/key_diff")
@given(prompts())
def test_it_equals_by_hand(question: Question) -> None:
    found = key_difference(question.k)
    for b, head in np.ndindex(*found.shape[:2]):
        assert near(found[b, head], by_hand(question.k[b, head].tolist()), question.k.dtype)


@pytest.mark.law("eviction/key_diff", "each key may be scaled on its own", "bits")
@given(prompts())
def test_scaling_a_key_changes_nothing(question: Question) -> None:
    factors = 2.0 ** np.arange(-2, question.k.shape[2] - 2)
    scaled = question.k * factors.astype(question.k.dtype)[:, None]
    assert np.array_equal(key_difference(scaled), key_difference(question.k))


@pytest.mark.law("eviction/key_diff", "all keys turned by one angle are worth the same", "bound")
def test_turning_all_keys_alike_changes_nothing() -> None:
    k = prompt(0).k[..., :4]
    assert near(key_difference(Rotary.of(4).rotate(k, np.full(9, 7))), key_difference(k))
    assert not near(key_difference(Rotary.of(4).rotate(k, np.arange(9))), key_difference(k))


def test_batch_mates_are_invisible() -> None:
    question = prompt(0)
    assert np.array_equal(key_difference(alone(question, 1).k)[0], key_difference(question.k)[1])


def test_a_key_of_no_length_is_like_none() -> None:
    keys = np.array([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])[None, None]
    assert key_difference(keys).tolist() == [[[-1.0, 0.0, -1.0]]]
    assert not key_difference(keys * 0).any()


def test_a_bad_argument_is_named() -> None:
    with pytest.raises(ShapeError, match=r"^keys must have shape \[B, Hkv, S, D\], got \(3, 2\)$"):
        key_difference(np.zeros((3, 2)))
