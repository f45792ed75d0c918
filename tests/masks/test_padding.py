"""Padding shows the real keys of each sequence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, ShapeError
from kvattn.masks import Padding
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span

AT = range(-1, 8)
CASES: list[tuple[dict[str, Any], Callable[[int], list[int]]]] = [
    ({"lengths": [3, 0, 7]}, lambda b: list(range(-9, [3, 0, 7][b]))),
    ({"starts": [0, 2, 7]}, lambda b: list(range([0, 2, 7][b], 99))),
    ({"lengths": [3, 5, 1], "starts": [1, 0, 2]}, lambda b: [[1, 2], [0, 1, 2, 3, 4], []][b]),
    ({"lengths": [4]}, lambda _: list(range(-9, 4))),
]


@pytest.mark.law("masks/padding", "an answer for a block is never wrong", "bits")
@pytest.mark.by_hand("masks/padding")
@pytest.mark.parametrize(("arguments", "real"), CASES)
def test_it_equals_the_list_by_hand(arguments: dict[str, Any], real: Callable[[int], list[int]]) -> None:
    mask = Padding(**arguments)
    check_rule(mask, lambda b, h, q, k: k in real(b), AT, AT, batch=3, heads=2)
    check_pairs(mask, AT, AT, batch=3)
    check_blocks(mask, AT, AT, batch=3)


def test_several_sequences_may_be_asked_at_once() -> None:
    at = np.arange(8)
    mask = Padding([3, 5], starts=[1, 0])
    together = mask(np.arange(2)[:, None, None, None], np.zeros((4, 1, 1), np.int64), at[:, None], at)
    assert together.shape == (2, 1, 8, 8)
    assert np.array_equal(together[1, 0], mask(1, 0, at[:, None], at))


@dataclass(frozen=True, repr=False)
class FirstRow(Padding):
    """Mutant: every sequence is as long as the first."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(0, q, k)


@dataclass(frozen=True, repr=False)
class Late(Padding):
    """Mutant: the border is the last real key, not the one behind it."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, q, Span(k.low - 1, k.high - 1))


@dataclass(frozen=True, repr=False)
class RightOnly(Padding):
    """Mutant: forgets the pads in front."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Padding(self.lengths).block(b, q, k)


@pytest.mark.parametrize("mutant", [FirstRow, Late, RightOnly])
def test_wrong_block_answers_are_rejected(mutant: Any) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(lengths=[3, 5, 2], starts=[0, 1, 0]), AT, AT, batch=3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "^lengths or starts must be given, got neither$"),
        ({"lengths": [3, -1]}, r"^lengths\[1\] must be an integer >= 0, got -1$"),
        ({"starts": [True]}, r"^starts\[0\] must be an integer >= 0, got True$"),
        ({"lengths": 3}, "^lengths must be a non-empty sequence of integers >= 0, got 3$"),
        ({"lengths": []}, r"^lengths must be a non-empty sequence of integers >= 0, got \[\]$"),
        ({"lengths": np.ones(2)}, r"^lengths\[0\] must be an integer >= 0, got 1\.0$"),
        ({"lengths": [1, 2], "starts": [0]}, "^starts must have an entry for each of 2 lengths, got 1$"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Padding(**arguments)


@pytest.mark.parametrize("b", [2, -1])
def test_a_sequence_that_is_not_there_raises(b: int) -> None:
    mask = Padding([1, 2])
    words = f"^b must be from 0 to 1 for an array of that size, got {b}$"
    with pytest.raises(ShapeError, match=words):
        mask(b, 0, np.array([[0]]), np.array([0]))
    with pytest.raises(ShapeError, match=words):
        mask.block(b, Span(0, 0), Span(0, 0))


def test_it_reads_as_it_is_written_and_is_a_value() -> None:
    assert repr(Padding([3, 1])) == "Padding([3, 1])"
    assert repr(Padding(starts=[0, 2])) == "Padding(starts=[0, 2])"
    assert repr(Padding([5], starts=[2])) == "Padding([5], starts=[2])"
    assert Padding(np.array([3, 1])) == Padding((3, 1))
    assert hash(Padding([3, 1])) == hash(Padding((3, 1)))
