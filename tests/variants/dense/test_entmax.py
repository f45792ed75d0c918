"""Sparsemax and 1.5-entmax against the layer by hand, where supports are tried out one after the other."""

from fractions import Fraction
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.core.weights import Weighing, Weights, shown_scores, without_lse
from kvattn.counting import Tally
from kvattn.testing.balls import Ball, total
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import NOWHERE, Shares, by_hand, gap, small
from kvattn.typing import Array, Place, Visible
from kvattn.variants.dense.entmax import Entmax15, Sparsemax, searched
from kvattn.variants.dense.weighed import Weighed

KINDS: dict[str, Weighing] = {"sparsemax": Sparsemax(), "entmax15": Entmax15()}


def threshold(z: list[Ball], alpha: float) -> Ball:
    """The root of Σ (z - τ)^(1 / (α - 1)) = 1: linear for α = 2, quadratic for α = 1.5."""
    count = len(z)
    if alpha == 2.0:
        return (total(z) - 1.0) / count
    half = total(z) / count
    spread = total([(number - half) * (number - half) for number in z])  # Σ (z - τ)² = spread + k (half - τ)²
    root = (Ball(1.0, 0.0, half.unit) - spread) / count
    return half - root.through(math.sqrt, 0.5 / math.sqrt(root.value))


def row_by_hand(scores: list[Ball], alpha: float) -> list[Ball]:
    top = max(scores, key=lambda score: score.value)
    z = [(score - top) * (alpha - 1.0) for score in scores]
    order = sorted(range(len(z)), key=lambda n: -z[n].value)
    for count in range(1, len(z) + 1):
        chosen = order[:count]
        spread = [z[n].value for n in chosen]
        mean = sum(spread) / count
        if alpha == 1.5 and sum((number - mean) ** 2 for number in spread) >= 1:
            continue
        tau = threshold([z[n] for n in chosen], alpha)
        inside = all(z[n].value > tau.value for n in chosen)
        outside = all(z[n].value <= tau.value for n in order[count:])
        if inside and outside:
            parts = [z[n] - tau if n in chosen else Ball(0.0, 0.0, top.unit) for n in range(len(z))]
            return parts if alpha == 2.0 else [part * part for part in parts]
    raise AssertionError("no support fits")


def shares_of(alpha: float) -> Shares:
    return lambda asked: ([row_by_hand(scores, alpha) for scores in asked.scores], None)


@pytest.mark.by_hand("variants/dense/entmax")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", KINDS)
def test_definition_and_steps_equal_by_hand(name: str, dtype: Any) -> None:
    w, x = small(dtype=dtype)
    layer = Weighed(w, KINDS[name], page=2)
    wanted = by_hand(w, x, shares_of(2.0 if name == "sparsemax" else 1.5))
    assert gap(layer.definition(x, np.arange(6)), wanted) <= 1
    for cuts in ((), (1, 2, 3, 4, 5), (2, 2, 5)):
        assert gap(stepped(layer, x, cuts)[0], wanted) <= 1


class Wrong:
    """A sparsemax with one thing wrong."""

    definition = None

    def __init__(self, name: str) -> None:
        self.name = name

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        shown = shown_scores(scores, seen)
        falling = -np.sort(-shown, axis=-1)
        count = np.arange(1, shown.shape[-1] + 1)
        sums = np.add.accumulate(falling, axis=-1)
        inside = 1.0 + count * falling > sums
        last = np.count_nonzero(inside, axis=-1, keepdims=True) - (2 if self.name == "one key less" else 1)
        last = np.maximum(last, 0)
        total = 2.0 if self.name == "sums to 2" else 1.0
        tau = np.take_along_axis((sums - total) / count, last, axis=-1)
        if self.name == "every key":
            tau = (np.where(seen, scores, 0).sum(-1, keepdims=True) - 1) / seen.sum(-1, keepdims=True)
        return without_lse(np.where(seen, np.maximum(shown - tau, 0.0), 0.0))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        return Tally()


@pytest.mark.parametrize(
    ("name", "rejected"), [("nothing", False), ("one key less", True), ("sums to 2", True), ("every key", True)]
)
def test_wrong_sparsemaxes_are_rejected(name: str, rejected: bool) -> None:
    w, x = small()
    apart = gap(stepped(Weighed(w, Wrong(name)), x, ())[0], by_hand(w, x, shares_of(2.0)))  # type: ignore[arg-type]
    assert apart > 1e9 if rejected else apart < 2


def test_one_is_not_the_other() -> None:
    w, x = small()
    assert gap(stepped(Weighed(w, Sparsemax()), x, ())[0], by_hand(w, x, shares_of(1.5))) > 1e9
    assert gap(stepped(Weighed(w, Entmax15()), x, ())[0], by_hand(w, x, shares_of(2.0))) > 1e9


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=12))
def test_sparsemax_is_the_nearest_point_of_the_simplex(eighths: list[int]) -> None:
    """In exact fractions: p >= 0, sums to 1, and s - p is the same wherever p > 0 and no larger elsewhere."""
    row = np.full((1, 1, 256), 99.0)
    row[0, 0, : len(eighths)] = np.array(eighths) / 8
    found = Sparsemax().weigh(row, np.arange(256) < len(eighths), NOWHERE).weights[0, 0]
    assert not found[len(eighths) :].any()
    falling = sorted((Fraction(n, 8) for n in eighths), reverse=True)
    tau = max((sum(falling[:k]) - 1) / k for k in range(1, len(falling) + 1))
    for weight, n in zip(found, eighths, strict=False):
        assert abs(weight - float(max(Fraction(n, 8) - tau, Fraction(0)))) < 1e-14


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=40), st.sampled_from(["sparsemax", "entmax15"]))
def test_the_sorted_form_equals_the_search(scores: list[float], name: str) -> None:
    row, seen = np.zeros((1, 1, 256)), np.arange(256) < len(scores)
    row[0, 0, : len(scores)] = scores
    found = KINDS[name].weigh(row, seen, NOWHERE).weights
    assert np.abs(found - searched(row, seen, 2.0 if name == "sparsemax" else 1.5)).max() < 1e-13
    assert abs(found.sum() - 1) < 1e-13


@pytest.mark.parametrize("name", KINDS)
def test_ties_share_and_a_row_of_nothing_is_nothing(name: str) -> None:
    row = np.full((1, 1, 256), -5.0)
    row[..., [3, 9]] = 2.0
    found = KINDS[name].weigh(row, np.ones((1, 1, 256), np.bool_), NOWHERE).weights[0, 0]
    assert found[[3, 9]].tolist() == pytest.approx([0.5, 0.5])
    assert np.count_nonzero(found) == 2
    with np.errstate(invalid="ignore"):
        assert not KINDS[name].weigh(row, np.zeros((1, 1, 256), np.bool_), NOWHERE).weights.any()
        low = np.full((1, 1, 256), -np.inf)
        assert not KINDS[name].weigh(low, np.ones((1, 1, 256), np.bool_), NOWHERE).weights.any()
