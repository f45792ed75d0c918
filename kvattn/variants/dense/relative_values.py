"""Relative values (Shaw): besides a key's value, what its distance says is mixed with the same weight.

    o_i = Σ_j w_ij (v_j + a[clip(j - i, -K, K)])

Keys further than K away share the embedding of distance K.

Shapes: table a ``[2K + 1, Dv]``, shared by heads, row ``d + K`` for distance d = j - i; weights ``[Hq, T, S]``.
Cached per token: nothing more; the embeddings are added per pair and never to a cached value.
Cost: an addition per pair to sum the weights of each distance, ``2 · (2K + 1) · Dv`` FLOPs and Dv additions per row.

Source: Shaw et al. 2018 (1803.02155) §3.1-3.2; the other half, aᴷ in the scores, is a mod.
Where libraries differ: most keep aᴷ only; a table per head is written there with the heads in front.  T5's
bias and Shaw's key term bend scores, this bends what is read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.blas import ROWS, tile_product
from kvattn.core.meeting import widened
from kvattn.core.weights import check_kept, kept, row_sum
from kvattn.counting import Tally
from kvattn.errors import ShapeError
from kvattn.typing import Array, Indices, Place


@dataclass(frozen=True, eq=False)
class RelativeValues:
    """An embedding for each distance: a value for ``beside`` of `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    table
        ``[2K + 1, Dv]``, copied; of the dtype of the layer's matrices.

    Raises
    ------
    ShapeError, DtypeError
        An even number of rows, or a table that does not fit the layer.

    Examples
    --------
    >>> q, k = np.array([[[1]]]), np.array([[[0, 1]]])
    >>> RelativeValues([[10.0], [20.0], [30.0]]).definition(np.array([[[0.25, 0.75]]]), Place(0, None, None, q, k))
    array([[[17.5]]])
    """

    table: Array

    def __post_init__(self) -> None:
        held = kept("table", self.table, "rows Dv")
        if len(held) % 2 == 0:
            raise ShapeError(f"table must have 2·K + 1 rows, an odd number, got {len(held)}")
        object.__setattr__(self, "table", held)

    @property
    def reach(self) -> int:
        """K.

        >>> RelativeValues(np.zeros((5, 2))).reach
        2
        """
        return len(self.table) // 2

    def check(self, *, heads: int, value_width: int, dtype: "np.dtype[Any]") -> None:
        """Refuse a table of another layer's width or dtype.

        >>> RelativeValues(np.zeros((3, 2))).check(heads=1, value_width=4, dtype=np.dtype(float))
        Traceback (most recent call last):
        kvattn.errors.ShapeError: table must have shape [rows, 4], got (3, 2)
        """
        check_kept("table", self.table, f"rows {value_width}", dtype)

    def definition(self, weights: Array, place: Place) -> Array:
        """As it is written: an embedding for every pair.

        >>> at = np.array([[[0]]])
        >>> RelativeValues([[2.0]]).definition(np.full((1, 1, 1), 0.5), Place(0, None, None, at, at))
        array([[[1.]]])
        """
        pairs = self.table[self._rows_of(place)[0]]  # [T, S, Dv]
        mixed: Array = np.einsum("hts,tsd->htd", weights, pairs)
        return mixed

    def mix(self, weights: Array, place: Place) -> Array:
        """The same, summing the weights of each distance first.

        >>> q, k = np.array([[[1]]]), np.arange(256)[None, None]
        >>> RelativeValues([[10.0], [20.0], [30.0]]).mix((k < 2) / 2, Place(0, None, None, q, k))
        array([[[15.]]])
        """
        rows = self._rows_of(place)
        heads, count, _ = weights.shape
        masses = np.zeros((heads, -(-count // ROWS) * ROWS, len(self.table)), weights.dtype)
        for n in range(len(self.table)):
            here = np.where(rows == n, weights, 0.0).astype(weights.dtype, copy=False)
            masses[:, :count, n : n + 1] = row_sum(here)
        wide = widened(self.table[None])
        mixed = tile_product(masses.reshape(heads, -1, ROWS, len(self.table)), wide)
        return mixed.reshape(heads, masses.shape[1], -1)[:, :count, : self.table.shape[1]]

    def mix_cost(self, *, pairs: int, rows: int, value_width: int) -> Tally:
        """An addition per pair, a product with the table and Dv additions per row.

        >>> RelativeValues(np.zeros((3, 4))).mix_cost(pairs=10, rows=2, value_width=4)
        Tally(matmul=48, arithmetic=18)
        """
        return Tally(matmul=2 * rows * len(self.table) * value_width, arithmetic=pairs + rows * value_width)

    def _rows_of(self, place: Place) -> Indices:
        """The table's row for each pair."""
        found: Indices = np.clip(place.k_positions - place.q_positions, -self.reach, self.reach) + self.reach
        return found
