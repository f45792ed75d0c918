"""Dilated shows W keys that lie r apart."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Dilated, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.by_hand("masks/dilated")
@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("rate", [1, 2, 3])
def test_it_equals_the_list_by_hand(window: int, rate: int) -> None:
    at = range(-2, window * rate + 4)
    check_rule(Dilated(window, rate), lambda b, h, q, k: k in [q - n * rate for n in range(window)], at, at, heads=2)
    check_pairs(Dilated(window, rate), at, at)
    check_blocks(Dilated(window, rate), at, at)


@pytest.mark.parametrize(("window", "rate"), [(1, 1), (1, 3), (4, 2), (3, 5)])
def test_a_query_sees_exactly_w_keys(window: int, rate: int) -> None:
    seen = Dilated(window, rate)(0, 0, np.arange(20, 30)[:, None], np.arange(40))
    assert (seen.sum(1) == window).all()


def test_rate_one_is_the_sliding_window() -> None:
    at = np.arange(-3, 9)
    assert np.array_equal(Dilated(4, 1)(0, 0, at[:, None], at), Window(4)(0, 0, at[:, None], at))


@pytest.mark.law("masks/dilated", "an answer for a block is never wrong", "bits")
@given(st.integers(1, 40), st.integers(1, 9), st.integers(-1, 1), st.integers(0, 60))
def test_its_block_answers_hold_around_its_borders(window: int, rate: int, near: int, q: int) -> None:
    far = q - (window - 1) * rate + near
    check_blocks(Dilated(window, rate), [q, q + 1, q + rate], [far - rate, far, far + 1, q - rate + near, q + near])


@dataclass(frozen=True, repr=False)
class Undiluted(Dilated):
    """Mutant: forgets the keys that are left out."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Window(self.window * self.rate).block(b, q, k)


@dataclass(frozen=True, repr=False)
class Short(Dilated):
    """Mutant: a window of W positions, not of W keys."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.NONE if q.low - k.high >= self.window else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class Hasty(Dilated):
    """Mutant: no multiple of the rate at the ends, so none between."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        ends = {(i - j) % self.rate for i in q for j in k}
        return Answer.NONE if 0 not in ends else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [Undiluted, Short, Hasty])
def test_wrong_block_answers_are_rejected(mutant: type[Dilated]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(2, 4), range(12), range(12))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 1), "^window must be an integer >= 1, got 0$"),
        ((1, 0), "^rate must be an integer >= 1, got 0$"),
        ((1, True), "^rate must be an integer >= 1, got True$"),
        ((1.5, 1), r"^window must be an integer >= 1, got 1\.5$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Dilated(*arguments)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Dilated(3, rate=2)) == "Dilated(3, rate=2)"
