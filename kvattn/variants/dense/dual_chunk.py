"""Dual chunk attention: distances inside a chunk, to the chunk before, and to all earlier ones, within a trained range.

    key           j mod s
    query         i mod s                       to its own chunk
                  min(s + i mod s, F)           to the chunk before
                  F                             to earlier chunks

with chunks of s positions, ⌊i / s⌋.  No place exceeds F, so no distance does; keys right before a chunk keep their own
distance while s + i mod s <= F.

Three ways of `kvattn.variants.dense.placed`, in one softmax.
Cached per token: an unturned key and a value; since a key's place is one in all three ways, it could be cached turned.
Cost: three attentions over disjoint keys, and their join.

Source: An et al. 2024 (arXiv 2402.17463) §2.2 to §2.4: s = 3/4 of the trained length c, F = c - 1.

Where libraries differ: ChunkLlama's released code and vLLM count a chunk as ``chunk_size - local_size`` and let places
reach ``chunk_size``: F = ``chunk_size``, one more than the paper's c - 1.  vLLM (Qwen's 1M models) also scales by a
factor that grows with the sequence, and may drop pairs by a sparse pattern; neither is here.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.chunked import Chunked
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible
from kvattn.variants.dense.placed import Cycle, Way


@dataclass(frozen=True)
class ChunksBehind:
    """Keys whose chunk is so many chunks before the query's, or at least so many.

    Parameters
    ----------
    size
        s: positions in a chunk.
    nearest
        How many chunks before, at least.
    farthest
        And at most; None for any number.

    Raises
    ------
    ArgumentError
        When a number is no integer or too small.

    Examples
    --------
    >>> at = np.arange(6)
    >>> ChunksBehind(2, nearest=1, farthest=1)(0, 0, at[5:, None], at).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
    """

    size: int
    nearest: int
    farthest: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size", self.size, 1))
        object.__setattr__(self, "nearest", integer("nearest", self.nearest, 0))
        if self.farthest is not None:
            object.__setattr__(self, "farthest", integer("farthest", self.farthest, self.nearest))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        behind = np.subtract(np.floor_divide(q_positions, self.size), np.floor_divide(k_positions, self.size))
        seen: Visible = behind >= self.nearest
        return seen if self.farthest is None else seen & (behind <= self.farthest)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the fewest and the most chunks between the spans.

        >>> ChunksBehind(4, nearest=2).block(0, Span(8, 11), Span(4, 9))
        <Answer.NONE: 'none'>
        """
        fewest, most = q.low // self.size - k.high // self.size, q.high // self.size - k.low // self.size
        if most < self.nearest or (self.farthest is not None and fewest > self.farthest):
            return Answer.NONE
        sure = fewest >= self.nearest and (self.farthest is None or most <= self.farthest)
        return Answer.ALL if sure else Answer.LOOK

    __and__ = both
    __or__ = either
    __invert__ = inverse


def dual_chunk(*, chunk: int, farthest: int) -> tuple[Way, Way, Way]:
    """The three ways: own chunk, the one before, all earlier.

    Parameters
    ----------
    chunk
        s >= 1: positions in a chunk.
    farthest
        F in s .. 2s - 1: the largest place of a query.

    Raises
    ------
    ArgumentError
        When a number is no integer or out of its range.

    Examples
    --------
    >>> own, before, earlier = dual_chunk(chunk=6, farthest=7)  # the paper's figure: trained for 8
    >>> [int(way.queries(np.array(9))) for way in (own, before, earlier)]
    [3, 7, 7]
    """
    chunk = integer("chunk", chunk, 1)
    farthest = integer("farthest", farthest, chunk, 2 * chunk - 1)
    keys = Cycle(chunk)
    return (
        Way(Chunked(chunk), Cycle(chunk), keys),
        Way(ChunksBehind(chunk, 1, 1), Cycle(chunk, chunk, farthest), keys),
        Way(ChunksBehind(chunk, 2), Cycle(1, farthest), keys),
    )
