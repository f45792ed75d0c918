"""Running error bounds: they are above what float64 really does, and not far above."""

import math
import operator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.goldens.bounds import FUNCTION_UNITS, UNIT, Roundings
from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Decimals
from kvattn.goldens.recipe import drawn, flat, read
from kvattn.testing import balls

N, EXACT = Roundings(), Decimals(60)
SHORT = st.integers(-400, 400).map(lambda number: number / 16)


def test_the_unit_is_that_of_float64() -> None:
    assert float(UNIT) == 2.0**-53
    assert FUNCTION_UNITS == balls.FUNCTION_UNITS


@given(st.lists(SHORT, min_size=1, max_size=9), SHORT)
def test_the_bound_holds_for_float64(terms: list[float], x: float) -> None:
    def over(n: Any) -> Any:
        return n.sum([n.exp(n(t) / 7) for t in terms]) + n.tanh(n(x) / 3)

    near, exact = over(N), over(EXACT)
    found = 0.0
    for t in terms:
        found += math.exp(t / 7)
    found += math.tanh(x / 3)
    gap = abs((EXACT(found) - exact).high)
    assert gap <= near.error


@given(SHORT, SHORT)
def test_the_rules_are_those_of_balls(a: float, b: float) -> None:
    ball = ((balls.Ball(a) * b - 3.0) / 7.0).exp()
    near = N.exp((N(a) * N(b) - 3) / 7)
    assert math.isclose(float(near.error), ball.error, rel_tol=1e-9)


def test_the_bound_of_attention_is_within_a_thousand_units() -> None:
    q, k, v = (drawn(name, 1, 2, 5, 6) for name in "qkv")
    found = attention(N, *(read(N, x) for x in (q, k, v)))
    assert max(float(x.error) for x in flat(found["out"])) < 1000 * 2.0**-53


def test_integers_and_order() -> None:
    assert N(1) < 2 <= N(2) < N(3)
    assert N(3) > 2 >= N(2)
    assert (1 - N(0.5)).value == (N(1) / 2).value == (2 / N(4)).value
    assert N.max([N(1), N(3), N(2)]).value == 3


@pytest.mark.parametrize("other", [0.5, True, None])
def test_only_numbers_and_integers_are_taken(other: Any) -> None:
    for operation in (operator.add, operator.sub, operator.mul, operator.truediv, operator.lt):
        with pytest.raises(TypeError):
            operation(N(1), other)
    with pytest.raises(TypeError):
        operator.truediv(other, N(1))


def test_waves_and_roots_have_bounds() -> None:
    for name, x in (("sin", 3.0), ("cos", 100.5), ("tanh", -2.5), ("sqrt", 3.0), ("log", 0.25)):
        near, exact = getattr(N, name)(N(x)), getattr(EXACT, name)(EXACT(x))
        found = float(getattr(np, name)(x))
        assert abs((EXACT(found) - exact).high) <= near.error
        assert 0 < near.error <= (abs(near.value) + 1) * FUNCTION_UNITS * UNIT
    assert N.sqrt(N(0)).error == 0
    assert float(N.pi().value) == math.pi
