"""Explicit: an array that says who sees whom, looked up by row number or by position.

    visible(b, h, q, k)  =  array[b, h, row(q), row(k)]

Shapes: ``array`` is boolean, ``[T, S]`` or ``[B, H, T, S]`` with B or H possibly 1; True = may see.
Without positions a position is a row number, and a time axis of length 1 serves every position; with
them, ``[T]`` or ``[B, T]`` and ``[S]`` or ``[B, S]``, the row that stands at the position answers.

Cached per token: nothing of its own.

Where libraries differ: torch SDPA, JAX, ONNX and Keras say True = may see;
``torch.nn.MultiheadAttention`` says True = blocked: pass ``~array``.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.errors import DtypeError
from kvattn.masks._table import Table
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, init=False, repr=False)
class Explicit:
    """A boolean array as a mask; the array is copied.

    Parameters
    ----------
    array
        ``[T, S]`` or ``[B|1, H|1, T, S]``, boolean, True = may see.
    q_positions, k_positions
        Positions of its rows and columns, each once; None: position i is row i.

    Raises
    ------
    DtypeError
        When the array is not boolean.
    ShapeError
        When a shape does not fit; later, when asked for a sequence or a head that it does not have.
    PositionError
        When a position repeats; later, when asked for one that it does not have.

    Examples
    --------
    >>> import numpy as np
    >>> mask = Explicit(np.array([[True, False]]), q_positions=[7], k_positions=[3, 7])
    >>> mask
    Explicit(<bool [1, 1, 1, 2]>, q_positions=<1>, k_positions=<2>)
    >>> mask(0, 0, np.array([[7]]), np.array([7, 3]))
    array([[False,  True]])
    """

    table: Table = field()

    def __init__(self, array: Any, q_positions: Any = None, k_positions: Any = None) -> None:
        given = np.asarray(array)
        if given.dtype != np.bool_:
            raise DtypeError(f"array must be boolean, True = may see, got {given.dtype}")
        object.__setattr__(self, "table", Table.of("array", given, q_positions, k_positions))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        visible: Visible = self.table(b, h, q_positions, k_positions)
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Certain where all heads agree and the array knows every position between the ends.

        >>> Explicit(np.array([[True, False]])).block(0, Span(0, 0), Span(1, 1))
        <Answer.NONE: 'none'>
        """
        part = self.table.block(b, q, k)
        if part is None or not part.size:
            return Answer.LOOK
        if part.all():
            return Answer.ALL
        return Answer.LOOK if part.any() else Answer.NONE

    def __repr__(self) -> str:
        return f"Explicit({self.table})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
