"""Chunked shows the query's own chunk, aligned to position 0."""

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.masks import Causal, Chunked
from kvattn.testing.mask_laws import check_blocks, check_pairs, check_rule
from kvattn.typing import Answer, Span


@pytest.mark.by_hand("masks/chunked")
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_it_equals_the_chunks_by_hand(size: int) -> None:
    at = range(-size - 1, 2 * size + 2)
    chunk_of: dict[int, int] = {}
    for chunk, first in enumerate(range(-2 * size, 4 * size, size)):
        for position in range(first, first + size):
            chunk_of[position] = chunk
    check_rule(Chunked(size), lambda b, h, q, k: chunk_of[q] == chunk_of[k], at, at, heads=2)
    check_pairs(Chunked(size), at, at)
    check_blocks(Chunked(size), at, at)


@pytest.mark.law("masks/chunked", "an answer for a block is never wrong", "bits")
@given(st.integers(1, 300), st.integers(-2, 3), st.integers(-2, 3))
def test_its_block_answers_hold_around_its_borders(size: int, n: int, m: int) -> None:
    check_blocks(Chunked(size), [n * size - 1, n * size, n * size + 1], [m * size - 1, m * size, (m + 1) * size - 1])


def test_joined_with_causal_the_first_of_a_chunk_sees_itself_alone() -> None:
    seen = (Causal() & Chunked(4))(0, 0, np.array([[7], [8]]), np.arange(12))
    assert [np.flatnonzero(row).tolist() for row in seen] == [[4, 5, 6, 7], [8]]


@dataclass(frozen=True, repr=False)
class Sloppy(Chunked):
    """Mutant: spans that touch one chunk are taken to lie in it."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.ALL if q.low // self.size == k.low // self.size else super().block(b, q, k)


@dataclass(frozen=True, repr=False)
class Truncating(Chunked):
    """Mutant: divides towards zero, so that the chunks -1 and 0 are one."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return super().block(b, *(Span(*(self.size * int(p / self.size) for p in s)) for s in (q, k)))


@dataclass(frozen=True, repr=False)
class ByDistance(Chunked):
    """Mutant: a window in place of a chunk."""

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.ALL if max(q.high - k.low, k.high - q.low) < self.size else super().block(b, q, k)


@pytest.mark.parametrize("mutant", [Sloppy, Truncating, ByDistance])
def test_wrong_block_answers_are_rejected(mutant: type[Chunked]) -> None:
    with pytest.raises(AssertionError, match=r"answers (ALL|NONE)"):
        check_blocks(mutant(3), range(-4, 8), range(-4, 8))


@pytest.mark.parametrize("size", [0, -1, True, 1.5, None])
def test_a_bad_size_is_named(size: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^size must be an integer >= 1, got {size!r}$"):
        Chunked(size)


def test_it_reads_as_it_is_written() -> None:
    assert repr(Chunked(3)) == "Chunked(3)"
