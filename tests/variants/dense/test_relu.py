"""ReLU and squared-ReLU attention against the layer by hand."""

from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Weighing
from kvattn.errors import ArgumentError
from kvattn.testing.balls import Ball
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, Shares, by_hand, gap, small
from kvattn.variants.dense.relu import Relu, SquaredRelu
from kvattn.variants.dense.weighed import Weighed

CASES: dict[str, tuple[Weighing, int, float]] = {
    "relu": (Relu(6), 1, 6.0),
    "relu, n = 1": (Relu(), 1, 1.0),
    "squared": (SquaredRelu(6), 2, 6.0),
    "squared, n = 1": (SquaredRelu(), 2, 1.0),
}


def shares_of(power: int, keys: float) -> Shares:
    def one(score: Ball) -> Ball:
        if score.value <= 0:
            return Ball(0.0, 0.0, score.unit)
        return (score if power == 1 else score * score) / keys

    def shares(asked: Asked) -> tuple[list[list[Ball]], None]:
        return [[one(score) for score in row] for row in asked.scores], None

    return shares


@pytest.mark.by_hand("variants/dense/relu")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_definition_and_steps_equal_by_hand(name: str, dtype: Any) -> None:
    weighing, power, keys = CASES[name]
    w, x = small(dtype=dtype)
    layer, wanted = Weighed(w, weighing, page=2), by_hand(w, x, shares_of(power, keys))
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


MUTANTS: dict[str, tuple[str, Weighing]] = {
    "not squared": ("squared, n = 1", Relu()),
    "squared": ("relu, n = 1", SquaredRelu()),
    "no n": ("relu", Relu()),
    "n squared too": ("squared", SquaredRelu(36)),
    "another n": ("squared", SquaredRelu(5)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_functions_are_rejected(name: str) -> None:
    case, mutant = MUTANTS[name]
    w, x = small()
    wanted = by_hand(w, x, shares_of(*CASES[case][1:]))
    assert gap(stepped(Weighed(w, mutant), x, ())[0], wanted) > 2


def test_the_scale_takes_n_inside_the_square() -> None:
    """relu(s / n)² is relu(s)² with the scale divided by n; relu itself lets n through."""
    w, x = small()
    inside = stepped(Weighed(w, SquaredRelu(), scale=0.5 / 8), x, ())[0].out
    assert np.allclose(inside, stepped(Weighed(w, SquaredRelu(64), scale=0.5), x, ())[0].out, rtol=1e-14)


@pytest.mark.parametrize("weighing", [Relu(), SquaredRelu()])
def test_what_scores_below_0_is_not_read(weighing: Any) -> None:
    scores = np.linspace(-3, 3, 256)[None, None]
    weights = weighing.weigh(scores, np.ones((1, 1, 256), np.bool_), NOWHERE).weights
    assert ((weights > 0) == (scores > 0)).all()
    assert np.isnan(weighing.weigh(np.full((1, 1, 256), np.nan), np.arange(256) < 1, NOWHERE).weights[0, 0, 0])


@pytest.mark.parametrize("kind", [Relu, SquaredRelu])
def test_a_bad_n_is_named(kind: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^keys must be a finite number above 0, got 0$"):
        kind(0)
