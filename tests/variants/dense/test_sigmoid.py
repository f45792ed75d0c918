"""Sigmoid attention against the layer by hand; weights are nobody's business but the key's."""

from dataclasses import replace
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Sink, Window
from kvattn.testing.balls import Ball
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, by_hand, gap, sigmoid, small
from kvattn.variants.dense.sigmoid import Sigmoid
from kvattn.variants.dense.weighed import Weighed

W, X = small()
BIAS = -math.log(6)
LAYER = Weighed(W, Sigmoid(BIAS), page=2)


def shares(asked: Asked, bias: float = BIAS) -> tuple[list[list[Ball]], None]:
    return [[sigmoid(score + bias) for score in row] for row in asked.scores], None


@pytest.mark.by_hand("variants/dense/sigmoid")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_definition_equals_by_hand(dtype: Any) -> None:
    w, x = small(dtype=dtype)
    found = replace(LAYER, projections=w, softcap=0.75).definition(x, np.arange(6))
    assert found.out.dtype == found.lse.dtype == dtype
    assert gap(found, by_hand(w, x, shares, softcap=0.75)) <= 1


@pytest.mark.parametrize("cuts", [(), (1, 2, 3, 4, 5), (2, 2, 5)])
def test_steps_equal_by_hand(cuts: tuple[int, ...]) -> None:
    assert gap(stepped(LAYER, X, cuts)[0], by_hand(W, X, shares)) <= 1
    windowed = replace(LAYER, mask=Window(2))
    assert gap(stepped(windowed, X, cuts)[0], by_hand(W, X, shares, sees=lambda i, j: 0 <= i - j < 2)) <= 1


MUTANTS = {
    "no bias": Sigmoid(),
    "the other sign": Sigmoid(-BIAS),
    "n of another length": Sigmoid.of(5),
    "a base of 2": Sigmoid(-math.log2(6)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_biases_are_rejected(name: str) -> None:
    assert gap(stepped(replace(LAYER, weighing=MUTANTS[name]), X, ())[0], by_hand(W, X, shares)) > 2


def test_the_bias_of_n_keys_makes_their_weights_sum_to_about_1() -> None:
    scores = np.zeros((1, 1, 256))
    total = Sigmoid.of(100).weigh(scores, np.arange(256) < 100, NOWHERE).weights.sum()
    assert total == pytest.approx(100 / 101)


@pytest.mark.parametrize("score", [-1e4, -750.0, 750.0, 1e4, -np.inf, np.inf])
def test_no_score_overflows(score: float) -> None:
    with np.errstate(over="raise", invalid="raise"):
        found = Sigmoid().weigh(np.full((1, 1, 256), score), np.ones((1, 1, 256), np.bool_), NOWHERE)
    assert (found.weights == (score > 0)).all()


@pytest.mark.law("variants/dense/sigmoid", "parts over different keys merge by a plain sum", "bound")
@pytest.mark.parametrize("middle", [0, 1, 3, 6])
def test_parts_merge_by_a_plain_sum(middle: int) -> None:
    whole = replace(LAYER, mask=Causal()).definition(X, np.arange(6)).out
    front = replace(LAYER, mask=Causal() & Sink(middle)).definition(X, np.arange(6)).out
    back = replace(LAYER, mask=Causal() & ~Sink(middle)).definition(X, np.arange(6)).out
    assert np.allclose(front + back, whole, rtol=1e-13, atol=1e-13)


def test_another_key_changes_no_weight() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 1, 256))
    few, many = (Sigmoid().weigh(scores, np.arange(256) < n, NOWHERE).weights for n in (3, 200))
    assert few[..., :3].tobytes() == many[..., :3].tobytes()
    assert not few[..., 3:].any()


@pytest.mark.parametrize("bias", [math.nan, math.inf, True, "0"])
def test_a_bad_bias_is_named(bias: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^bias must be a finite number, got "):
        Sigmoid(bias)
    with pytest.raises(ArgumentError, match=r"^keys must be a finite number above 0, got 0$"):
        Sigmoid.of(0)
