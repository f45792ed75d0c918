"""Causal shows self and what came before, whatever the rows are numbered."""

from dataclasses import dataclass

import numpy as np
import pytest

from kvattn.masks import Causal
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span

AT = [-3, -1, 0, 1, 2, 3, 7, 8, 9, 255, 256, 257]


def by_hand(b: int, h: int, q: int, k: int) -> bool:
    """Walk back from the query until the key turns up."""
    return k in range(q, min(AT) - 1, -1)


@pytest.mark.by_hand("masks/causal")
def test_it_equals_the_walk_by_hand() -> None:
    check_rule(Causal(), by_hand, AT, AT, heads=2)


def test_every_pair_stands_for_itself() -> None:
    check_pairs(Causal(), AT[::-1], AT)


@pytest.mark.law("masks/causal", "an answer for a block is never wrong", "bits")
def test_its_block_answers_hold() -> None:
    check_blocks(Causal(), AT, AT)


@pytest.mark.parametrize(
    ("q", "k", "answer"),
    [
        (Span(3, 5), Span(0, 2), Answer.ALL),
        (Span(3, 5), Span(0, 3), Answer.ALL),
        (Span(3, 5), Span(0, 4), Answer.LOOK),
        (Span(3, 5), Span(5, 9), Answer.LOOK),
        (Span(3, 5), Span(6, 9), Answer.NONE),
        (Span(-5, -1), Span(0, 9), Answer.NONE),
    ],
)
def test_it_is_certain_wherever_it_can_be(q: Span, k: Span, answer: Answer) -> None:
    assert Causal().block(0, q, k) is answer


def test_a_query_before_all_keys_sees_none() -> None:
    assert not Causal()(0, 0, np.array([[-2], [-1]]), np.arange(5)).any()


@dataclass(frozen=True)
class Sharp(Causal):
    """Mutant: the diagonal itself is taken for hidden."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.NONE if q.high <= k.low else super().block(b, q, k)


@dataclass(frozen=True)
class Generous(Causal):
    """Mutant: the last query answers for all."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.ALL if q.high >= k.high else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [Sharp(), Generous()])
def test_wrong_block_answers_are_rejected(mutant: Causal) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant, AT, AT)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Causal()) == "Causal()"
    assert Causal() == Causal()
    assert hash(Causal()) == hash(Causal())
