"""A bias for each offset on a grid: learned, or given by a network of log-spaced offsets (log-CPB).

    s'[h, q, k]  =  s[h, q, k] + table[h, row(q) - row(k), column(q) - column(k)]
    log-CPB:  table[h, y, x]  =  16 · sigmoid( W₂ max(0, b₁ + W₁ (ℓ(y / (rows - 1)), ℓ(x / (columns - 1)))) )_h
              ℓ(t)  =  sign(t) · log₂(1 + 8 |t|) / 3

Position p stands in row ``p // columns`` and column ``p % columns`` of the grid.  Swin and BEiT learn the
table; Swin V2 lets a network make it, which can be read at another grid: with ``trained``, offsets are
divided by that window instead.

Shapes: ``table [H, 2·rows - 1, 2·columns - 1]``; scores ``[..., rows, columns]``, elementwise.  The table is
made once, in float64, and an entry is rounded once to the dtype of the scores.
Cached per token: nothing.  Windows of images see both sides and have no cache in use; under a causal
mask, tokens in raster order, every law of a cache holds.  Swin V2's cosine score is a ``query_key`` of its own,
`kvattn.variants.dense.cosine`.  Cost: see `GridBias.cost`.

Source: learned: Liu et al. 2021 (Swin, arXiv 2103.14030) §3.2 eq. 4; log-CPB: Liu et al. 2022 (Swin V2,
arXiv 2111.09883) §3.3 eq. 3 and 4; 8, 3, 16 and the sigmoid are in the released code.

Where libraries differ: transformers stores the learned table flat, ``[(2·rows - 1)·(2·columns - 1), H]``, row by
row; BEiT adds three entries for its class token, which stands outside the grid; x-transformers' dynamic
bias is a deeper network of one-dimensional offsets without a sigmoid.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integers
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, PositionError, ShapeError
from kvattn.positions._heads import added, frozen_table, heads_of
from kvattn.typing import Array, Place


def log_spaced(offset: float | Array) -> Array:
    """ℓ, the sign times ``log2(1 + 8 |offset|) / 3``: near 0 as fast as the offset, slower far from it.

    >>> log_spaced(np.array([-0.875, 0.0, 0.875, 1.0])).round(4)
    array([-1.    ,  0.    ,  1.    ,  1.0566])
    """
    spaced: Array = np.sign(offset) * np.log2(1.0 + 8.0 * np.abs(offset)) / 3.0
    return spaced


def log_cpb(
    grid: tuple[int, int],
    inner: Any,
    inner_bias: Any,
    outer: Any,
    trained: tuple[int, int] | None = None,
) -> "GridBias":
    """Swin V2's table: a network of log-spaced offsets.

    Parameters
    ----------
    grid
        Rows and columns.
    inner, inner_bias, outer
        ``[2, W]``, ``[W]`` and ``[W, H]``: the network, which has no bias at its end.
    trained
        The grid that offsets are divided by; this grid unless given.  A side of 1 has no offsets.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        When a size or an array is not of its kind.

    Examples
    --------
    >>> log_cpb((1, 2), [[0.0], [1.0]], [0.0], [[1.0]]).table.round(3)
    array([[[ 8.   ,  8.   , 11.873]]])
    """
    rows, columns = _grid("grid", grid)
    per = _grid("trained", grid if trained is None else trained)
    first, shift = frozen_table("inner", inner, "2 W"), frozen_table("inner_bias", inner_bias, "W")
    last = frozen_table("outer", outer, "W H")
    units = last.shape[0]
    if first.shape != (2, units) or shift.shape != (units,):
        raise ShapeError(
            f"inner and inner_bias must have shapes (2, {units}) and ({units},), got {first.shape} and {shift.shape}"
        )
    y, x = (
        log_spaced(np.arange(1 - size, size) / max(side - 1, 1))
        for size, side in zip((rows, columns), per, strict=True)
    )
    total = np.zeros((last.shape[1], len(y), len(x)))
    for unit in range(units):
        hidden = np.maximum(shift[unit] + first[0, unit] * y[:, None] + first[1, unit] * x[None, :], 0.0)
        total += last[unit][:, None, None] * hidden
    small = np.exp(-np.abs(total))
    return GridBias(16.0 * np.where(total >= 0, 1.0, small) / (1.0 + small))


def _grid(name: str, given: Any) -> tuple[int, int]:
    sizes = integers(name, given, 1)
    if len(sizes) != 2:
        raise ArgumentError(f"{name} must be two integers, rows and columns, got {sizes}")
    return sizes[0], sizes[1]


@dataclass(frozen=True, eq=False)
class GridBias:
    """A bias for each head and offset of rows and columns, as a mod.

    Parameters
    ----------
    table
        ``[H, 2·rows - 1, 2·columns - 1]``; entry ``[h, y + rows - 1, x + columns - 1]`` is for a query y rows
        below and x columns right of its key.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When the table is not of its kind, or has an even side; later, when a head has no entry.
    PositionError
        Later, when a position lies outside the grid.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[2]]]), np.array([[[0, 1, 2, 3]]])
    >>> bias = GridBias(np.arange(9.0).reshape(1, 3, 3))
    >>> bias.rows, bias.columns, bias(np.zeros((1, 1, 4)), Place(0, heads, None, q, k))
    (2, 2, array([[[7., 6., 4., 3.]]]))
    """

    table: Array

    def __post_init__(self) -> None:
        table = frozen_table("table", self.table, "H 2·rows-1 2·columns-1")
        if not all(side % 2 for side in table.shape[1:]):
            raise ShapeError(f"table must have odd sides, an entry for each offset, got {table.shape[1:]}")
        object.__setattr__(self, "table", table)

    @property
    def rows(self) -> int:
        """Rows of the grid.

        >>> GridBias(np.zeros((1, 3, 5))).rows
        2
        """
        return int(self.table.shape[1] + 1) // 2

    @property
    def columns(self) -> int:
        """Columns of the grid.

        >>> GridBias(np.zeros((1, 3, 5))).columns
        3
        """
        return int(self.table.shape[2] + 1) // 2

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the bias of their offset, in their own dtype."""
        heads = heads_of("table", len(self.table), place)
        q, k = (np.asarray(at, np.int64) for at in (place.q_positions, place.k_positions))
        for at in (q, k):
            outside = (at < 0) | (at >= self.rows * self.columns)
            if outside.any():
                raise PositionError(
                    f"positions must lie in a grid of {self.rows} rows and {self.columns} columns, got {at[outside][0]}"
                )
        y = q // self.columns - k // self.columns + self.rows - 1
        x = q % self.columns - k % self.columns + self.columns - 1
        return added(scores, self.table[heads, y, x])

    def cost(self, *, pairs: int, width: int) -> Tally:
        """Two differences and an addition for each score; the table is made once.

        >>> GridBias(np.zeros((1, 3, 5))).cost(pairs=4, width=8)
        Tally(arithmetic=12)
        """
        return Tally(arithmetic=3 * pairs)
