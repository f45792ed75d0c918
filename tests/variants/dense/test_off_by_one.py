"""The off-by-one softmax is a sink of logit 0, and a key and a value of zeros; a 1 in the denominator by hand."""

from typing import Any

import numpy as np
import pytest

from kvattn.core.definition import definition
from kvattn.testing.balls import Ball, total
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import Asked, by_hand, gap, small
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.off_by_one import off_by_one

W, X = small()


def shares(asked: Asked, more: float = 1.0) -> tuple[list[list[Ball]], list[Ball]]:
    powers = [[score.exp() for score in scores] for scores in asked.scores]
    wholes = [total(row) + more for row in powers]
    return [[p / whole for p in row] for row, whole in zip(powers, wholes, strict=True)], [w.log() for w in wholes]


@pytest.mark.by_hand("variants/dense/off_by_one")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_definition_and_steps_equal_by_hand(dtype: Any) -> None:
    w, x = small(dtype=dtype)
    layer, wanted = off_by_one(w, page=2), by_hand(w, x, shares)
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


@pytest.mark.parametrize("more", [0.0, 2.0])
def test_another_number_in_the_denominator_is_rejected(more: float) -> None:
    assert gap(stepped(off_by_one(W), X, ())[0], by_hand(W, X, lambda asked: shares(asked, more))) > 1e9


def test_it_is_grouped_attention_with_sinks_of_zero() -> None:
    layer = off_by_one(W, scale=0.3, softcap=2.0)
    assert isinstance(layer, Grouped)
    sunk = Grouped(W, scale=0.3, softcap=2.0, sinks=np.zeros(4))
    found, wanted = (stepped(either, X, (2,))[0] for either in (layer, sunk))
    assert found.out.tobytes() == wanted.out.tobytes()
    assert found.lse.tobytes() == wanted.lse.tobytes()


def test_it_is_a_key_and_a_value_of_zeros() -> None:
    draws = np.random.default_rng(0)
    q, k, v = (draws.normal(size=(1, 2, 5, width)) for width in (4, 4, 3))
    at = np.arange(5)[None]
    with_one = definition(q, k, v, q_positions=at, k_positions=at, sinks=np.zeros(2))
    nothing = [np.concatenate([np.zeros((1, 2, 1, part.shape[3])), part], axis=2) for part in (k, v)]
    with_zeros = definition(q, *nothing, q_positions=at, k_positions=np.arange(6)[None])
    assert np.allclose(with_one.out, with_zeros.out, rtol=1e-14, atol=1e-15)
    assert np.allclose(with_one.lse, with_zeros.lse, rtol=1e-14, atol=1e-15)


def test_sinks_are_taken() -> None:
    with pytest.raises(TypeError, match="multiple values for keyword argument 'sinks'"):
        off_by_one(W, sinks=np.ones(4))
