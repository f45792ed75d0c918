"""BlockWise asks another mask about blocks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import BlockWise, Causal, Chosen, Chunked, Everything, KeysAt, QueriesAt, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.by_hand("masks/block_wise")
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_block_diffusion_sees_its_block_and_those_before(size: int) -> None:
    mask = BlockWise(size, Causal())
    check_rule(mask, lambda b, h, q, k: k < (q // size + 1) * size, range(13), range(13), heads=2)
    check_pairs(mask, range(6), range(6))
    check_blocks(mask, range(-3, 13), range(-3, 13))


TABLE = [[[4, 2], [3, 3], [4, 5], [0, 5], [1, 0], [2, 1]], [[3, 5], [4, 5], [5, 4], [1, 0], [0, 2], [3, 2]]]


def big_bird(size: int, table: Any, last: int) -> BlockWise:
    ends = [0, last]
    return BlockWise(size, Window(2, ahead=1) | KeysAt(ends) | QueriesAt(ends) | Chosen(table))


@pytest.mark.by_hand("masks/block_wise: big bird")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_big_bird_sees_three_blocks_the_ends_and_the_chosen(size: int) -> None:
    def rule(b: int, h: int, q: int, k: int) -> bool:
        mine, theirs = q // size, k // size
        return mine in (0, 5) or theirs in (0, 5) or theirs in (mine - 1, mine, mine + 1) or theirs in TABLE[h][mine]

    at = range(6 * size)
    check_rule(big_bird(size, TABLE, 5), rule, at, at, heads=2)
    check_blocks(big_bird(size, TABLE, 5), at, at, heads=2)
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(big_bird(size, TABLE[::-1], 5), rule, at, at, heads=2)


def test_what_other_masks_say_about_blocks() -> None:
    at = np.arange(-3, 9)
    for size in (1, 2, 3):
        blocks = BlockWise(size, Window(1))(0, 0, at[:, None], at)
        assert np.array_equal(blocks, Chunked(size)(0, 0, at[:, None], at))
    assert BlockWise(3, Everything())(0, 0, at[:, None], at).all()
    nested = BlockWise(2, BlockWise(3, Causal()))(0, 0, at[:, None], at)
    assert np.array_equal(nested, BlockWise(6, Causal())(0, 0, at[:, None], at))


@dataclass(frozen=True, repr=False)
class Rounded(BlockWise):
    """Mutant: truncates towards zero and so starts blocks one late."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return self.mask(b, h, (np.asarray(q_positions) + 1) // self.size, (np.asarray(k_positions) + 1) // self.size)


@dataclass(frozen=True, repr=False)
class KeysOnly(BlockWise):
    """Mutant: leaves the queries tokens."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return self.mask(b, h, q_positions, np.asarray(k_positions) // self.size)


@dataclass(frozen=True, repr=False)
class TokenCausal(BlockWise):
    """Mutant: causal inside the block, too."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return super().__call__(b, h, q_positions, k_positions) & np.greater_equal(q_positions, k_positions)


@pytest.mark.parametrize("mutant", [Rounded, KeysOnly, TokenCausal])
def test_other_blocks_are_rejected(mutant: type[BlockWise]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(mutant(4, Causal()), lambda b, h, q, k: k < (q // 4 + 1) * 4, range(9), range(9))


@dataclass(frozen=True, repr=False)
class Unscaled(BlockWise):
    """Mutant: asks about tokens."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.mask.block(b, q, k)


@dataclass(frozen=True, repr=False)
class Lows(BlockWise):
    """Mutant: forgets the blocks that a span goes on to."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, Span(q.low, q.low), Span(k.low, k.low))


@pytest.mark.parametrize("mutant", [Unscaled, Lows])
def test_wrong_block_answers_are_rejected(mutant: type[BlockWise]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(3, Causal()), range(9), range(9))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, Causal()), "^size must be an integer >= 1, got 0$"),
        ((True, Causal()), "^size must be an integer >= 1, got True$"),
        ((2, None), "^mask must be a mask, callable and with a block method, got None$"),
        ((2, Causal), "^mask must be a mask, callable and with a block method, got <class"),
        ((2, lambda *_: True), "^mask must be a mask, callable and with a block method, got <function"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        BlockWise(*arguments)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Causal() & BlockWise(4, Causal() | Window(2))) == "Causal() & BlockWise(4, Causal() | Window(2))"
    assert BlockWise(np.int64(3), Causal()) == BlockWise(3, Causal())  # type: ignore[arg-type]
