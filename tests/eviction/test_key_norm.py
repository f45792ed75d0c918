"""Key norm: small keys stay, by loops."""

import math

from hypothesis import given
import numpy as np
import pytest

from kvattn.errors import ShapeError
from kvattn.eviction import negative_norms, top
from kvattn.execution import Question
from kvattn.positions import Rotary
from tests.eviction.drawn import near, prompt, prompts


@pytest.mark.by_hand("eviction/key_norm")
@given(prompts())
def test_it_equals_by_hand(question: Question) -> None:
    found = negative_norms(question.k)
    for b, head, s in np.ndindex(*found.shape):
        assert near(found[b, head, s], -math.hypot(*question.k[b, head, s].tolist()), question.k.dtype)


@pytest.mark.law("eviction/key_norm", "turned keys are worth what keys are", "bound")
def test_rotation_changes_nothing() -> None:
    k = prompt(0).k[..., :4]
    assert near(negative_norms(Rotary.of(4).rotate(k, np.arange(9))), negative_norms(k))


@pytest.mark.law("eviction/key_norm", "keys scaled alike stay or go alike", "bits")
@given(prompts())
def test_scaled_keys_stay_alike(question: Question) -> None:
    for factor in (0.25, 8.0):
        assert np.array_equal(top(negative_norms(question.k * factor), 3), top(negative_norms(question.k), 3))


def test_batch_mates_and_other_keys_are_invisible() -> None:
    k = prompt(0).k
    assert np.array_equal(negative_norms(k[1:, :, 4:6])[0], negative_norms(k)[1, :, 4:6])


def test_a_bad_argument_is_named() -> None:
    with pytest.raises(ShapeError, match=r"^keys must have shape \[B, Hkv, S, D\], got \(3, 2\)$"):
        negative_norms(np.zeros((3, 2)))
