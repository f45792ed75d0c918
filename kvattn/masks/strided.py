"""Strided: every l-th key back from self, to the beginning.

    visible(q, k)  =  q - k >= 0   and   (q - k) mod l = 0

Two heads share the strided pattern of the Sparse Transformer: one sees the last l keys and self,
``Window(l + 1)``, the other ``Strided(l)``; any earlier key is reached in two layers.  It is causal
already; with l = 1 it is ``Causal()``.

Cached per token: nothing of its own; a query of the same residue comes every l tokens, for ever.
Source: Child et al. 2019 (arXiv 1904.10509) §4.3.

Where libraries differ: the paper's local head begins at ``q - l``, so it sees l + 1 keys; its released
kernels cut both patterns into blocks.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Strided:
    """Self and every l-th key before.

    Parameters
    ----------
    stride
        l >= 1: distance between visible keys.

    Raises
    ------
    ArgumentError
        When stride is no integer or below 1.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.arange(5)
    >>> Strided(2)(0, 0, at[:, None], at).astype(int)
    array([[1, 0, 0, 0, 0],
           [0, 1, 0, 0, 0],
           [1, 0, 1, 0, 0],
           [0, 1, 0, 1, 0],
           [1, 0, 1, 0, 1]])
    """

    stride: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "stride", integer("stride", self.stride, 1))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        distance = np.subtract(q_positions, k_positions)
        visible: Visible = (distance >= 0) & (distance % self.stride == 0)
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the smallest and the largest distance between the spans.

        >>> Strided(4).block(0, Span(9, 9), Span(2, 4))
        <Answer.NONE: 'none'>
        """
        nearest, farthest = max(q.low - k.high, 0), q.high - k.low
        if nearest > farthest or farthest // self.stride * self.stride < nearest:
            return Answer.NONE  # no multiple of the stride lies between
        alone = q.low == q.high and k.low == k.high
        return Answer.ALL if q.low >= k.high and (self.stride == 1 or alone) else Answer.LOOK

    def __repr__(self) -> str:
        return f"Strided({self.stride})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
