"""Columns shows the same keys of every period."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import BlockWise, Causal, Chunked, Columns, PerHead, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.by_hand("masks/columns")
@pytest.mark.parametrize(("period", "first", "count"), [(1, 0, 1), (4, 0, 1), (4, 3, 1), (5, 1, 3), (3, 0, 3)])
def test_it_equals_the_list_by_hand(period: int, first: int, count: int) -> None:
    mask = Columns(period, first, count)
    shown = [block * period + first + n for block in range(-3, 20) for n in range(count)]
    check_rule(mask, lambda b, h, q, k: k in shown, range(-1, 3), range(-3, 14), heads=2)
    check_pairs(mask, range(2), range(-3, 14))
    check_blocks(mask, range(2), range(-3, 14))


@given(st.integers(1, 8), st.data(), st.integers(-20, 20), st.integers(0, 20))
def test_its_block_answers_are_exact(period: int, data: st.DataObject, low: int, more: int) -> None:
    first = data.draw(st.integers(0, period - 1))
    mask = Columns(period, first, data.draw(st.integers(1, period - first)))
    seen = mask(0, 0, np.array([[0]]), np.arange(low, low + more + 1))
    wanted = Answer.ALL if seen.all() else Answer.LOOK if seen.any() else Answer.NONE
    assert mask.block(0, Span(0, 9), Span(low, low + more)) is wanted


@pytest.mark.by_hand("masks/columns: sparse transformer fixed")
@pytest.mark.parametrize(("length", "summary"), [(4, 1), (4, 2), (3, 3)])
def test_the_fixed_pattern_of_the_sparse_transformer(length: int, summary: int) -> None:
    """arXiv 1904.10509 §4.3: head 0 its block up to self, head 1 the last c of every block."""
    mask = PerHead((Causal() & Chunked(length), Causal() & Columns(length, length - summary, summary)))

    def rule(b: int, h: int, q: int, k: int) -> bool:
        own = list(range(q - q % length, q + 1))
        summaries = [j for j in range(q + 1) if j % length in range(length - summary, length)]
        return k in (own if h == 0 else summaries)

    check_rule(mask, rule, range(14), range(14), heads=2)
    check_blocks(mask, range(14), range(14), heads=2)
    late = PerHead((Causal() & Chunked(length), Causal() & Columns(length, 0, summary)))
    if summary < length:
        with pytest.raises(AssertionError, match="but the rule"):
            check_rule(late, rule, range(14), range(14), heads=2)


def phi3_small(heads: int, stride: int, local: int, size: int) -> Any:
    step = max(1, stride // heads)
    columns = tuple(Columns(stride, (stride - 1 - h * step) % stride) for h in range(heads))
    return Causal() & BlockWise(size, Window(local) | PerHead(columns))


@pytest.mark.by_hand("masks/columns: phi-3-small")
@pytest.mark.no_peer("masks/columns: phi-3-small", "the model's code runs on GPUs; mlx-lm's runs in MLX alone")
@pytest.mark.parametrize(("heads", "stride"), [(2, 4), (5, 3), (1, 2)])
def test_the_vertical_stride_of_phi_3_small(heads: int, stride: int) -> None:
    size, local, length = 2, 2, 21
    step = max(1, int(stride / heads))

    def rule(b: int, h: int, q: int, k: int) -> bool:
        near = q // size - k // size < local
        return k <= q and (near or (k // size + h * step + 1) % stride == 0)

    check_rule(phi3_small(heads, stride, local, size), rule, range(length), range(length), heads=heads)
    check_blocks(phi3_small(heads, stride, local, size), range(length), range(length), heads=heads)
    alike = Causal() & BlockWise(size, Window(local) | Columns(stride, stride - 1))
    if heads > 1:
        with pytest.raises(AssertionError, match="but the rule"):
            check_rule(alike, rule, range(length), range(length), heads=heads)


@dataclass(frozen=True, repr=False)
class Wide(Columns):
    """Mutant: one column too many."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        shape = np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions))
        return np.broadcast_to(np.subtract(k_positions, self.first) % self.period <= self.count, shape).copy()


@dataclass(frozen=True, repr=False)
class ByQuery(Columns):
    """Mutant: asks the queries in place of the keys."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return super().__call__(b, h, k_positions, q_positions)


@pytest.mark.parametrize("mutant", [Wide, ByQuery])
def test_other_patterns_are_rejected(mutant: type[Columns]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(mutant(5, 2, 2), lambda b, h, q, k: k in (2, 3, 7, 8), range(9), range(10))


@dataclass(frozen=True, repr=False)
class Flat(Columns):
    """Mutant: forgets that a span may cross into the next period."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        hidden = k.low % self.period >= self.first + self.count
        return Answer.NONE if hidden else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class Late(Columns):
    """Mutant: the border belongs to the columns."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        start = (k.low - self.first) % self.period
        return Answer.ALL if start + k.high - k.low <= self.count else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [Flat, Late])
def test_wrong_block_answers_are_rejected(mutant: type[Columns]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(5, 1, 2), range(2), range(12))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 0), "^period must be an integer >= 1, got 0$"),
        ((4, -1), "^first must be an integer >= 0, got -1$"),
        ((4, 0, 0), "^count must be an integer >= 1, got 0$"),
        ((4, True), "^first must be an integer >= 0, got True$"),
        ((4, 3, 2), r"^first \+ count must be at most period, 4, got 3 \+ 2$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Columns(*arguments)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Columns(4, 3)) == "Columns(4, 3)"
    assert repr(Columns(4, 2, count=2)) == "Columns(4, 2, 2)"
    assert Columns(np.int64(4), 3) == Columns(4, 3)  # type: ignore[arg-type]
