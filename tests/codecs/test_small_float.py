"""Small floating-point formats: every code, every tie, both neighbours of every tie, by hand."""

from bisect import bisect_left
from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.codecs.small_float import E2M1, E4M3FN, E4M3FNUZ, E5M2, SmallFloat, scaled_error
from kvattn.errors import ArgumentError

KINDS = (E4M3FN, E5M2, E4M3FNUZ, E2M1)


def positive(kind: SmallFloat) -> list[Fraction]:
    """All finite numbers from 0 up, in the order of their codes, from the words of the standard."""
    found = []
    for field in range(2**kind.exponent):
        for part in range(2**kind.mantissa):
            if field:
                number = (1 + Fraction(part, 2**kind.mantissa)) * Fraction(2) ** (field - kind.bias)
            else:
                number = Fraction(part, 2**kind.mantissa) * Fraction(2) ** (1 - kind.bias)
            found.append(number)
    return [number for number in found if number <= Fraction(kind.largest)]


def by_hand(value: Fraction, numbers: list[Fraction]) -> int:
    """Code of the nearest number; of two as near the even code; beyond the last, the last."""
    above = bisect_left(numbers, value)
    if above == len(numbers) or numbers[above] == value:
        return min(above, len(numbers) - 1)
    up, down = numbers[above] - value, value - numbers[above - 1]
    return above if up < down or (up == down and above % 2 == 0) else above - 1


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_code_is_its_number(kind: SmallFloat) -> None:
    half = 1 << (kind.exponent + kind.mantissa)
    numbers, table = positive(kind), kind.numbers()
    assert [Fraction(float(x)) for x in table[: len(numbers)]] == numbers
    assert [-Fraction(float(x)) for x in table[half + 1 : half + len(numbers)]] == numbers[1:]
    assert max(numbers) == Fraction(kind.largest)
    rest = table[len(numbers) : half]
    infinite = [] if kind.infinity is None else [kind.infinity - len(numbers)]
    assert [n for n, x in enumerate(rest) if not np.isnan(x)] == infinite
    assert np.signbit(table[half]) if kind.negative_zero else np.isnan(table[half])
    codes = np.arange(2 * half, dtype=np.uint8)
    finite = np.isfinite(table)
    assert np.array_equal(kind.encode(table[finite]), codes[finite])


@pytest.mark.by_hand("codecs/small_float")
@pytest.mark.law("codecs/small_float", "nearest, ties to even, at every tie and beside it", "bits")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_tie_and_its_neighbours_by_hand(kind: SmallFloat) -> None:
    numbers = positive(kind)
    ties = [float((a + b) / 2) for a, b in pairwise(numbers)]
    around = [near for tie in ties for near in (np.nextafter(tie, 0.0), tie, np.nextafter(tie, np.inf))]
    x = np.array(around + [float(n) for n in numbers])
    wanted = [by_hand(Fraction(float(value)), numbers) for value in x]
    assert kind.encode(x).tolist() == wanted
    half = 1 << (kind.exponent + kind.mantissa)
    assert kind.encode(-x).tolist() == [half + c if c or kind.negative_zero else 0 for c in wanted]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_beyond_the_largest_it_saturates(kind: SmallFloat) -> None:
    top = len(positive(kind)) - 1
    half = 1 << (kind.exponent + kind.mantissa)
    for x in (kind.largest, np.nextafter(kind.largest, np.inf), 2 * kind.largest, 1e300, np.inf):
        assert kind.encode(np.array([x, -x])).tolist() == [top, half + top]


def test_nan_stays_nan_or_is_refused() -> None:
    for kind in (E4M3FN, E5M2, E4M3FNUZ):
        assert np.isnan(kind.decode(kind.encode(np.array([np.nan, -np.nan])))).all()
    with pytest.raises(ArgumentError, match=r"^x must not be NaN in E2M1, which has none, got NaN$"):
        E2M1.encode(np.array([np.nan]))


@given(st.sampled_from(KINDS), st.floats(allow_nan=False, width=64))
def test_the_error_is_within_half_a_step(kind: SmallFloat, x: float) -> None:
    found = Fraction(float(kind.decode(kind.encode(np.array([x])))[0]))
    if np.isfinite(x):
        bound = Fraction(float(kind.error(np.array([x]))[0])) * (1 + Fraction(1, 2**53))  # its own rounding
        assert abs(Fraction(x) - found) <= bound


def test_where_the_scale_vanished_all_is_lost() -> None:
    assert scaled_error(E4M3FN, np.array([3.0]), np.array([0.0])).tolist() == [3.0]
