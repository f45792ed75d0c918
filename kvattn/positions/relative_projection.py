"""Relative projection bias: each query mixes a few learned curves over distance into a bias of its own.

    s'[h, q, k]  =  s[h, q, k] + Σ_r  r_q[h, r] · curves[r, q - k]     where 0 <= q - k < extent, else + 0

``r_q`` is computed from the query token's hidden state, not from its query row, so a layer hands it to
the mod as a note: `kvattn.variants.dense.relative_projection` does.

Shapes: ``place.query_notes [..., rows, R]``, curves ``[R, extent]`` shared by all heads; scores ``[..., rows,
columns]``.  Products in the dtype of the notes (`kvattn.positions.distance_table`).
Cached per token: nothing; a query's note is used in its own step only.  Keys ahead get no bias, which
a causal mask hides anyway.  Cost: see `RelativeProjection.cost`.

Source: Thinking Machines 2026, Inkling, as implemented in transformers (``InklingRelativeLogits``); no paper.

Where libraries differ: x-transformers gives the projection of r a bias; Inkling's local layers have an extent
equal to their window, and its global layers multiply the bias, with the queries, by a temperature.
"""

from dataclasses import dataclass, field

import numpy as np

from kvattn.counting import Tally
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions._heads import distances, frozen_table
from kvattn.positions.distance_table import DistanceTable
from kvattn.typing import Array, Place


@dataclass(frozen=True, eq=False)
class RelativeProjection:
    """The mix of curves, as a mod.

    Parameters
    ----------
    curves
        ``[R, extent]``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When curves are not of their kind; later, when queries have no notes, or notes of another width.

    Examples
    --------
    >>> at, notes = np.zeros((1, 1, 1), np.int64), np.array([[[2.0, 1.0]]])
    >>> place = Place(0, at, None, at + 3, np.array([[[0, 1, 2, 3, 4]]]), query_notes=notes)
    >>> RelativeProjection([[0.0, 1.0, 2.0], [10.0, 0.0, 0.0]])(np.zeros((1, 1, 5)), place)
    array([[[ 0.,  4.,  2., 10.,  0.]]])
    """

    curves: Array
    _table: DistanceTable = field(init=False, repr=False)

    def __post_init__(self) -> None:
        curves = frozen_table("curves", self.curves, "R extent")
        object.__setattr__(self, "curves", curves)
        object.__setattr__(self, "_table", DistanceTable(curves.T[None]))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the bias of their distance, in their own dtype."""
        if place.query_notes is None:
            raise ArgumentError("place must have query_notes for curves to be mixed by, got None")
        width, extent = self.curves.shape
        if place.query_notes.shape[-1] != width:
            raise ShapeError(f"query_notes must have shape [..., rows, {width}], got {place.query_notes.shape}")
        apart = distances(place)
        bias = self._table.with_queries(place.query_notes, place).astype(scores.dtype, copy=False)
        return scores + np.where((apart >= 0) & (apart < extent), bias, scores.dtype.type(0.0))

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A product of R numbers and an addition for each score.

        >>> RelativeProjection(np.zeros((3, 5))).cost(pairs=10, width=8)
        Tally(matmul=60, arithmetic=10)
        """
        return Tally(matmul=2 * len(self.curves) * pairs, arithmetic=pairs)
