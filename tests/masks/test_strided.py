"""Strided shows self and every l-th key before."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Dilated, Strided, Window
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.by_hand("masks/strided")
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_it_equals_the_list_by_hand(stride: int) -> None:
    at = range(-2, 13)
    check_rule(Strided(stride), lambda b, h, q, k: k in [q - n * stride for n in range(20)], at, at, heads=2)
    check_pairs(Strided(stride), at, at)
    check_blocks(Strided(stride), at, at)


@given(st.integers(1, 9), st.integers(-1, 1), st.integers(0, 60), st.integers(0, 7))
def test_its_block_answers_hold_around_its_borders(stride: int, near: int, q: int, steps: int) -> None:
    far = q - steps * stride + near
    check_blocks(Strided(stride), [q, q + 1, q + stride], [far - stride, far, far + 1, q + near])


def test_stride_one_is_causal_and_a_window_of_it_is_dilated() -> None:
    at = np.arange(-3, 15)
    assert np.array_equal(Strided(1)(0, 0, at[:, None], at), Causal()(0, 0, at[:, None], at))
    part = Window(12) & Strided(3)
    assert np.array_equal(part(0, 0, at[:, None], at), Dilated(4, rate=3)(0, 0, at[:, None], at))


@pytest.mark.law("masks/strided", "two heads reach every earlier key in two layers", "integers")
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_every_earlier_key_is_reached_in_two_layers(stride: int) -> None:
    """The reason for the pair; a window of l - 1, one key short, leaves gaps."""
    at = np.arange(17)
    causal = np.tril(np.ones((17, 17), bool))

    def reached(window: int) -> Any:
        local, far = ((mask(0, 0, at[:, None], at)).astype(int) for mask in (Window(window), Strided(stride)))
        return (local @ far) > 0

    assert np.array_equal(reached(stride + 1), causal)
    assert stride < 2 or not np.array_equal(reached(stride - 1), causal)


@dataclass(frozen=True, repr=False)
class BothWays(Strided):
    """Mutant: later keys too."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return np.equal(np.subtract(q_positions, k_positions) % self.stride, 0)


@dataclass(frozen=True, repr=False)
class FromZero(Strided):
    """Mutant: counts from the beginning, not back from the query."""

    def __call__(self, b: Any, h: Any, q_positions: Any, k_positions: Any) -> Any:
        return np.greater_equal(q_positions, k_positions) & np.equal(np.remainder(k_positions, self.stride), 0)


@pytest.mark.parametrize("mutant", [BothWays, FromZero])
def test_other_patterns_are_rejected(mutant: type[Strided]) -> None:
    with pytest.raises(AssertionError, match="but the rule"):
        check_rule(mutant(3), lambda b, h, q, k: k in [q, q - 3, q - 6, q - 9], range(9), range(9))


@dataclass(frozen=True, repr=False)
class Hasty(Strided):
    """Mutant: no multiple of the stride at the ends, so none between."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        ends = {(i - j) % self.stride for i in q for j in k}
        return Answer.NONE if 0 not in ends else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class Dense(Strided):
    """Mutant: forgets the keys that are left out."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Causal().block(b, q, k)


@pytest.mark.parametrize("mutant", [Hasty, Dense])
def test_wrong_block_answers_are_rejected(mutant: type[Strided]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(4), range(12), range(12))


@pytest.mark.parametrize("stride", [0, True, 1.5, "2", None])
def test_a_bad_stride_is_named(stride: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^stride must be an integer >= 1, got {stride!r}$"):
        Strided(stride)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Causal() & Strided(3)) == "Causal() & Strided(3)"
    assert Strided(np.int64(3)) == Strided(3)  # type: ignore[arg-type]
