"""Padding: each sequence of a batch has its own first and last real key.

    visible(b, q, k)  =  starts[b] <= k < lengths[b]

Right padding gives ``lengths``, left padding ``starts``; what is not given does not limit.  Both are
positions, so with left padding and no pads at the end a growing cache needs no new mask.  Only keys
are hidden: a padded query still gets a row, which nobody reads.

Shapes: one integer per sequence, or a single one for all.  Cached per token: nothing of its own.

Where libraries differ: ``torch.nn.MultiheadAttention`` takes ``key_padding_mask`` with True = pad;
transformers takes 1 = real and derives positions from it; ONNX ≥ 24 takes ``nonpad_kv_seqlen``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integers
from kvattn.errors import ArgumentError
from kvattn.masks._table import select
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Padding:
    """Real keys only.

    Parameters
    ----------
    lengths
        ``[B]`` or ``[1]``: the position behind the last real key, >= 0.
    starts
        ``[B]`` or ``[1]``: the position of the first real key, >= 0.

    Raises
    ------
    ArgumentError
        When both are left out, one is no sequence of such integers, or they differ in length.
    ShapeError
        Later, when asked for a sequence that they do not have.

    Examples
    --------
    >>> import numpy as np
    >>> at, b = np.arange(4), np.arange(2)[:, None, None]
    >>> Padding([3, 1])(b, 0, at[:1, None], at).astype(int)
    array([[[1, 1, 1, 0]],
    <BLANKLINE>
           [[1, 0, 0, 0]]])
    >>> Padding(starts=[0, 2])(1, 0, at[:1, None], at).astype(int)
    array([[0, 0, 1, 1]])
    """

    lengths: Sequence[int] | Indices | None = None
    starts: Sequence[int] | Indices | None = None

    def __post_init__(self) -> None:
        if self.lengths is None and self.starts is None:
            raise ArgumentError("lengths or starts must be given, got neither")
        for name in ("lengths", "starts"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, integers(name, getattr(self, name), 0))
        if self.lengths is not None and self.starts is not None and len(self.lengths) != len(self.starts):
            raise ArgumentError(
                f"starts must have an entry for each of {len(self.lengths)} lengths, got {len(self.starts)}"
            )

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(b), np.shape(q_positions), np.shape(k_positions))
        visible = np.ones(shape, np.bool_)
        if self.lengths is not None:
            visible &= np.less(k_positions, np.array(self.lengths)[select(b, len(self.lengths), "b")])
        if self.starts is not None:
            visible &= np.greater_equal(k_positions, np.array(self.starts)[select(b, len(self.starts), "b")])
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Certain unless a border of this sequence falls among the keys.

        >>> Padding([3, 1]).block(1, Span(0, 3), Span(1, 3))
        <Answer.NONE: 'none'>
        """
        stop = None if self.lengths is None else self.lengths[int(select(b, len(self.lengths), "b"))]
        start = None if self.starts is None else self.starts[int(select(b, len(self.starts), "b"))]
        if (stop is not None and k.low >= stop) or (start is not None and k.high < start):
            return Answer.NONE
        if (stop is None or k.high < stop) and (start is None or k.low >= start):
            return Answer.ALL
        return Answer.LOOK

    def __repr__(self) -> str:
        given = [] if self.lengths is None else [str(list(self.lengths))]
        given += [] if self.starts is None else [f"starts={list(self.starts)}"]
        return f"Padding({', '.join(given)})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
