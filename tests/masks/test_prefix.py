"""Prefix shows the first positions to every query."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Prefix
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.law("masks/prefix", "an answer for a block is never wrong", "bits")
@pytest.mark.by_hand("masks/prefix")
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_it_equals_the_list_by_hand(number: int) -> None:
    first = list(range(number))
    check_rule(Prefix(number), lambda b, h, q, k: k in first, range(-2, number + 3), range(number + 3), heads=2)
    check_pairs(Prefix(number), range(-2, number + 3), range(number + 3))
    check_blocks(Prefix(number), range(-2, number + 3), range(number + 3))


def test_a_prefix_language_model_is_two_sided_in_the_prefix_and_causal_behind_it() -> None:
    at = np.arange(5)
    seen = (Causal() | Prefix(2))(0, 0, at[:, None], at)
    assert [np.flatnonzero(row).tolist() for row in seen] == [[0, 1], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4]]


@dataclass(frozen=True, repr=False)
class Late(Prefix):
    """Mutant: the border belongs to the first keys."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Prefix(self.length + 1).block(b, q, k)


@dataclass(frozen=True, repr=False)
class Early(Prefix):
    """Mutant: one key too few."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Prefix(self.length - 1).block(b, q, k)


@dataclass(frozen=True, repr=False)
class ByQuery(Prefix):
    """Mutant: asks the queries in place of the keys."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, k, q)


@pytest.mark.parametrize("mutant", [Late, Early, ByQuery])
def test_wrong_block_answers_are_rejected(mutant: type[Prefix]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(3), range(7), range(7))


@pytest.mark.parametrize("number", [-1, True, 1.5, "2", None])
def test_a_bad_length_is_named(number: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^length must be an integer >= 0, got {number!r}$"):
        Prefix(number)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Prefix(3)) == "Prefix(3)"
    assert Prefix(np.int64(3)) == Prefix(3)  # type: ignore[arg-type]
