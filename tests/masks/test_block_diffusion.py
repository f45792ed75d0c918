"""BlockDiffusion lets noisy blocks see themselves and the clean blocks before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import BlockDiffusion, BlockWise, Causal
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


def sees(size: int, length: int, q: int, k: int) -> bool:
    """Names each token by its copy and its block."""
    mine, theirs = (("noisy" if p < length else "clean", (p % length) // size) for p in (q, k))
    if mine[0] == "noisy":
        return mine == theirs or (theirs[0] == "clean" and theirs[1] < mine[1])
    return theirs[0] == "clean" and theirs[1] <= mine[1]


@pytest.mark.by_hand("masks/block_diffusion")
@pytest.mark.parametrize(("size", "length"), [(1, 1), (1, 4), (2, 6), (3, 5), (4, 4), (5, 3)])
def test_it_equals_the_sentences_by_hand(size: int, length: int) -> None:
    mask, at = BlockDiffusion(size, length), range(2 * length)
    check_rule(mask, lambda b, h, q, k: sees(size, length, q, k), at, at, heads=2)
    check_pairs(mask, at, at)
    check_blocks(mask, at, at)


def test_the_clean_half_is_the_mask_for_decoding() -> None:
    at = np.arange(7)
    clean = BlockDiffusion(3, 7)(0, 0, at[:, None] + 7, at + 7)
    assert np.array_equal(clean, BlockWise(3, Causal())(0, 0, at[:, None], at))


@dataclass(frozen=True, repr=False)
class Leaking(BlockDiffusion):
    """Mutant: a noisy block sees its own clean copy, the answer."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        places = [np.asarray(p) % self.length // self.size for p in (q_positions, k_positions)]
        leak = np.greater_equal(k_positions, self.length) & (places[0] == places[1])
        return super().__call__(b, h, q_positions, k_positions) | leak


@dataclass(frozen=True, repr=False)
class NoisyPast(BlockDiffusion):
    """Mutant: noisy blocks see earlier noisy ones."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        noisy = np.less(q_positions, self.length) & np.less(k_positions, self.length)
        past = BlockWise(self.size, Causal())(b, h, q_positions, k_positions)
        return super().__call__(b, h, q_positions, k_positions) | (noisy & past)


@dataclass(frozen=True, repr=False)
class Shifted(BlockDiffusion):
    """Mutant: blocks of the clean copy count from position 0 of both."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        seen = super().__call__(b, h, q_positions, k_positions)
        clean = np.greater_equal(q_positions, self.length) & np.greater_equal(k_positions, self.length)
        return np.where(clean, BlockWise(self.size, Causal())(b, h, q_positions, k_positions), seen)


@pytest.mark.parametrize("mutant", [Leaking, NoisyPast, Shifted])
def test_other_trainings_are_rejected(mutant: type[BlockDiffusion]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(mutant(3, 5), lambda b, h, q, k: sees(3, 5, q, k), range(10), range(10))


@dataclass(frozen=True, repr=False)
class OneHalf(BlockDiffusion):
    """Mutant: answers for the half in which a span begins."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        ends = [min(at.high, self.length - 1) if at.low < self.length else at.high for at in (q, k)]
        return super().block(b, Span(q.low, ends[0]), Span(k.low, ends[1]))


@dataclass(frozen=True, repr=False)
class OwnBlock(BlockDiffusion):
    """Mutant: the clean copy of the own block counts as seen."""

    def _part(self, q_clean: bool, k_clean: bool, q: Span, k: Span) -> Answer:
        return super()._part(True, k_clean, q, k) if k_clean else super()._part(q_clean, k_clean, q, k)


@pytest.mark.parametrize("mutant", [OneHalf, OwnBlock])
def test_wrong_block_answers_are_rejected(mutant: type[BlockDiffusion]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(2, 5), range(10), range(10))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 4), "^size must be an integer >= 1, got 0$"),
        ((2, 0), "^length must be an integer >= 1, got 0$"),
        ((2, True), "^length must be an integer >= 1, got True$"),
    ],
)
def test_a_bad_argument_is_named(arguments: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        BlockDiffusion(*arguments)


def test_it_reads_as_it_is_written() -> None:
    assert repr(BlockDiffusion(2, length=5)) == "BlockDiffusion(2, length=5)"
