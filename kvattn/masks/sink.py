"""Attention sink keys: the first ``count`` positions are visible to every query.

    visible(q, k)  =  k < count

Usually joined: ``Causal() & (Window(w) | Sink(n))`` keeps the first n keys beside the window.
These are real tokens with keys and values; a sink *logit*, which has no value, is the ``sinks``
argument of attention.

Cached per token: these keys are never forgotten.
Source: Xiao et al. 2023, StreamingLLM (arXiv 2309.17453) §3.2.

Where libraries differ: MLX's rotating cache keeps absolute positions, as this mask does; the paper
numbers the cached keys anew.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Sink:
    """The first keys, always.

    Parameters
    ----------
    count
        How many positions, from 0, are visible; >= 0.

    Raises
    ------
    ArgumentError
        When count is no integer or negative.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.arange(3)
    >>> Sink(1)(0, 0, at[:, None], at).astype(int)
    array([[1, 0, 0],
           [1, 0, 0],
           [1, 0, 0]])
    """

    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", integer("count", self.count, 0))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions))
        return np.broadcast_to(np.less(k_positions, self.count), shape).copy()

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Certain unless the keys stand on both sides of the border.

        >>> Sink(2).block(0, Span(8, 9), Span(0, 2))
        <Answer.LOOK: 'look'>
        """
        if k.high < self.count:
            return Answer.ALL
        return Answer.NONE if k.low >= self.count else Answer.LOOK

    def __repr__(self) -> str:
        return f"Sink({self.count})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
