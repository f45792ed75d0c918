"""Balls hold the exact number, and the bound is not idle."""

from fractions import Fraction
import math
from typing import Any

from hypothesis import given as drawn
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.testing.balls import Ball, agree, dot, given, total

numbers = st.floats(-(2.0**20), 2.0**20).filter(lambda x: x == 0 or abs(x) > 2.0**-20)


def distance(ball: Ball, exact: Fraction) -> float:
    return float(abs(Fraction(ball.value) - exact))


@drawn(st.lists(numbers, min_size=1, max_size=8), numbers)
def test_sums_and_products_hold_the_exact_number(terms: list[float], last: float) -> None:
    balls = [Ball(x) for x in terms]
    exact = sum((Fraction(x) * Fraction(x) for x in terms), Fraction(0))
    assert distance(dot(balls, balls), exact) <= dot(balls, balls).error * (1 + 1e-9)
    ball = (total(balls) + last) * last - 1.0
    wanted = (sum((Fraction(x) for x in terms), Fraction(0)) + Fraction(last)) * Fraction(last) - 1
    assert distance(ball, wanted) <= ball.error * (1 + 1e-9)


@drawn(st.lists(numbers, min_size=2, max_size=8), st.randoms())
def test_any_order_of_a_sum_agrees(terms: list[float], random: Any) -> None:
    ball = total(Ball(x) for x in terms)
    shuffled = list(terms)
    random.shuffle(shuffled)
    assert agree(np.array([sum(shuffled)]), [ball]) <= 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_unit_follows_the_dtype(dtype: Any) -> None:
    third = given(np.array([1.0], dtype))[0] / 3.0
    u = 2.0**-53 if dtype is np.float64 else 2.0**-24
    assert third.error == u / 3
    assert agree(np.array([1], dtype) / np.array([3], dtype), [third]) <= 1
    assert agree((np.array([1], dtype) / np.array([3], dtype)) * dtype(1 + 8 * u), [third]) > 1


def test_errors_grow_as_the_derivative_says() -> None:
    nudged = Ball(2.0, error=1e-6)
    for ball, slope in (
        (nudged.exp(), math.exp(2)),
        (nudged.log(), 0.5),
        (nudged * 3.0, 3.0),
        (Ball(1.0) / nudged, 0.25),
        (nudged - 1.0, 1.0),
    ):
        assert ball.error == pytest.approx(slope * 1e-6, rel=1e-6)


def test_what_is_not_finite_or_of_another_shape_disagrees() -> None:
    assert agree(np.array([-np.inf]), [Ball(-math.inf)]) == 0
    assert agree(np.array([np.nan]), [Ball(1.0, 1.0)]) == math.inf
    assert agree(np.array([np.inf]), [Ball(1.0, 1.0)]) == math.inf
    assert agree(np.array([1.0, 1.0]), [Ball(1.0)]) == math.inf
