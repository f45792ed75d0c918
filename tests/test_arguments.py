"""Plain arguments become plain Python values, or one sentence."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.arguments import integer, integers, optional_real, real, reals, shown
from kvattn.errors import ArgumentError


@pytest.mark.parametrize("value", [True, np.True_, 0, -1, 1.0, "2", None, np.float64(2), [2]])
def test_a_count_is_an_integer_and_at_least_one(value: Any) -> None:
    with pytest.raises(ArgumentError, match="n must be an integer >= 1, got "):
        integer("n", value, 1)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)])
def test_numpy_integers_are_integers(value: Any) -> None:
    assert integer("n", value, 1) == 3
    assert type(integer("n", value, 1)) is int


def test_a_range_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"n must be an integer in 0 \.\. 4, got 5"):
        integer("n", 5, 0, 4)


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.int8(3), np.array(3.0)])
def test_a_number_becomes_a_python_float(value: Any) -> None:
    assert type(optional_real("scale", value)) is float


def test_nothing_is_an_optional_number() -> None:
    assert optional_real("scale", None) is None


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, "1", b"1", True, np.True_, 1j, [1.0], 10**400],
    ids=lambda value: f"{type(value).__module__} {str(value)[:9]}",
)
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^scale must be a finite number, got "):
        real("scale", value)


def test_bounds_are_named_and_kept() -> None:
    assert real("eps", 0, least=0.0) == 0.0
    with pytest.raises(ArgumentError, match=r"^eps must be a finite number >= 0, got -1$"):
        real("eps", -1, least=0.0)
    with pytest.raises(ArgumentError, match=r"^cap must be a finite number above 0, got 0$"):
        real("cap", 0, above=0.0)


@pytest.mark.parametrize("values", [(), 3, "34", {"a": 1}, {3, 4}])
def test_a_sequence_is_a_row_of_at_least_one(values: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^lengths must be a non-empty sequence of integers >= 0, got "):
        integers("lengths", values, 0)
    with pytest.raises(ArgumentError, match=r"^slopes must be a non-empty sequence of finite numbers, got "):
        reals("slopes", values)


def test_the_member_that_is_wrong_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"^lengths\[1\] must be an integer >= 0, got -4$"):
        integers("lengths", [3, -4], 0)
    with pytest.raises(ArgumentError, match=r"^slopes\[0\] must be a finite number, got nan$"):
        reals("slopes", [math.nan])


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(shown("x" * 1000)) == 60
