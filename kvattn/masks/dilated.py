"""Dilated window: W keys, self included, r positions apart.

    visible(q, k)  =  0 <= q - k < W · r   and   (q - k) mod r = 0

With r = 1 this is the sliding window.  It is causal already.

Cached per token: keys up to (W - 1) · r behind the newest.
Source: Beltagy et al. 2020 (arXiv 2004.05150) §3.1; Ding et al. 2023, LongNet (2307.02486) §3.

Where libraries differ: Longformer dilates to both sides, with a rate for each head; LongNet counts
from the start of a segment, not from the query.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Dilated:
    """Every r-th key back from self.

    Parameters
    ----------
    window
        W >= 1: visible keys, self included.
    rate
        r >= 1: distance between them.

    Raises
    ------
    ArgumentError
        When a number is no integer or below 1.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.arange(5)
    >>> Dilated(2, rate=2)(0, 0, at[:, None], at).astype(int)
    array([[1, 0, 0, 0, 0],
           [0, 1, 0, 0, 0],
           [1, 0, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [0, 0, 1, 0, 1]])
    """

    window: int
    rate: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", integer("window", self.window, 1))
        object.__setattr__(self, "rate", integer("rate", self.rate, 1))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        distance = np.subtract(q_positions, k_positions)
        near: Visible = (distance >= 0) & (distance < self.window * self.rate)
        return near & np.equal(np.remainder(q_positions, self.rate), np.remainder(k_positions, self.rate))

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the smallest and the largest distance between the spans.

        >>> Dilated(2, rate=2).block(0, Span(9, 9), Span(0, 5))
        <Answer.NONE: 'none'>
        """
        nearest, farthest = max(q.low - k.high, 0), min(q.high - k.low, self.window * self.rate - 1)
        if nearest > farthest or farthest // self.rate * self.rate < nearest:
            return Answer.NONE  # no multiple of the rate lies between
        inside = q.low >= k.high and q.high - k.low < self.window * self.rate
        alone = q.low == q.high and k.low == k.high
        return Answer.ALL if inside and (self.rate == 1 or alone) else Answer.LOOK

    def __repr__(self) -> str:
        return f"Dilated({self.window}, rate={self.rate})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
