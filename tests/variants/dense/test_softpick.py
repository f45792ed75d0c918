"""Softpick against the layer by hand, and where its numbers could go astray."""

from decimal import Decimal, localcontext
import math
from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Weights, row_sum, shown_scores, without_lse
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.testing.balls import Ball, total
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, Shares, by_hand, gap, small
from kvattn.typing import Array, Place, Visible
from kvattn.variants.dense.softpick import Softpick
from kvattn.variants.dense.weighed import Weighed

W, X = small()


def shares_of(epsilon: float) -> Shares:
    def row(scores: list[Ball]) -> list[Ball]:
        top = max(scores, key=lambda score: score.value)
        moved = [(score - top).exp() - (-top).exp() for score in scores]
        whole = total([part if part.value > 0 else -part for part in moved]) + epsilon
        return [part / whole if part.value > 0 else Ball(0.0, 0.0, part.unit) for part in moved]

    def shares(asked: Asked) -> tuple[list[list[Ball]], None]:
        return [row(scores) for scores in asked.scores], None

    return shares


@pytest.mark.by_hand("variants/dense/softpick")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("epsilon", [1e-8, 0.25])
def test_definition_and_steps_equal_by_hand(epsilon: float, dtype: Any) -> None:
    w, x = small(dtype=dtype)
    layer, wanted = Weighed(w, Softpick(epsilon), page=2), by_hand(w, x, shares_of(epsilon))
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


class Wrong:
    """A softpick with one thing wrong."""

    definition = None

    def __init__(self, name: str) -> None:
        self.name = name

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        shown = shown_scores(scores, seen)
        powers = np.exp(shown) - 1.0
        sizes = np.abs(powers) if self.name == "hidden keys in the sum" else np.where(seen, np.abs(powers), 0.0)
        if self.name == "no absolute value":
            sizes = np.where(seen, powers, 0.0)
        if self.name == "only what is picked":
            sizes = np.where(seen, np.maximum(powers, 0.0), 0.0)
        top = np.where(powers > 0, powers, 0.0) if self.name != "not rectified" else np.where(seen, powers, 0.0)
        return without_lse(top / (row_sum(sizes) + 1e-8))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        return Tally()


@pytest.mark.parametrize(
    ("name", "rejected"),
    [
        ("nothing", False),
        ("hidden keys in the sum", True),
        ("no absolute value", True),
        ("only what is picked", True),
        ("not rectified", True),
    ],
)
def test_wrong_softpicks_are_rejected(name: str, rejected: bool) -> None:
    found = stepped(Weighed(W, Wrong(name)), X, ())[0]  # type: ignore[arg-type]
    # the plain form adds 1e-8 to the unshifted sum: that far it may be off
    apart = gap(found, by_hand(W, X, shares_of(1e-8)))
    assert apart > 1e9 if rejected else apart < 1e9


def exact(scores: list[float]) -> list[float]:
    with localcontext() as context:
        context.prec = 800  # e^s - 1 for s = 1e-300 takes 300 digits before the first that counts
        powers = [Decimal(score).exp() - 1 for score in scores]
        whole = sum(abs(power) for power in powers)
        return [float(max(power, Decimal(0)) / whole) if whole else 0.0 for power in powers]


@pytest.mark.parametrize(
    "scores",
    [
        [1e-12, -2e-12, 3e-12],
        [1e-300, 5e-300, -1e-300],
        [900.0, 899.0, -900.0],
        [-900.0, -1.0, -2.0],
        [0.0, 0.0, 0.0],
        [0.0, 1.0, -1.0],
        [40.0, 1e-9, -40.0],
    ],
)
def test_it_keeps_its_digits_near_0_and_far_from_it(scores: list[float]) -> None:
    row = np.zeros((1, 1, 256))
    row[..., :3] = scores
    with np.errstate(over="raise", invalid="raise"):
        found = Softpick(0.0).weigh(row, np.arange(256) < 3, NOWHERE).weights[0, 0]
    assert np.allclose(found[:3], exact(scores), rtol=1e-14, atol=1e-310)
    assert not found[3:].any()


def test_weights_sum_to_less_than_1_where_a_key_scores_below_0() -> None:
    row = np.zeros((1, 1, 256))
    row[..., :2] = 1.0, -1.0
    found = Softpick(0.0).weigh(row, np.arange(256) < 2, NOWHERE).weights.sum()
    assert found == pytest.approx((math.e - 1) / ((math.e - 1) + (1 - 1 / math.e)))


@pytest.mark.parametrize("epsilon", [-1e-8, math.nan, True])
def test_a_bad_epsilon_is_named(epsilon: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^epsilon must be a finite number >= 0, got "):
        Softpick(epsilon)
