"""Sliding window: W keys, self included, and on request some keys ahead.

    visible(q, k)  =  -ahead <= q - k < W

With ``ahead = 0``, the default, this is causal already.  `Window` without ``Causal()`` can look
ahead, as encoders do: Longformer's and ModernBERT's ``|q - k| <= r`` is ``Window(r + 1, ahead=r)``.

Cached per token: keys older than W - 1 behind the newest are never seen again.
Source: Beltagy et al. 2020 (arXiv 2004.05150) §3.1; Jiang et al. 2023 (2310.06825) §2.

Where libraries differ: transformers ``sliding_window``, MLX and FLA count self, as here;
flash-attn ``window_size=(left, right)``, ONNX ``left_window_size`` and JAX ``local_window_size``
count keys beside self: ``Window(left + 1, ahead=right)``; Longformer's ``attention_window`` is both
sides together.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Window:
    """The nearest ``size`` keys up to self, and ``ahead`` more.

    Parameters
    ----------
    size
        W >= 1: visible keys, self included.
    ahead
        How many keys after the query are visible, >= 0.

    Raises
    ------
    ArgumentError
        When a number is no integer or too small.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.arange(4)
    >>> Window(2)(0, 0, at[:, None], at).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 1, 1]])
    """

    size: int
    ahead: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size", self.size, 1))
        object.__setattr__(self, "ahead", integer("ahead", self.ahead, 0))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        distance = np.subtract(q_positions, k_positions)
        visible: Visible = (distance < self.size) & (distance >= -self.ahead)
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the smallest and the largest distance between the spans.

        >>> Window(4).block(0, Span(8, 9), Span(0, 4))
        <Answer.NONE: 'none'>
        """
        nearest, farthest = q.low - k.high, q.high - k.low
        if nearest >= self.size or farthest < -self.ahead:
            return Answer.NONE
        return Answer.ALL if farthest < self.size and nearest >= -self.ahead else Answer.LOOK

    def __repr__(self) -> str:
        return f"Window({self.size}, ahead={self.ahead})" if self.ahead else f"Window({self.size})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
