"""Causal: a token sees itself and what came before.

    visible(q, k)  =  q >= k

Positions are absolute, so there is no corner to anchor: with T queries after a cache of S - T keys
the queries stand at S-T … S-1.  A query at a negative position sees nothing.

Cached per token: nothing of its own.  Source: Vaswani et al. 2017 (arXiv 1706.03762) §3.2.3.

Where libraries differ, when T ≠ S: torch ``is_causal`` and JAX count both from 0 ("top left");
flash-attn ≥ 2.1 and ONNX ≥ 1.23 align the ends ("bottom right"); `kvattn.masks.anchors` has both.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True)
class Causal:
    """Self and earlier.

    >>> import numpy as np
    >>> at = np.arange(3)
    >>> Causal()(0, 0, at[:, None], at).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        return np.greater_equal(q_positions, k_positions)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Certain unless the spans overlap across the diagonal.

        >>> Causal().block(0, Span(4, 7), Span(0, 4))
        <Answer.ALL: 'all'>
        """
        if q.low >= k.high:
            return Answer.ALL
        return Answer.NONE if q.high < k.low else Answer.LOOK

    __and__ = both
    __or__ = either
    __invert__ = inverse
