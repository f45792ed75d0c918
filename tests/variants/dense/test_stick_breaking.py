"""Stick-breaking attention against the layer by hand: order, the own key, what is left over."""

from typing import Any

import numpy as np
import pytest

from kvattn.core.weights import Weights, row_sum, without_lse
from kvattn.errors import DtypeError, ShapeError
from kvattn.masks import Causal, Window
from kvattn.testing.balls import Ball, given, total
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Asked, by_hand, gap, sigmoid, small
from kvattn.typing import Array, Place, Visible
from kvattn.variants.dense.stick_breaking import BEFORE, Remainder, StickBreaking
from kvattn.variants.dense.weighed import Weighed

W, X = small()
LAYER = Weighed(W, StickBreaking(), BEFORE, page=2)


def shares(asked: Asked) -> tuple[list[list[Ball]], None]:
    found = []
    for scores in asked.scores:
        stick = Ball(1.0)
        row: list[Ball] = []
        for score in reversed(scores):
            row.insert(0, stick * sigmoid(score))
            stick = stick * sigmoid(-score)
        found.append(row)
    return found, None


def before(i: int, j: int) -> bool:
    return j < i


@pytest.mark.by_hand("variants/dense/stick_breaking")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_definition_and_steps_equal_by_hand(dtype: Any) -> None:
    w, x = small(dtype=dtype)
    layer, wanted = Weighed(w, StickBreaking(), BEFORE, page=2), by_hand(w, x, shares, sees=before)
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


def test_the_own_key_and_hidden_keys_are_asked_as_the_mask_says() -> None:
    current = Weighed(W, StickBreaking(), Causal())
    assert gap(stepped(current, X, (2,))[0], by_hand(W, X, shares)) <= 1
    windowed = Weighed(W, StickBreaking(), BEFORE & Window(3))
    assert gap(stepped(windowed, X, (2,))[0], by_hand(W, X, shares, sees=lambda i, j: 0 < i - j < 3)) <= 1


def test_what_is_left_over_is_mixed_in_by_head() -> None:
    vectors = np.random.default_rng(3).normal(size=(4, 3))
    balls = given(vectors)

    def left_over(asked: Asked, weights: list[list[Ball]]) -> list[list[Ball]]:
        rest = [Ball(1.0) - total(row) for row in weights]
        return [[rest[h] * balls[h][d] for d in range(3)] for h in range(4)]

    layer = Weighed(W, StickBreaking(), BEFORE, beside=(Remainder(vectors),), page=2)
    wanted = by_hand(W, X, shares, sees=before, further=left_over)
    assert gap(layer.definition(X, np.arange(6)), wanted) <= 1
    assert gap(stepped(layer, X, (1, 4))[0], wanted) <= 1
    assert gap(stepped(LAYER, X, ())[0], wanted) > 1e9


class Wrong:
    """Stick-breaking with one thing wrong."""

    definition = None

    def __init__(self, name: str) -> None:
        self.name = name

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        share = np.where(seen, 1 / (1 + np.exp(-scores)), 0.0)
        left = 1 - share
        if self.name == "from the front":
            stick = np.cumprod(np.concatenate([np.ones_like(left[..., :1]), left[..., :-1]], -1), -1)
        elif self.name == "its own share taken first":
            stick = np.cumprod(left[..., ::-1], -1)[..., ::-1]
        else:
            later = np.concatenate([left[..., 1:], np.ones_like(left[..., :1])], -1)
            stick = np.cumprod(later[..., ::-1], -1)[..., ::-1]
        weights = share * stick
        if self.name == "sums to 1":
            weights = weights / np.where(row_sum(weights) == 0, 1, row_sum(weights))
        return without_lse(weights)

    cost = StickBreaking.cost


@pytest.mark.parametrize(
    ("name", "rejected"),
    [("nothing", False), ("from the front", True), ("its own share taken first", True), ("sums to 1", True)],
)
def test_wrong_sticks_are_rejected(name: str, rejected: bool) -> None:
    found = stepped(Weighed(W, Wrong(name), BEFORE), X, ())[0]  # type: ignore[arg-type]
    apart = gap(found, by_hand(W, X, shares, sees=before))
    assert apart > 1e9 if rejected else apart <= 2


def test_the_own_key_shown_is_another_layer() -> None:
    assert gap(stepped(Weighed(W, StickBreaking(), Causal()), X, ())[0], by_hand(W, X, shares, sees=before)) > 1e9


def test_weights_and_remainder_sum_to_1_for_any_scores() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 5, 256)) * 30
    seen = np.broadcast_to(np.arange(256) < 200, scores.shape)
    with np.errstate(under="ignore"):
        weights = StickBreaking().weigh(scores, seen, NOWHERE).weights
        left = np.where(seen, 1 / (1 + np.exp(scores)), 1.0).prod(-1)
    assert np.allclose(weights.sum(-1) + left, 1.0, rtol=0, atol=1e-13)
    assert (weights >= 0).all()


@pytest.mark.law("variants/dense/stick_breaking", "the part behind fades the one in front by what it leaves", "bound")
@pytest.mark.parametrize("middle", [0, 1, 3, 6])
def test_parts_merge_in_the_order_of_their_keys(middle: int) -> None:
    scores = np.random.default_rng(0).normal(size=(3, 5, 256)) * 3
    front, back = (np.broadcast_to(some, scores.shape) for some in (np.arange(256) < middle, np.arange(256) >= middle))
    with np.errstate(under="ignore"):
        whole, first, last = (
            StickBreaking().weigh(scores, seen, NOWHERE).weights for seen in (front | back, front, back)
        )
        left = np.where(back, 1 / (1 + np.exp(scores)), 1.0).prod(-1, keepdims=True)
    assert np.allclose(first * left + last, whole, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_sure_key_takes_all_and_digits_stay_near_certainty(dtype: Any) -> None:
    scores = np.zeros((1, 1, 256), dtype)
    scores[..., 1] = 80.0
    scores[..., 0] = 60.0
    with np.errstate(over="raise", under="ignore"):
        found = StickBreaking().weigh(scores, np.arange(256) < 2, NOWHERE).weights[0, 0]
    assert found[1] == 1.0
    assert found[0] == pytest.approx(np.exp(-80.0), rel=4e-5)  # 1 - σ(80) is 0 in float64, e^-80 here


def test_bad_vectors_are_named() -> None:
    for vectors, error, words in (
        (np.ones((3, 3)), ShapeError, r"^vectors must have shape \[4, 3\], got \(3, 3\)$"),
        (np.ones(3), ShapeError, r"^vectors must have shape \[Hq, Dv\], got \(3,\)$"),
        (np.ones((4, 3), "f4"), DtypeError, r"^vectors must have the dtype of the projections, float64, got float32$"),
    ):
        with pytest.raises(error, match=words):
            Weighed(W, StickBreaking(), BEFORE, beside=(Remainder(vectors),))
