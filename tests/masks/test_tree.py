"""Tree shows a node the committed past, its ancestors and itself."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, PositionError
from kvattn.masks import Causal, Tree
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree of up to seven nodes behind up to three tokens."""
    parents = [draw(st.integers(-1, node - 1)) for node in range(draw(st.integers(1, 7)))]
    return Tree(parents, start=draw(st.integers(0, 3)))


def path(tree: Tree, arrival: int) -> list[int]:
    """Arrival positions from a token back to the first, climbing parent by parent."""
    seen = []
    while arrival >= tree.start:
        seen.append(arrival)
        parent = tree.parents[arrival - tree.start]
        arrival = tree.start - 1 if parent == -1 else tree.start + parent
    return seen + list(range(arrival, -1, -1))


@pytest.mark.by_hand("masks/tree")
@given(trees())
def test_it_equals_the_climb_by_hand(tree: Tree) -> None:
    at = range(tree.start + len(tree.parents))
    check_rule(tree, lambda b, h, q, k: k in path(tree, q), at, at, heads=2)
    check_pairs(tree, range(-1, len(at)), at)


@pytest.mark.law("masks/tree", "an answer for a block is never wrong", "bits")
@given(trees())
def test_its_block_answers_hold(tree: Tree) -> None:
    check_blocks(tree, range(-1, tree.start + len(tree.parents)), range(tree.start + len(tree.parents)))


@given(trees())
def test_a_position_is_the_number_of_tokens_before_it_on_its_path(tree: Tree) -> None:
    lengths = [len(path(tree, tree.start + node)) for node in range(len(tree.parents))]
    assert tree.positions.tolist() == [length - 1 for length in lengths]
    assert tree.depths.tolist() == [length - 1 - tree.start for length in lengths]
    assert tree.positions.dtype == tree.depths.dtype == np.int64


@pytest.mark.parametrize("start", [0, 3, 256])
def test_a_chain_is_causal(start: int) -> None:
    chain = Tree([-1, 0, 1, 2], start=start)
    at = np.arange(max(0, start - 3), start + 4)
    assert np.array_equal(chain(0, 0, at[:, None], at), Causal()(0, 0, at[:, None], at))


def test_siblings_do_not_see_each_other() -> None:
    seen = Tree([-1, -1], start=1)(0, 0, np.array([[1], [2]]), np.arange(3))
    assert seen.tolist() == [[True, True, False], [True, False, True]]


def test_a_position_behind_the_last_node_raises_and_is_never_certain() -> None:
    tree = Tree([-1, 0], start=4)
    with pytest.raises(PositionError, match=r"^q_positions must be at most 5, the last node, got 6$"):
        tree(0, 0, np.array([[6]]), np.array([0]))
    with pytest.raises(PositionError, match=r"^k_positions must be at most 5, the last node, got 9$"):
        tree(0, 0, np.array([[4]]), np.array([0, 9]))
    assert tree.block(0, Span(4, 6), Span(0, 3)) is Answer.LOOK


@dataclass(frozen=True, repr=False)
class AsCausal(Tree):
    """Mutant: a cousin that arrived earlier is taken for an ancestor."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Causal().block(b, q, k)


@dataclass(frozen=True, repr=False)
class PastForAll(Tree):
    """Mutant: queries in the past see all of it, also what came later."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.ALL if k.high < self.start else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class Shifted(Tree):
    """Mutant: node 0 is taken to stand one position later."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, *(Span(s.low - 1, s.high - 1) for s in (q, k)))


@dataclass(frozen=True, repr=False)
class FirstOnly(Tree):
    """Mutant: the first query's ancestors answer for all."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, Span(q.low, q.low), k)


@pytest.mark.parametrize("mutant", [AsCausal, PastForAll, Shifted, FirstOnly])
def test_wrong_block_answers_are_rejected(mutant: Any) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant([-1, 0, 0, 1, -1], start=3), range(8), range(8))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0], 0), r"^parents\[0\] must be a number below 0, got 0$"),
        (([-1, 2, 0], 0), r"^parents\[1\] must be a number below 1, got 2$"),
        (([-2], 0), r"^parents\[0\] must be an integer >= -1, got -2$"),
        (([], 0), r"^parents must be a non-empty sequence of integers >= -1, got \[\]$"),
        (([-1], -1), "^start must be an integer >= 0, got -1$"),
        (([-1], 1.0), r"^start must be an integer >= 0, got 1\.0$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Tree(*arguments)


def test_it_reads_as_it_is_written_and_is_a_value() -> None:
    tree = Tree(np.array([-1, 0]), start=np.int64(3))  # type: ignore[arg-type]
    assert repr(tree) == "Tree([-1, 0], start=3)"
    assert tree == Tree((-1, 0), start=3)
    assert hash(tree) == hash(Tree((-1, 0), start=3))
    with pytest.raises(ValueError, match="read-only"):
        tree.depths[0] = 1
