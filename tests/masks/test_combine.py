"""Joined masks: the algebra, the block answers of any combination, and how they read."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn import masks
from kvattn.errors import ArgumentError
from kvattn.masks import (
    Both,
    Causal,
    Chunked,
    Dilated,
    Document,
    Either,
    Everything,
    Explicit,
    Inverse,
    Padding,
    Prefix,
    Sink,
    Tree,
    Window,
    both,
    either,
    inverse,
)
from kvattn.testing.mask_laws import check_blocks, check_pairs
from kvattn.typing import Answer, Mask, Span

LENGTH = 9


@st.composite
def plain(draw: st.DrawFn) -> Mask:
    """Any single mask, with borders near the positions that are asked for."""
    n = draw(st.integers(1, LENGTH + 1))
    few = st.integers(0, LENGTH + 1)
    seed = draw(st.integers(0, 99))
    array = np.random.default_rng(seed).random((2, 2, LENGTH, LENGTH)) < draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    choices: list[Mask] = [
        Causal(),
        Everything(),
        Window(n, ahead=draw(st.integers(0, 2))),
        Sink(n - 1),
        Prefix(n - 1),
        Chunked(n),
        Dilated(draw(st.integers(1, 4)), draw(st.integers(1, 4))),
        Document(draw(st.lists(st.integers(-1, 2), min_size=LENGTH, max_size=LENGTH))),
        Padding(draw(st.lists(few, min_size=2, max_size=2)), starts=draw(st.lists(few, min_size=2, max_size=2))),
        Tree([draw(st.integers(-1, node - 1)) for node in range(4)], start=LENGTH - 4),
        Explicit(array),
    ]
    return draw(st.sampled_from(choices))


joined = st.recursive(
    plain(),
    lambda part: st.one_of(st.builds(both, part, part), st.builds(either, part, part), st.builds(inverse, part)),
    max_leaves=5,
)

positions = st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=6, unique=True)


@given(joined, positions, positions)
@settings(max_examples=100)
def test_block_answers_of_any_combination_hold(mask: Mask, q: list[int], k: list[int]) -> None:
    check_blocks(mask, q, k, batch=2, heads=2)


@given(joined, positions, positions)
def test_pairs_of_any_combination_stand_for_themselves(mask: Mask, q: list[int], k: list[int]) -> None:
    check_pairs(mask, q, k, batch=2, heads=2)


@pytest.mark.parametrize("n", [255, 256, 257])
@pytest.mark.parametrize("length", [511, 512, 513])
def test_block_answers_hold_where_the_kernels_blocks_meet(n: int, length: int) -> None:
    mask = Causal() & (Window(n) | Sink(n - 250)) & ~Chunked(n) | Prefix(n)
    check_blocks(mask, [length - n, length - n + 1, length - 1], [0, 5, 6, 7, 255, 256, 257, length - n, length - 1])


def asked(mask: Any) -> Any:
    at = np.arange(-2, LENGTH)
    return mask(0, 0, at[:, None], at)


def test_joining_is_logic_on_each_pair() -> None:
    a, b = Causal(), Chunked(3)
    for row_a, row_b, row_and, row_or, row_not in zip(
        asked(a), asked(b), asked(a & b), asked(a | b), asked(~a), strict=True
    ):
        for x, y, x_and_y, x_or_y, not_x in zip(row_a, row_b, row_and, row_or, row_not, strict=True):
            assert x_and_y == (1 if x and y else 0)
            assert x_or_y == (1 if x or y else 0)
            assert not_x == (0 if x else 1)


@given(joined, joined)
def test_de_morgan(a: Mask, b: Mask) -> None:
    at = np.arange(LENGTH)
    left, right = inverse(both(a, b)), either(inverse(a), inverse(b))
    assert np.array_equal(left(0, 0, at[:, None], at), right(0, 0, at[:, None], at))


@given(joined)
def test_everything_changes_nothing_and_its_inverse_hides_all(mask: Mask) -> None:
    at = np.arange(LENGTH)
    answer = mask(0, 0, at[:, None], at)
    assert np.array_equal(both(mask, Everything())(0, 0, at[:, None], at), answer)
    assert np.array_equal(either(mask, ~Everything())(0, 0, at[:, None], at), answer)
    q = k = Span(0, LENGTH - 1)
    assert both(mask, Everything()).block(0, q, k) is mask.block(0, q, k)
    assert both(mask, ~Everything()).block(0, q, k) is Answer.NONE
    assert either(mask, Everything()).block(0, q, k) is Answer.ALL


@dataclass(frozen=True)
class Says:
    """A mask with a given block answer, as somebody else may write it: without operators."""

    answer: Answer

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return np.ones(np.broadcast_shapes(q_positions.shape, k_positions.shape), bool)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.answer


ALL, NONE, LOOK = Answer.ALL, Answer.NONE, Answer.LOOK


@pytest.mark.parametrize(
    ("left", "right", "and_", "or_"),
    [
        (ALL, ALL, ALL, ALL),
        (ALL, NONE, NONE, ALL),
        (ALL, LOOK, LOOK, ALL),
        (NONE, NONE, NONE, NONE),
        (NONE, LOOK, NONE, LOOK),
        (LOOK, LOOK, LOOK, LOOK),
    ],
)
def test_one_sure_part_settles_a_block(left: Answer, right: Answer, and_: Answer, or_: Answer) -> None:
    span = Span(0, 3)
    for a, b in ((left, right), (right, left)):
        assert both(Says(a), Says(b)).block(0, span, span) is and_
        assert either(Says(a), Says(b)).block(0, span, span) is or_
    assert inverse(Says(left)).block(0, span, span) is {ALL: NONE, NONE: ALL, LOOK: LOOK}[left]


def test_a_mask_without_operators_joins_too() -> None:
    assert repr(Causal() & Says(ALL)) == "Causal() & Says(answer=<Answer.ALL: 'all'>)"
    assert isinstance(both(Says(ALL), Causal()), Both)


@dataclass(frozen=True, repr=False)
class AnyAll(Both):
    """Mutant: one ALL settles an and."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return either(self.left, self.right).block(b, q, k)


@dataclass(frozen=True, repr=False)
class AnyNone(Either):
    """Mutant: one NONE settles an or."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return both(self.left, self.right).block(b, q, k)


@dataclass(frozen=True, repr=False)
class LeftOnly(Both):
    """Mutant: the right part is forgotten."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.left.block(b, q, k)


@dataclass(frozen=True, repr=False)
class Unturned(Inverse):
    """Mutant: the answer is not turned round."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.mask.block(b, q, k)


@pytest.mark.parametrize(
    "mutant",
    [
        AnyAll(Causal(), Chunked(3)),
        AnyNone(Causal(), Chunked(3)),
        LeftOnly(Causal(), Chunked(3)),
        Unturned(Causal()),
        both(Causal(), Unturned(Chunked(3))),
    ],
    ids=["AnyAll", "AnyNone", "LeftOnly", "Unturned", "Unturned inside"],
)
def test_wrong_algebra_is_rejected(mutant: Mask) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant, range(8), range(8))


@pytest.mark.parametrize(
    "text",
    [
        "Causal() & Window(4)",
        "Causal() & (Window(4) | Sink(2))",
        "(Causal() & Window(4)) | Prefix(3)",
        "Causal() & Window(4) & Chunked(8)",
        "Causal() & (Window(4) & Chunked(8))",
        "Causal() | (Sink(1) | Sink(2))",
        "~(Causal() & ~Window(4, ahead=2))",
        "~~Everything()",
        "Padding([3, 1], starts=[0, 1]) & Dilated(3, rate=2) & Tree([-1, 0], start=4)",
    ],
)
def test_it_reads_as_it_is_written(text: str) -> None:
    mask = eval(text, vars(masks))  # noqa: S307
    assert repr(mask) == text
    assert mask == eval(text, vars(masks))  # noqa: S307
    assert hash(mask) == hash(eval(text, vars(masks)))  # noqa: S307


def test_order_and_operator_make_different_values() -> None:
    assert Causal() & Window(4) != Window(4) & Causal()
    assert len({Causal() & Window(4), Causal() | Window(4), ~Causal(), Causal()}) == 4


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (True, "got bool$"),
        (None, "got NoneType$"),
        (lambda b, h, q, k: q >= k, "got function$"),
        (np.ones((2, 2), bool), r"got ndarray; an array becomes a mask as Explicit\(array\)$"),
    ],
    ids=["bool", "None", "function", "array"],
)
def test_what_is_no_mask_is_named(other: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=f"^right must be a mask, callable and with a block method, {words}"):
        Causal() & other
    with pytest.raises(ArgumentError, match=f"^left must be a mask, callable and with a block method, {words}"):
        either(other, Causal())
    with pytest.raises(ArgumentError, match=f"^mask must be a mask, callable and with a block method, {words}"):
        inverse(other)
