"""Chosen: a table says which keys each query sees, for every head.

    visible(h, q, k)  =  k in table[h, q]

On blocks this is BigBird's random part: ``BlockWise(n, Chosen(table))`` with r block numbers for each
block of queries.  Which ones is data, not a seed: the table is part of the trained model.

Shapes: ``table [R, r]`` or ``[H|1, R, r]`` integers, row q for the query at position q; a negative
entry chooses nothing, and an entry may repeat.  Cached per token: nothing of its own.
Source: Zaheer et al. 2020, BigBird (arXiv 2007.14062) §2.

Where libraries differ: transformers draws the table from numpy's global generator with the layer's
number as seed, and leaves out the first and last row of blocks, which see everything.  Outside
training its table is all zeros, and block 0, global already, then counts 1 + r times in the softmax:
no mask says that.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.errors import ArgumentError, PositionError
from kvattn.masks._table import select
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Chosen:
    """The listed keys of each query.

    Parameters
    ----------
    table
        ``[R, r]`` or ``[H|1, R, r]`` integers; negative = none.

    Raises
    ------
    ArgumentError
        When table is not integers of that shape.
    PositionError
        Later, when asked for a query outside 0 … R-1.
    ShapeError
        Later, when asked for a head that it does not have.

    Examples
    --------
    >>> Chosen([[0, 2], [1, 1]])(0, 0, np.arange(2)[:, None], np.arange(4)).astype(int)
    array([[1, 0, 1, 0],
           [0, 1, 0, 0]])
    """

    table: Any
    _sees: Visible = field(init=False, compare=False)

    def __post_init__(self) -> None:
        try:
            given = np.asarray(self.table)
        except ValueError:
            raise ArgumentError("table must be integers of shape [R, r] or [H, R, r], got uneven rows") from None
        if given.dtype.kind not in "iu" or given.ndim not in (2, 3) or not given.size:
            raise ArgumentError(
                f"table must be integers of shape [R, r] or [H, R, r], got {given.dtype} of {given.shape}"
            )
        held = given.astype(np.int64).reshape(-1, *given.shape[-2:])
        sees = np.zeros((*held.shape[:2], max(int(held.max()) + 1, 1)), np.bool_)
        head, row, _ = np.nonzero(held >= 0)
        sees[head, row, held[held >= 0]] = True
        sees.flags.writeable = False
        object.__setattr__(self, "_sees", sees)
        object.__setattr__(self, "table", tuple(tuple(map(tuple, rows)) for rows in held.tolist()))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        heads, rows, columns = self._sees.shape
        q, k = np.asarray(q_positions), np.asarray(k_positions)
        lost = (q < 0) | (q >= rows)
        if lost.any():
            raise PositionError(f"q_positions must be from 0 to {rows - 1}, the rows of the table, got {q[lost][0]}")
        known = (k >= 0) & (k < columns)
        visible: Visible = self._sees[select(h, heads, "h"), q, np.where(known, k, 0)] & known
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the part of the table between the ends.

        >>> Chosen([[0, 2], [1, 1]]).block(0, Span(0, 1), Span(3, 9))
        <Answer.NONE: 'none'>
        """
        if q.low < 0 or q.high >= self._sees.shape[1]:
            return Answer.LOOK
        part = self._sees[:, q.low : q.high + 1, max(k.low, 0) : max(k.high + 1, 0)]
        if part.shape[2] == k.high - k.low + 1 and part.all():
            return Answer.ALL
        return Answer.LOOK if part.any() else Answer.NONE

    def __repr__(self) -> str:
        heads, rows, _ = self._sees.shape
        many = heads * rows * len(self.table[0][0])
        return f"Chosen({self.table if many <= 64 else f'<{[heads, rows, len(self.table[0][0])]}>'})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
