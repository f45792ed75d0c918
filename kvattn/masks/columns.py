"""Columns: the same few keys of every l, for all queries.

    visible(q, k)  =  first <= k mod l < first + count

Joined with ``Causal()`` it is the summary head of the Sparse Transformer's fixed pattern: the last c
keys of each block, ``Columns(l, l - c, c)``, beside ``Chunked(l)`` on the other head; heads may take
other columns of the block.  On blocks it is Phi-3-small's vertical stride v, where head h sees

    BlockWise(64, Columns(v, (v - 1 - h · s) mod v)),    s = max(1, floor(v / Hq)).

Cached per token: nothing of its own; a key outside the columns is never seen again.
Source: Child et al. 2019 (arXiv 1904.10509) §4.3; Phi-3 (Abdin et al. 2024, 2404.14219) §2 and the
model's configuration (``blocksparse_vert_stride``, ``blocksparse_num_local_blocks``).

Where libraries differ: Phi-3-small's heads see blocks with ``(block + h · s + 1) mod v = 0``, so head 0
sees the last block of each v; with ``homo_head`` all do.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.errors import ArgumentError
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Columns:
    """Some keys of every ``period``.

    Parameters
    ----------
    period
        l >= 1: keys after which the pattern repeats, from position 0.
    first
        The first visible key of each period, >= 0.
    count
        How many are visible, >= 1; ``first + count`` is at most ``period``.

    Raises
    ------
    ArgumentError
        When a number is no integer, too small, or the columns leave the period.

    Examples
    --------
    >>> Columns(4, 2, 2)(0, 0, np.array([[9]]), np.arange(8)).astype(int)
    array([[0, 0, 1, 1, 0, 0, 1, 1]])
    """

    period: int
    first: int
    count: int = 1

    def __post_init__(self) -> None:
        for name, least in (("period", 1), ("first", 0), ("count", 1)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least))
        if self.first + self.count > self.period:
            raise ArgumentError(f"first + count must be at most period, {self.period}, got {self.first} + {self.count}")

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions))
        return np.broadcast_to(np.subtract(k_positions, self.first) % self.period < self.count, shape).copy()

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the place of the keys in the period.

        >>> Columns(64, 60, 4).block(0, Span(99, 99), Span(64, 123))
        <Answer.NONE: 'none'>
        """
        start = (k.low - self.first) % self.period
        stop = start + k.high - k.low
        if stop < self.count or self.count == self.period:
            return Answer.ALL
        return Answer.NONE if start >= self.count and stop < self.period else Answer.LOOK

    def __repr__(self) -> str:
        return f"Columns({self.period}, {self.first}{'' if self.count == 1 else f', {self.count}'})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
