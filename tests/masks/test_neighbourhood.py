"""Neighbourhood shows the w nearest positions of a grid, and as many at its borders."""

from dataclasses import dataclass
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, PositionError
from kvattn.masks import BlockWise, Neighbourhood
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span

SHAPES: list[tuple[list[int], list[int]]] = [
    ([1], [1]), ([5], [3]), ([5], [5]), ([7], [1]), ([4, 3], [3, 1]), ([3, 5], [1, 5]), ([3, 4], [3, 3]),
    ([3, 2, 4], [3, 1, 3]),
]  # fmt: skip


def nearest(grid: list[int], window: list[int], at: int) -> list[int]:
    """Take the w nearest along each axis, by distance to the query's place and, at a border, to what is left."""
    places = list(product(*map(range, grid)))
    per_axis = []
    for axis, (count, wide) in enumerate(zip(grid, window, strict=True)):
        here = places[at][axis]
        best = min(
            (abs(2 * start + wide - 1 - 2 * here), start) for start in range(count - wide + 1)
        )  # the run of w whose middle is nearest
        per_axis.append(range(best[1], best[1] + wide))
    return [places.index(place) for place in product(*per_axis)]


@pytest.mark.by_hand("masks/neighbourhood")
@pytest.mark.parametrize(("grid", "window"), SHAPES)
def test_it_equals_the_list_by_hand(grid: list[int], window: list[int]) -> None:
    mask, at = Neighbourhood(grid, window), range(int(np.prod(grid)))
    check_rule(mask, lambda b, h, q, k: k in nearest(grid, window, q), at, at, heads=2)
    check_pairs(mask, at, at)
    check_blocks(mask, at, at)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 2)), min_size=1, max_size=3))
def test_every_query_sees_as_many_keys(axes: list[tuple[int, int]]) -> None:
    grid = [count for count, _ in axes]
    window = [min(2 * half + 1, count - 1 + count % 2) for count, half in axes]
    at = np.arange(np.prod(grid))
    seen = Neighbourhood(grid, window)(0, 0, at[:, None], at)
    assert (seen.sum(1) == np.prod(window)).all()
    assert np.diagonal(seen).all()


@dataclass(frozen=True, repr=False)
class Cut(Neighbourhood):
    """Mutant: loses keys at a border, as a window does."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        seen = super().__call__(b, h, q_positions, k_positions)
        return seen & (np.abs(np.subtract(q_positions, k_positions)) <= self.window[0] // 2)


@dataclass(frozen=True, repr=False)
class Wrapped(Neighbourhood):
    """Mutant: goes around at the border."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        half = self.window[0] // 2
        return (np.subtract(k_positions, q_positions) + half) % self.grid[0] < self.window[0]


@pytest.mark.parametrize("mutant", [Cut, Wrapped])
def test_other_borders_are_rejected(mutant: type[Neighbourhood]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(mutant([7], [3]), lambda b, h, q, k: k in nearest([7], [3], q), range(7), range(7))


def test_columns_before_rows_is_rejected() -> None:
    """Mutant: the grid turned."""
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(
            Neighbourhood([4, 3], [1, 3]), lambda b, h, q, k: k in nearest([3, 4], [3, 1], q), range(12), range(12)
        )


@dataclass(frozen=True, repr=False)
class Line(Neighbourhood):
    """Mutant: certain of ALL on a plane, as if it were a line."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        inner = self.grid[1]
        rows = Neighbourhood(self.grid[:1], self.window[:1])
        return rows.block(b, *(Span(at.low // inner, at.high // inner) for at in (q, k)))


@dataclass(frozen=True, repr=False)
class Short(Neighbourhood):
    """Mutant: takes the first query's window for all."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, Span(q.low, q.low), k)


@pytest.mark.parametrize(("mutant", "grid", "window"), [(Line, [4, 3], [3, 1]), (Short, [7], [3])])
def test_wrong_block_answers_are_rejected(mutant: Any, grid: list[int], window: list[int]) -> None:
    at = range(int(np.prod(grid)))
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(grid, window), at, at)


@pytest.mark.by_hand("masks/neighbourhood: sliding tiles")
def test_tiles_slide_over_a_line() -> None:
    """Sliding tile attention in tile order: neighbourhoods of whole tiles."""
    mask = BlockWise(2, Neighbourhood([5], [3]))
    check_rule(mask, lambda b, h, q, k: k // 2 in nearest([5], [3], q // 2), range(10), range(10))
    check_blocks(mask, range(10), range(10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([5], [2]), "^window must be odd and at most 5 on an axis of 5, got 2$"),
        (([3], [5]), "^window must be odd and at most 3 on an axis of 3, got 5$"),
        (([3, 3], [3]), "^window must have an entry for each of 2 axes, got 1$"),
        (([0], [1]), r"^grid\[0\] must be an integer >= 1, got 0$"),
        (([3], [True]), r"^window\[0\] must be an integer >= 1, got True$"),
        ((3, [3]), "^grid must be a non-empty sequence of integers >= 1, got 3$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Neighbourhood(*arguments)


def test_a_position_outside_the_grid_is_refused() -> None:
    with pytest.raises(PositionError, match=r"^k_positions must be from 0 to 11, inside the grid, got 12$"):
        Neighbourhood([4, 3], [3, 3])(0, 0, np.array([[0]]), np.arange(13))
    assert Neighbourhood([4, 3], [3, 3]).block(0, Span(0, 0), Span(0, 12)) is Answer.LOOK


def test_it_reads_as_it_is_written() -> None:
    assert repr(Neighbourhood((4, 3), (3, 1))) == "Neighbourhood([4, 3], [3, 1])"
    assert Neighbourhood(np.array([4, 3]), [3, 1]) == Neighbourhood([4, 3], [3, 1])
