"""KeysAt shows listed keys to all; QueriesAt shows all keys to listed queries."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import KeysAt, QueriesAt, Sink, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span

LISTS = [[0], [3], [0, 1, 2], [5, 2, 5], [0, 8], [40]]


@pytest.mark.by_hand("masks/global_tokens")
@pytest.mark.parametrize("listed", LISTS)
def test_they_equal_the_list_by_hand(listed: list[int]) -> None:
    at = range(-1, 9)
    check_rule(KeysAt(listed), lambda b, h, q, k: k in listed, at, at, heads=2)
    check_rule(QueriesAt(listed), lambda b, h, q, k: q in listed, at, at, heads=2)
    for mask in (KeysAt(listed), QueriesAt(listed)):
        check_pairs(mask, at, at)
        check_blocks(mask, at, at)


@pytest.mark.by_hand("masks/global_tokens: longformer")
def test_longformer_sees_its_window_and_global_tokens_both_ways() -> None:
    mask = Window(3, ahead=2) | KeysAt([0, 7]) | QueriesAt([0, 7])
    check_rule(mask, lambda b, h, q, k: abs(q - k) <= 2 or q in (0, 7) or k in (0, 7), range(12), range(12))
    check_blocks(mask, range(12), range(12))


def test_the_first_keys_are_a_sink() -> None:
    at = np.arange(6)
    assert np.array_equal(KeysAt([0, 1])(0, 0, at[:, None], at), Sink(2)(0, 0, at[:, None], at))


@dataclass(frozen=True, repr=False)
class Turned(KeysAt):
    """Mutant: asks the queries."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return super().__call__(b, h, k_positions, q_positions)


def test_asking_the_other_side_is_rejected() -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(Turned([2]), lambda b, h, q, k: k == 2, range(4), range(4))


@dataclass(frozen=True, repr=False)
class Ends(KeysAt):
    """Mutant: looks at the ends of the span alone."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        inside = {end in self.positions for end in k}
        return Answer.LOOK if len(inside) == 2 else Answer.ALL if inside.pop() else Answer.NONE


@dataclass(frozen=True, repr=False)
class Between(KeysAt):
    """Mutant: everything between the first and the last."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        inside = self.positions[0] <= k.low and k.high <= self.positions[-1]
        return Answer.ALL if inside else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [Ends, Between])
def test_wrong_block_answers_are_rejected(mutant: type[KeysAt]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant([2, 5]), range(2), range(8))


@pytest.mark.parametrize("kind", [KeysAt, QueriesAt])
@pytest.mark.parametrize(
    ("positions", "words"),
    [
        ([], "^positions must be a non-empty sequence of integers >= 0, got "),
        (3, "^positions must be a non-empty sequence of integers >= 0, got 3$"),
        ([0, -1], r"^positions\[1\] must be an integer >= 0, got -1$"),
        ([True], r"^positions\[0\] must be an integer >= 0, got True$"),
    ],
)
def test_bad_positions_are_named(kind: Any, positions: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        kind(positions)


def test_they_read_as_they_are_written() -> None:
    assert repr(KeysAt([3, 0]) | QueriesAt(np.array([3]))) == "KeysAt([0, 3]) | QueriesAt([3])"
    assert KeysAt([3, 0, 3]) == KeysAt((0, 3))
