"""Document: in a packed row, a token sees its own document.

    visible(b, q, k)  =  ids[b, q] = ids[b, k] >= 0          packed training:  Causal() & Document.of_lengths(n)

Positions run through the packed row and are not restarted: position i belongs to document
``ids[i]``; a scheme that restarts for each document gets positions of its own.  A negative id
belongs to no document: such a token sees nothing and nothing sees it.

Shapes: ``ids [N]`` for all sequences or ``[B, N]``.  Cached per token: nothing of its own.
Source: Krell et al. 2021 (arXiv 2107.02027) §3.2.4; FlexAttention (2412.05496) §3.2.

Where libraries differ: flash-attn's varlen calls take cumulative lengths ``[0, 3, 7]`` and count
positions from each start; `Document.of_lengths` takes the lengths themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.arguments import integers
from kvattn.errors import ArgumentError, PositionError
from kvattn.masks._table import select
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Document:
    """The document that a position belongs to.

    Parameters
    ----------
    ids
        ``[N]`` or ``[B, N]`` integers; equal = same document, wherever they stand; negative = none.

    Raises
    ------
    ArgumentError
        When ids are not integers of that shape.
    PositionError
        Later, when asked for a position outside 0 … N-1.
    ShapeError
        Later, when asked for a sequence that they do not have.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.arange(4)
    >>> Document([0, 0, 1, -1])(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 0],
           [0, 0, 0, 0]])
    """

    ids: Sequence[int] | Sequence[Sequence[int]] | Indices
    _ids: Indices = field(init=False, compare=False)

    def __post_init__(self) -> None:
        try:
            given = np.asarray(self.ids)
        except ValueError:
            raise ArgumentError("ids must be integers of shape [N] or [B, N], got rows of different lengths") from None
        if given.dtype.kind not in "iu" or given.ndim not in (1, 2) or not given.size:
            raise ArgumentError(f"ids must be integers of shape [N] or [B, N], got {given.dtype} of {given.shape}")
        held = np.array(given, np.int64, ndmin=2)
        held.flags.writeable = False
        object.__setattr__(self, "_ids", held)
        object.__setattr__(self, "ids", tuple(map(tuple, held.tolist())))

    @classmethod
    def of_lengths(cls, lengths: Any) -> "Document":
        """Documents one after the other, each of its length >= 1, the same in every sequence.

        >>> Document.of_lengths([3, 4])
        Document.of_lengths([3, 4])
        >>> Document.of_lengths([2, 1]).ids
        ((0, 0, 1),)
        """
        each = integers("lengths", lengths, 1)
        return cls(np.repeat(np.arange(len(each)), each))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        row = select(b, len(self._ids), "b")
        q_ids = self._ids[row, self._inside("q_positions", q_positions)]
        k_ids = self._ids[row, self._inside("k_positions", k_positions)]
        visible: Visible = (q_ids == k_ids) & (q_ids >= 0)
        return visible

    def _inside(self, name: str, positions: Positions) -> Positions:
        positions = np.asarray(positions)
        lost = (positions < 0) | (positions >= self._ids.shape[1])
        if lost.any():
            raise PositionError(
                f"{name} must be from 0 to {self._ids.shape[1] - 1}, where ids are known, got {positions[lost][0]}"
            )
        return positions

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the ids between the ends; never certain where a span leaves the packed row.

        >>> Document.of_lengths([3, 4]).block(0, Span(3, 6), Span(0, 2))
        <Answer.NONE: 'none'>
        """
        if min(q.low, k.low) < 0 or max(q.high, k.high) >= self._ids.shape[1]:
            return Answer.LOOK
        row = self._ids[int(select(b, len(self._ids), "b"))]
        mine, theirs = row[q.low : q.high + 1], row[k.low : k.high + 1]
        if mine.min() == mine.max() == theirs.min() == theirs.max():
            return Answer.ALL if mine[0] >= 0 else Answer.NONE
        if mine.max() < theirs.min() or theirs.max() < mine.min() or max(mine.max(), theirs.max()) < 0:
            return Answer.NONE
        return Answer.LOOK

    def __repr__(self) -> str:
        row = self._ids[0]
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        if len(self._ids) == 1 and np.array_equal(row[starts], np.arange(len(starts))):
            lengths = np.diff(starts, append=len(row)).tolist()
            return f"Document.of_lengths({lengths})"
        return f"Document({self._ids.tolist() if self._ids.size <= 64 else f'<{list(self._ids.shape)}>'})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
