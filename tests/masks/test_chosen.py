"""Chosen shows each query the keys that a table lists."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, PositionError, ShapeError
from kvattn.masks import Chosen
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span

TABLE = [[[0, 2], [1, 1], [-1, 4], [-1, -1]], [[3, 4], [0, 1], [2, -1], [0, 4]]]


@pytest.mark.by_hand("masks/chosen")
def test_it_equals_the_table_by_hand() -> None:
    check_rule(Chosen(TABLE), lambda b, h, q, k: k >= 0 and k in TABLE[h][q], range(4), range(-2, 7), heads=2)
    check_rule(Chosen(TABLE[0]), lambda b, h, q, k: k >= 0 and k in TABLE[0][q], range(4), range(-2, 7), heads=2)
    for mask in (Chosen(TABLE), Chosen(np.array(TABLE[1], np.int32))):
        check_pairs(mask, range(4), range(-2, 7), heads=2)
        check_blocks(mask, range(4), range(-2, 7), heads=2)


def test_a_full_row_is_certain_and_rows_outside_are_not() -> None:
    assert Chosen([[0, 1], [1, 0]]).block(0, Span(0, 1), Span(0, 1)) is Answer.ALL
    assert Chosen([[0, 1], [1, 0]]).block(0, Span(0, 1), Span(-1, 1)) is Answer.LOOK
    assert Chosen([[0, 1], [1, 0]]).block(0, Span(0, 2), Span(0, 1)) is Answer.LOOK
    assert Chosen([[0, 1], [1, 0]]).block(0, Span(0, 1), Span(-3, -1)) is Answer.NONE


@dataclass(frozen=True, repr=False)
class Wrapped(Chosen):
    """Mutant: -1 is the last key."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return super().__call__(b, h, q_positions, np.asarray(k_positions) % 5)


@dataclass(frozen=True, repr=False)
class FirstHead(Chosen):
    """Mutant: every head as head 0."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return super().__call__(b, np.zeros_like(h), q_positions, k_positions) & (np.asarray(h) >= 0)


@pytest.mark.parametrize("mutant", [Wrapped, FirstHead])
def test_other_tables_are_rejected(mutant: type[Chosen]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(mutant(TABLE), lambda b, h, q, k: k >= 0 and k in TABLE[h][q], range(4), range(-2, 7), heads=2)


@dataclass(frozen=True, repr=False)
class OneHead(Chosen):
    """Mutant: answers for head 0."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Chosen(self.table[0]).block(b, q, k)


def test_wrong_block_answers_are_rejected() -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(OneHead(TABLE), range(4), range(6), heads=2)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([0, 1], r"^table must be integers of shape \[R, r\] or \[H, R, r\], got int64 of \(2,\)$"),
        ([[0.5]], r"^table must be integers of shape \[R, r\] or \[H, R, r\], got float64 of \(1, 1\)$"),
        ([[True]], r"^table must be integers of shape \[R, r\] or \[H, R, r\], got bool of \(1, 1\)$"),
        ([[0, 1], [2]], r"^table must be integers of shape \[R, r\] or \[H, R, r\], got uneven rows$"),
        ([[]], r"^table must be integers of shape \[R, r\] or \[H, R, r\], got float64 of \(1, 0\)$"),
    ],
)
def test_a_bad_table_is_named(table: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Chosen(table)


def test_what_the_table_does_not_know_is_refused() -> None:
    with pytest.raises(PositionError, match=r"^q_positions must be from 0 to 3, the rows of the table, got 4$"):
        Chosen(TABLE)(0, 0, np.array([[3], [4]]), np.arange(2))
    with pytest.raises(ShapeError, match=r"^h must be from 0 to 1 for an array of that size, got 2$"):
        Chosen(TABLE)(0, np.array([[[2]]]), np.array([[3]]), np.arange(2))


def test_it_reads_as_it_is_written_and_is_a_value() -> None:
    assert repr(Chosen([[0, 2]])) == "Chosen((((0, 2),),))"
    assert repr(Chosen(np.zeros((4, 5, 6), int))) == "Chosen(<[4, 5, 6]>)"
    assert Chosen([[0, 2]]) == Chosen(np.array([[[0, 2]]]))
    assert len({Chosen([[0, 2]]), Chosen([[0, 2]]), Chosen([[0, 1]])}) == 2
