"""Window shows W keys, self included, and as many ahead as were asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


def by_hand(size: int, ahead: int) -> Callable[[int, int, int, int], bool]:
    """List what each query sees: itself, size - 1 before it, ahead after it."""
    return lambda b, h, q, k: k in [q - n for n in range(size)] + [q + 1 + n for n in range(ahead)]


@pytest.mark.by_hand("masks/window")
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_it_equals_the_list_by_hand(size: int, ahead: int) -> None:
    at = range(-2, 2 * size + 3)
    check_rule(Window(size, ahead), by_hand(size, ahead), at, at, heads=2)
    check_pairs(Window(size, ahead), at, at)
    check_blocks(Window(size, ahead), at, at)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_query_sees_exactly_w_keys(size: int) -> None:
    seen = Window(size)(0, 0, np.arange(size, 3 * size)[:, None], np.arange(4 * size))
    assert (seen.sum(1) == size).all()


def test_without_ahead_it_is_causal_already() -> None:
    at = np.arange(-3, 12)
    assert np.array_equal(
        Window(4)(0, 0, at[:, None], at), Window(4)(0, 0, at[:, None], at) & Causal()(0, 0, at[:, None], at)
    )


@pytest.mark.law("masks/window", "an answer for a block is never wrong", "bits")
@given(st.integers(1, 300), st.integers(0, 5), st.integers(-5, 600), st.integers(-1, 1), st.integers(-1, 1))
def test_its_block_answers_hold_around_its_borders(size: int, ahead: int, q: int, near: int, far: int) -> None:
    check_blocks(Window(size, ahead), [q, q + 1, q + 2], [q - size + near, q + far, q + ahead + near, q + ahead + 3])


@pytest.mark.parametrize(
    ("q", "k", "answer"),
    [
        (Span(8, 9), Span(6, 8), Answer.ALL),
        (Span(8, 9), Span(5, 8), Answer.LOOK),
        (Span(8, 9), Span(6, 9), Answer.LOOK),
        (Span(8, 9), Span(0, 5), Answer.LOOK),
        (Span(8, 9), Span(0, 4), Answer.NONE),
        (Span(8, 9), Span(10, 12), Answer.NONE),
    ],
)
def test_it_is_certain_wherever_it_can_be(q: Span, k: Span, answer: Answer) -> None:
    assert Window(4).block(0, q, k) is answer


@dataclass(frozen=True, repr=False)
class Wide(Window):
    """Mutant: W counts the keys beside self."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Window(self.size + 1, self.ahead).block(b, q, k)


@dataclass(frozen=True, repr=False)
class Narrow(Window):
    """Mutant: one key too few."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Window(self.size - 1, self.ahead).block(b, q, k)


@dataclass(frozen=True, repr=False)
class Ends(Window):
    """Mutant: looks at the last query only."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, Span(q.high, q.high), k)


@dataclass(frozen=True, repr=False)
class Blind(Window):
    """Mutant: forgets that later keys are hidden."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.ALL if q.high - k.low < self.size else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [Wide, Narrow, Ends, Blind])
def test_wrong_block_answers_are_rejected(mutant: type[Window]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(3), range(10), range(10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), r"^size must be an integer >= 1, got 0$"),
        ((-2,), r"^size must be an integer >= 1, got -2$"),
        ((True,), r"^size must be an integer >= 1, got True$"),
        ((2.0,), r"^size must be an integer >= 1, got 2\.0$"),
        (("4",), r"^size must be an integer >= 1, got '4'$"),
        ((None,), r"^size must be an integer >= 1, got None$"),
        ((np.arange(2),), r"^size must be an integer >= 1, got an array of shape \(2,\)$"),
        ((4, -1), r"^ahead must be an integer >= 0, got -1$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Window(*arguments)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Window(4)) == "Window(4)"
    assert repr(Window(4, ahead=2)) == "Window(4, ahead=2)"
    assert repr(Window(np.int32(4))) == "Window(4)"  # type: ignore[arg-type]
    assert Window(np.int64(4)) == Window(4)  # type: ignore[arg-type]
