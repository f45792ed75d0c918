"""Prefix: the first ``length`` positions are visible to every query, also to those before them.

    visible(q, k)  =  k < length          prefix language model:  Causal() | Prefix(n)

Within the prefix attention is then two-sided, after it causal.

Cached per token: nothing of its own; but the first tokens of the prefix see its last, so the whole
prefix must arrive in one step: a step that begins inside it is refused (`kvattn.masks.ahead`).
Source: T5 (Raffel et al. 2020, arXiv 1910.10683) §3.2.1; UniLM (Dong et al. 2019, 1905.03197) §2.4.

Where libraries differ: PaliGemma and Gemma-3 derive the prefix from token types, so that it may
start later: that is `kvattn.masks.Explicit`.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Prefix:
    """Everything in the prefix.

    Parameters
    ----------
    length
        How many positions, from 0, belong to the prefix; >= 0.

    Raises
    ------
    ArgumentError
        When length is no integer or negative.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.masks import Causal
    >>> at = np.arange(3)
    >>> (Causal() | Prefix(2))(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", integer("length", self.length, 0))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions))
        return np.broadcast_to(np.less(k_positions, self.length), shape).copy()

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Certain unless the keys stand on both sides of the border.

        >>> Prefix(2).block(0, Span(8, 9), Span(0, 1))
        <Answer.ALL: 'all'>
        """
        if k.high < self.length:
            return Answer.ALL
        return Answer.NONE if k.low >= self.length else Answer.LOOK

    def __repr__(self) -> str:
        return f"Prefix({self.length})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
