"""Decimal intervals: they hold the true number, say when they do not decide, and refuse what is not exact."""

from decimal import Decimal
from fractions import Fraction
import math
import operator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest

from kvattn.errors import ArgumentError, UndecidedError
from kvattn.goldens.numbers import Decimals, Interval

N = Decimals(40)
SHORT = st.integers(-1000, 1000).map(lambda number: number / 16)


def holds(interval: Interval, number: Fraction) -> bool:
    return Fraction(interval.low) <= number <= Fraction(interval.high)


@given(SHORT, SHORT, SHORT)
def test_rational_arithmetic_holds_the_rational_number(a: float, b: float, c: float) -> None:
    x, y, z = N(a), N(b), N(c)
    p, q, r = Fraction(a), Fraction(b), Fraction(c)
    assert holds(x + y * z - 3, p + q * r - 3)
    assert holds(2 - x, 2 - p)
    assert holds(-x, -p)
    assert holds(abs(x), abs(p))
    if b:
        third = (x / y) / 3 * z
        assert holds(third, p / q / 3 * r)
        assert holds(1 / y, 1 / q)
        assert Fraction(third.high) - Fraction(third.low) <= Fraction(1, 10**33)


@pytest.mark.parametrize(
    ("name", "shift"), [("exp", 0.0), ("log", 1.0), ("sqrt", 0.0), ("sin", 0.0), ("cos", 0.0), ("tanh", 0.0)]
)
def test_functions_are_those_of_math(name: str, shift: float) -> None:
    for x in (0.0, 0.125, 0.5, 1.0, 2.0, 7.0, 20.5):
        found = getattr(N, name)(N(x + shift)).rounded()
        assert math.isclose(found, getattr(math, name)(x + shift), rel_tol=4e-16, abs_tol=1e-300), x


def test_sine_and_cosine_of_large_angles() -> None:
    """sin² + cos² = 1, and the shift by a quarter turn, whatever the size."""
    for x in (1.5, 100.25, 1e6, 2.0**60, -3.0, -1e9):
        sine, cosine = N.sin(N(x)), N.cos(N(x))
        one = sine * sine + cosine * cosine
        assert holds(one, Fraction(1))
        assert Fraction(one.high) - Fraction(one.low) < Fraction(1, 10**30)
        quarter = N.sin(N(x) + N.pi() / 2) - cosine
        assert quarter.low <= 0 <= quarter.high


def test_exact_values_are_exact() -> None:
    for found, wanted in ((N.exp(N(0)), 1), (N.log(N(1)), 0), (N.sqrt(N(6.25)), Fraction(5, 2)), (N.sin(N(0)), 0)):
        assert found.low == found.high
        assert Fraction(found.low) == wanted
    x = N.exp(N(1))
    assert (x - x).high == 0


def test_comparisons_answer_only_where_they_are_decided() -> None:
    third = N(1) / 3
    assert third < N(0.5)
    assert N(0.5) > third
    assert N(2) <= 2
    assert not N(2) < 2
    with pytest.raises(UndecidedError, match="which of two numbers is less"):
        _ = third < 1 - 2 * (N(1) / 3)
    with pytest.raises(UndecidedError, match="must not hold 0"):
        _ = 1 / (third * 3 - 1)


def test_rounding_is_to_the_nearest_and_says_when_it_is_open() -> None:
    assert (N(1) / 10).rounded() == 0.1
    tie = Fraction(2**53 + 1)  # lies between two float64, and is even below
    assert N(2.0**53).__add__(1).rounded() == float(tie) == 2.0**53
    assert math.copysign(1.0, (N(0) * -1).rounded()) == 1.0
    near = Interval(Decimal(2**53) + 1 - Decimal("1e-9"), Decimal(2**53) + 1 + Decimal("1e-9"), N)
    with pytest.raises(UndecidedError, match="nearest float64 must be decided"):
        near.rounded()


@pytest.mark.parametrize("other", [0.5, "1", True, None])
def test_only_numbers_and_integers_are_taken(other: Any) -> None:
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.gt):
        with pytest.raises(TypeError):
            operation(N(1), other)
    with pytest.raises(TypeError):
        operator.truediv(other, N(1))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_no_number(value: float) -> None:
    with pytest.raises(ArgumentError, match="a number must be finite, got"):
        N(value)


def test_more_digits_narrow_the_interval() -> None:
    widths = [(found := Decimals(digits).exp(Decimals(digits)(1))).high - found.low for digits in (20, 40, 80)]
    assert widths[0] > widths[1] > widths[2] > 0


def test_an_interval_that_is_one_unit_short_would_be_noticed() -> None:
    """A mutant: ends rounded to nearest, as plain decimal does, lose 2/3 from below."""
    low = N.up.divide(Decimal(2), Decimal(3))  # one end for both
    assert not holds(Interval(low, low, N), Fraction(2, 3))
    assert holds(N(2) / 3, Fraction(2, 3))
