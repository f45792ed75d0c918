"""Sink shows the first positions to every query."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Sink, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.law("masks/sink", "an answer for a block is never wrong", "bits")
@pytest.mark.by_hand("masks/sink")
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_it_equals_the_list_by_hand(number: int) -> None:
    first = list(range(number))
    check_rule(Sink(number), lambda b, h, q, k: k in first, range(-2, number + 3), range(number + 3), heads=2)
    check_pairs(Sink(number), range(-2, number + 3), range(number + 3))
    check_blocks(Sink(number), range(-2, number + 3), range(number + 3))


def test_beside_a_window_a_late_query_sees_sinks_and_window() -> None:
    seen = (Causal() & (Window(3) | Sink(2)))(0, 0, np.array([[9]]), np.arange(12))
    assert np.flatnonzero(seen[0]).tolist() == [0, 1, 7, 8, 9]


def test_beside_a_window_an_early_query_sees_no_later_sink() -> None:
    seen = (Causal() & (Window(3) | Sink(2)))(0, 0, np.array([[0]]), np.arange(12))
    assert np.flatnonzero(seen[0]).tolist() == [0]


@dataclass(frozen=True, repr=False)
class Late(Sink):
    """Mutant: the border belongs to the first keys."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Sink(self.count + 1).block(b, q, k)


@dataclass(frozen=True, repr=False)
class Early(Sink):
    """Mutant: one key too few."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Sink(self.count - 1).block(b, q, k)


@dataclass(frozen=True, repr=False)
class ByQuery(Sink):
    """Mutant: asks the queries in place of the keys."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, k, q)


@pytest.mark.parametrize("mutant", [Late, Early, ByQuery])
def test_wrong_block_answers_are_rejected(mutant: type[Sink]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(3), range(7), range(7))


@pytest.mark.parametrize("number", [-1, True, 1.5, "2", None])
def test_a_bad_count_is_named(number: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^count must be an integer >= 0, got {number!r}$"):
        Sink(number)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Sink(3)) == "Sink(3)"
    assert Sink(np.int64(3)) == Sink(3)  # type: ignore[arg-type]
