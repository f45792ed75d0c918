"""Learned absolute positions: one row of a trained table for each position, added to the hidden states.

    x[i] + table[i + offset]

Shapes: ``x [..., T, M]``, ``table [N, M]``, positions ``[T]`` or whatever broadcasts to ``[..., T]``.
A position outside the table raises: the scheme has nothing to say about it, and a negative row number
must not wrap to the table's end.
Cached per token: nothing; hidden states carry the position into keys and values alike, so a cached key
cannot be moved.
Cost: an addition per feature, and the table's row read once for each entry of ``positions``.

Source: Gehring et al. 2017 (1705.03122) §3.1; Radford et al. 2018 (Improving Language Understanding by Generative
Pre-Training) §3.1, the form used since.

Where libraries differ: BERT and GPT-2 start at row 0.  RoBERTa, BART and OPT carry fairseq's two unused rows,
``offset=2``; there a padding token has position -1 and takes row 1.  GPT-2 and OPT in transformers number
positions from the attention mask, so padding in front does not count.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integer
from kvattn.arrays import anything
from kvattn.counting import Tally, charge
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.positions._rows import places_of, rows_of
from kvattn.typing import Array, Positions


@dataclass(frozen=True, eq=False)
class Learned:
    """A table of positions as an embedding; the table is copied.

    Parameters
    ----------
    table
        ``[N, M]``, float64 or float32.
    offset
        Row of position 0; rows before it stand for negative positions.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When a parameter is not of its kind, or the offset leaves no row.

    Examples
    --------
    >>> learned = Learned(np.array([[0.5, 0.25], [2.0, 4.0], [8.0, 16.0]]), offset=1)
    >>> learned.embed(np.zeros((2, 2)), np.array([1, 0]))
    array([[ 8., 16.],
           [ 2.,  4.]])
    """

    table: Array
    offset: int = 0

    def __post_init__(self) -> None:
        held = np.array(anything("table", self.table))
        if held.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
            raise DtypeError(f"table must be float64 or float32, got {held.dtype}")
        if held.ndim != 2 or not held.size:
            raise ShapeError(f"table must have shape [N, M] with N, M >= 1, got {held.shape}")
        held.flags.writeable = False
        object.__setattr__(self, "table", held)
        object.__setattr__(self, "offset", integer("offset", self.offset, 0, held.shape[0] - 1))

    def embed(self, x: Array, positions: Positions) -> Array:
        """``x [..., T, M]`` with the rows of its positions added.

        Parameters
        ----------
        x
            ``[..., T, M]``, of the dtype of the table.
        positions
            Integers that broadcast to ``x.shape[:-1]``.

        Returns
        -------
        array
            Of the shape and dtype of x.

        Raises
        ------
        PositionError
            When a position has no row, or is no integer.
        ShapeError, DtypeError
            When x does not fit the table, or positions do not fit x.

        Examples
        --------
        >>> Learned(np.ones((2, 1))).embed(np.zeros((1, 1)), np.array([2]))
        Traceback (most recent call last):
        kvattn.errors.PositionError: positions must be in 0 .. 1, got 2
        """
        x = rows_of("x", x, "M")
        if x.shape[-1] != self.table.shape[1]:
            raise ShapeError(f"x must have {self.table.shape[1]} features, got {x.shape[-1]}")
        if x.dtype != self.table.dtype:
            raise DtypeError(f"x must have the dtype of the table, {self.table.dtype}, got {x.dtype}")
        places = places_of("x", positions, x)
        lowest, highest = -self.offset, self.table.shape[0] - 1 - self.offset
        lost: Any = places[(places < lowest) | (places > highest)]
        if lost.size:
            raise PositionError(f"positions must be in {lowest} .. {highest}, got {lost.flat[0]}")
        charge(self.cost(rows=x.size // x.shape[-1], positions=places.size))
        out: Array = x + self.table[places.astype(np.int64) + self.offset]
        return out

    def cost(self, *, rows: int, positions: int) -> Tally:
        """What `embed` counts, in closed form.

        Parameters
        ----------
        rows
            Rows of x.
        positions
            Entries of ``positions``; sequences that share them share the reading.

        Examples
        --------
        >>> Learned(np.ones((5, 4))).cost(rows=6, positions=3)
        Tally(arithmetic=24, tables_read=96)
        """
        width = self.table.shape[1]
        return Tally(arithmetic=width * rows, tables_read=width * positions * self.table.itemsize)
