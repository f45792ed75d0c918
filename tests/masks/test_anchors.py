"""Anchors: the two places where other libraries hang the causal triangle."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, bottom_right, bottom_right_positions, top_left, top_left_positions

SIZES = [(1, 1), (1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (9, 4), (0, 4), (3, 0), (0, 0)]


@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_top_left_begins_in_its_corner(queries: int, keys: int) -> None:
    drawn = [[column <= row for column in range(keys)] for row in range(queries)]
    assert np.array_equal(top_left(queries, keys), np.array(drawn, bool).reshape(queries, keys))


@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_bottom_right_ends_in_its_corner(queries: int, keys: int) -> None:
    drawn = [[keys - column >= queries - row for column in range(keys)] for row in range(queries)]
    assert np.array_equal(bottom_right(queries, keys), np.array(drawn, bool).reshape(queries, keys))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_of_a_square_both_are_the_same(size: int) -> None:
    assert np.array_equal(top_left(size, size), bottom_right(size, size))


@pytest.mark.parametrize(("queries", "keys"), [(1, 2), (2, 5), (5, 2)])
def test_otherwise_they_differ(queries: int, keys: int) -> None:
    assert not np.array_equal(top_left(queries, keys), bottom_right(queries, keys))


def test_with_more_queries_than_keys_the_first_see_nothing_bottom_right() -> None:
    assert bottom_right(5, 2).any(1).tolist() == [False, False, False, True, True]
    assert top_left(5, 2).any(1).all()


@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_positions_turn_causal_into_either(queries: int, keys: int) -> None:
    at = np.arange(keys)
    for positions, triangle in (
        (top_left_positions(queries), top_left(queries, keys)),
        (bottom_right_positions(queries, keys), bottom_right(queries, keys)),
    ):
        assert positions.dtype == np.int64
        assert np.array_equal(Causal()(0, 0, positions[:, None], at), triangle)


@pytest.mark.parametrize("call", [top_left, bottom_right, bottom_right_positions])
@pytest.mark.parametrize("number", [-1, 1.0, True, None])
def test_a_bad_number_of_queries_is_named(call: Any, number: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^queries must be an integer >= 0, got {number!r}$"):
        call(number, 1)
    with pytest.raises(ArgumentError, match=f"^queries must be an integer >= 0, got {number!r}$"):
        top_left_positions(number)


@pytest.mark.parametrize("call", [top_left, bottom_right, bottom_right_positions])
def test_a_bad_number_of_keys_is_named(call: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^keys must be an integer >= 0, got -3$"):
        call(1, -3)
