"""Which element is farthest from what it should be."""

import numpy as np
import pytest

from kvattn.testing.diagnosis.differences import farthest, place_of

WANT = np.array([[1.0, 2.0], [3.0, 4.0]])


def test_the_farthest_is_counted_in_its_own_bound() -> None:
    """The larger error, of 1 in a bound of 10, is the nearer one."""
    worst = np.array([[10.0, 1.0], [1.0, 0.25]])
    found = farthest("lse", WANT + np.array([[1.0, 0], [0, 0.5]]), WANT, worst, worst / 10)
    assert (found.channel, found.place, found.got, found.expected) == ("lse", (1, 1), 4.5, 4.0)
    assert (found.ratio, found.statistical) == (2.0, 20.0)


@pytest.mark.parametrize(("got", "want"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.inf), (np.inf, -np.inf)])
def test_what_is_no_number_is_infinitely_far(got: float, want: float) -> None:
    one = np.ones(1)
    assert farthest("out", one * got, one * want, one, one).ratio == np.inf


def test_equal_infinities_and_exact_bounds_of_zero_are_no_difference() -> None:
    numbers, none = np.array([-np.inf, 0.5]), np.zeros(2)
    assert farthest("out", numbers, numbers, none, none).ratio == 0


def test_of_nothing_nothing_differs() -> None:
    none = np.zeros((0, 3))
    assert farthest("out", none, none, none, none).place == ()


def test_the_place_is_where_the_error_is_largest() -> None:
    assert place_of(WANT + np.array([[0.1, 0], [0, -0.2]]), WANT) == (1, 1)
    assert place_of(np.array([1.0, np.nan, 9.0]), np.array([1.0, 2.0, 3.0])) == (1,)
    assert place_of(np.array([5.0, 2.5]), np.array([np.nan, 2.0])) == (1,)
