"""Explicit answers from an array, by row number or by position."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.masks import Explicit
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


def drawn(shape: tuple[int, ...], seed: int = 0, share: float = 0.5) -> Any:
    return np.random.default_rng(seed).random(shape) < share


@pytest.mark.by_hand("masks/explicit")
@pytest.mark.parametrize("shape", [(5, 7), (1, 1, 5, 7), (3, 1, 5, 7), (1, 2, 5, 7), (3, 2, 5, 7)])
def test_by_row_number_it_equals_the_entry(shape: tuple[int, ...]) -> None:
    array = drawn(shape)
    full = array.reshape((1,) * (4 - len(shape)) + shape).tolist()
    batch, heads = len(full), len(full[0])
    mask = Explicit(array)
    check_rule(mask, lambda b, h, q, k: full[b % batch][h % heads][q][k], range(5), range(7), batch=3, heads=2)
    check_pairs(mask, range(5), range(7), batch=3, heads=2)
    check_blocks(mask, range(5), range(7), batch=3, heads=2)


@given(st.integers(0, 999), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
def test_its_block_answers_hold_for_any_density(seed: int, share: float) -> None:
    check_blocks(Explicit(drawn((2, 3, 4, 5), seed, share)), range(4), range(5), batch=2, heads=3)


@given(st.permutations(range(-3, 9)), st.permutations(range(100, 112)), st.integers(1, 12), st.integers(1, 12))
def test_by_position_it_equals_the_entry_that_stands_there(q: list[int], k: list[int], rows: int, columns: int) -> None:
    q, k = q[:rows], k[:columns]
    array = drawn((2, 2, rows, columns))
    table = {
        (b, h, q[i], k[j]): bool(array[b, h, i, j])
        for b in range(2)
        for h in range(2)
        for i in range(rows)
        for j in range(columns)
    }
    mask = Explicit(array, q_positions=q, k_positions=k)
    check_rule(mask, lambda *pair: table[pair], sorted(q), k[::-1], batch=2, heads=2)
    check_blocks(mask, q, k, batch=2, heads=2)


@pytest.mark.law("masks/explicit", "an answer for a block is never wrong", "bits")
def test_positions_may_differ_between_sequences() -> None:
    array = drawn((2, 1, 2, 3))
    mask = Explicit(array, q_positions=[[5, 6], [8, 5]], k_positions=[[0, 1, 2], [2, 0, 3]])
    assert mask(0, 0, np.array([[6]]), np.array([2, 0])).tolist() == [[array[0, 0, 1, 2], array[0, 0, 1, 0]]]
    assert mask(1, 0, np.array([[5]]), np.array([2, 3])).tolist() == [[array[1, 0, 1, 0], array[1, 0, 1, 2]]]
    check_blocks(mask, [5], [0, 2], batch=2)
    with pytest.raises(PositionError, match=r"^k_positions must be among the rows .*, the 3 that were given, got 1$"):
        mask(1, 0, np.array([[5]]), np.array([1]))
    both = mask(np.arange(2)[:, None, None], 0, np.array([[5]]), np.array([0, 2]))
    assert both.tolist() == [[[array[0, 0, 0, 0], array[0, 0, 0, 2]]], [[array[1, 0, 1, 1], array[1, 0, 1, 0]]]]


def test_a_time_axis_of_one_serves_every_position() -> None:
    mask = Explicit(np.array([[True, False, True]]))
    assert mask(0, 0, np.array([[-4], [70]]), np.arange(3)).tolist() == [[True, False, True]] * 2
    assert mask.block(0, Span(-4, 70), Span(1, 1)) is Answer.NONE


@pytest.mark.parametrize(("q", "k"), [(2, 0), (-1, 0), (0, 3), (0, -1)])
def test_a_row_that_is_not_there_raises_and_is_never_certain(q: int, k: int) -> None:
    mask = Explicit(np.ones((2, 3), bool))
    name, last, lost = ("q_positions", 1, q) if q else ("k_positions", 2, k)
    words = f"^{name} must be among the rows of the array, 0 to {last}, got {lost}$"
    with pytest.raises(PositionError, match=words):
        mask(0, 0, np.array([[0], [q]]), np.array([0, k]))
    assert mask.block(0, Span(min(q, 0), max(q, 0)), Span(min(k, 0), max(k, 0))) is Answer.LOOK


@pytest.mark.parametrize("position", [-1, 4, 6, 8, 99])
def test_a_position_that_was_not_given_raises_and_is_never_certain(position: int) -> None:
    mask = Explicit(np.ones((2, 3), bool), q_positions=[7, 5], k_positions=[0, 1, 2])
    with pytest.raises(PositionError, match=f"the 2 that were given, got {position}$"):
        mask(0, 0, np.array([[5], [position]]), np.array([0]))
    assert mask.block(0, Span(min(position, 5), max(position, 5)), Span(0, 2)) is Answer.LOOK


@pytest.mark.parametrize(
    ("positions", "error", "words"),
    [
        ([3, 3], PositionError, r"^q_positions must not repeat a position, got \(2,\) of which 1 differ$"),
        ([[1, 2], [4, 4]], PositionError, r"^q_positions must not repeat a position, got \(2, 2\) of which 1 differ$"),
        ([3], ShapeError, r"^q_positions must have shape \[2\] or \[B, 2\] like the array, got \(1,\)$"),
        (3, ShapeError, r"^q_positions must have shape \[2\] or \[B, 2\] like the array, got \(\)$"),
        ([[[1, 2]]], ShapeError, r"^q_positions must have shape \[2\] or \[B, 2\] like the array, got \(1, 1, 2\)$"),
        ([0.0, 1.0], PositionError, "^q_positions must be integers, got float64$"),
        ([False, True], PositionError, "^q_positions must be integers, got bool$"),
    ],
)
def test_bad_positions_are_named(positions: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Explicit(np.ones((2, 3), bool), q_positions=positions)


@pytest.mark.parametrize("array", [np.ones((2, 2)), np.ones((2, 2), int), [[0, 1]], "x", None])
def test_an_array_that_is_not_boolean_is_named(array: Any) -> None:
    with pytest.raises(DtypeError, match=r"^array must be boolean, True = may see, got "):
        Explicit(array)


@pytest.mark.parametrize("shape", [(), (2,), (2, 2, 2), (1, 1, 1, 2, 2)])
def test_an_array_of_another_rank_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"^array must have shape \[T, S\] or \[B, H, T, S\], got \("):
        Explicit(np.ones(shape, bool))


def test_a_sequence_or_a_head_that_is_not_there_raises() -> None:
    mask, at = Explicit(np.ones((2, 3, 1, 1), bool)), np.array([0])
    with pytest.raises(ShapeError, match=r"^b must be from 0 to 1 for an array of that size, got 2$"):
        mask(2, 0, at, at)
    with pytest.raises(ShapeError, match=r"^h must be from 0 to 2 for an array of that size, got -1$"):
        mask(0, -1, at, at)
    with pytest.raises(ShapeError, match=r"^b must be from 0 to 1 for an array of that size, got 2$"):
        mask.block(2, Span(0, 0), Span(0, 0))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_an_empty_array_answers_empty_questions(shape: tuple[int, int]) -> None:
    mask = Explicit(np.ones(shape, bool), q_positions=np.arange(shape[0]), k_positions=np.arange(shape[1]))
    for one in (mask, Explicit(np.ones(shape, bool))):
        assert one(0, 0, np.arange(shape[0])[:, None], np.arange(shape[1])).shape == shape


@dataclass(frozen=True, init=False, repr=False)
class FirstHead(Explicit):
    """Mutant: head 0 answers for all heads."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Explicit(np.asarray(self.table.array)[:, :1]).block(b, q, k)


@dataclass(frozen=True, init=False, repr=False)
class FirstSequence(Explicit):
    """Mutant: sequence 0 answers for all."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(0, q, k)


@dataclass(frozen=True, init=False, repr=False)
class Corners(Explicit):
    """Mutant: looks at the corners of a block only."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        answers = {super(Corners, self).block(b, Span(i, i), Span(j, j)) for i in q for j in k}
        return answers.pop() if len(answers) == 1 else Answer.LOOK


@dataclass(frozen=True, init=False, repr=False)
class HalfOpen(Explicit):
    """Mutant: leaves the last key out."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, q, Span(k.low, max(k.low, k.high - 1)))


@pytest.mark.parametrize("mutant", [FirstHead, FirstSequence, Corners, HalfOpen])
def test_wrong_block_answers_are_rejected(mutant: Any) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(drawn((2, 2, 6, 6), 1, 0.7)), range(6), range(6), batch=2, heads=2)


def test_by_row_in_place_of_by_position_is_rejected() -> None:
    """Mutant: positions are ignored, as code that infers them from row numbers does."""
    array = drawn((4, 4))
    at = [3, 0, 2, 1]
    rule = {(at[i], at[j]): bool(array[i, j]) for i in range(4) for j in range(4)}
    check_rule(Explicit(array, at, at), lambda b, h, q, k: rule[q, k], range(4), range(4))
    with pytest.raises(AssertionError, match=r"but the rule (hides|shows) it"):
        check_rule(Explicit(array), lambda b, h, q, k: rule[q, k], range(4), range(4))


def test_it_is_a_value() -> None:
    array = np.ones((2, 2), bool)
    mask = Explicit(array, k_positions=[4, 5])
    array[:] = False
    assert mask(0, 0, np.array([[0], [1]]), np.array([4, 5])).all()
    assert mask == Explicit(np.ones((2, 2), bool), k_positions=np.array([4, 5]))
    assert hash(mask) == hash(Explicit(np.ones((2, 2), bool), k_positions=(4, 5)))
    assert mask != Explicit(np.ones((2, 2), bool))
    assert mask != Explicit(np.ones((2, 2), bool), k_positions=[5, 4])
    assert mask.table != mask.table.array.tolist()
    assert repr(mask) == "Explicit(<bool [1, 1, 2, 2]>, k_positions=<2>)"
