"""Shaw's relative keys: each distance up to a limit has a vector of its own, added to the key.

    s[q, k]  =  scale · q · (key_k + a_clip(k - q))   =   scale · q · key_k  +  scale · q · a_clip(k - q)

As a mod it adds the second product; the first is the score already.

Shapes: ``a [behind + ahead + 1, D]``, shared by all heads, or ``[H, behind + ahead + 1, D]``; row ``behind``
belongs to the query's own token, rows before it to earlier keys.  Products are in the dtype of the
queries, rounded as in `kvattn.positions.distance_table`.
Cached per token: nothing; keys stay without their distance.  An encoder sees both sides; under a causal
mask the rows for later keys are idle, and the laws of a cache hold.  Cost: see `ShawKeys.cost`.

Source: Shaw et al. 2018 (arXiv 1803.02155) §3.1 eq. 4 and §3.2; the paper's relative values (eq. 3) change
the mix and not the score: `kvattn.variants.dense.relative_values`.

Where libraries differ: Wav2Vec2-BERT looks 64 back and 8 ahead; BERT's ``relative_key`` has a vector for
every distance up to its length and does not clip; its ``relative_key_query`` also adds key · a, which
`kvattn.positions.disentangled` does.
"""

from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from kvattn.arguments import integer, optional_real, shown
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions.distance_table import DistanceTable
from kvattn.typing import Array, Place


@dataclass(frozen=True, eq=False)
class ShawKeys:
    """The product of queries with relative keys, as a mod.

    Parameters
    ----------
    table
        The relative keys by distance.
    scale
        The scale of the layer; ``1/sqrt(D)`` unless given.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind; later, when a caller has no queries.

    Examples
    --------
    >>> shaw = ShawKeys.of([[1.0], [2.0], [5.0]], behind=1)
    >>> at = np.zeros((1, 1, 1), np.int64)
    >>> shaw(np.zeros((1, 1, 4)), Place(0, at, np.array([[[3.0]]]), at + 2, np.array([[[0, 1, 2, 3]]])))
    array([[[ 3.,  3.,  6., 15.]]])
    """

    table: DistanceTable
    scale: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.table, DistanceTable):
            raise ArgumentError(f"table must be a DistanceTable, got {shown(self.table)}")
        object.__setattr__(self, "scale", optional_real("scale", self.scale))

    @classmethod
    def of(cls, vectors: Any, behind: int, scale: float | None = None) -> "ShawKeys":
        """From the paper's order: row ``k - q + behind``, clipped at both ends.

        >>> ShawKeys.of(np.zeros((3, 2)), behind=2).table.ahead
        0
        """
        given = np.asarray(vectors)
        if given.ndim not in (2, 3):
            raise ShapeError(f"vectors must have shape [N, D] or [H, N, D], got {given.shape}")
        rows = given if given.ndim == 3 else given[None]
        ahead = rows.shape[1] - 1 - integer("behind", behind, 0, max(rows.shape[1] - 1, 0))
        return cls(DistanceTable(rows[:, ::-1], ahead), scale)

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the scaled product of query and relative key, in their own dtype."""
        if place.queries is None:
            raise ArgumentError("place must have queries for relative keys, got None")
        scale = 1.0 / math.sqrt(self.table.width) if self.scale is None else self.scale
        return scores + self.table.with_queries(place.queries, place) * scale

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A product of D numbers, a scaling and an addition for each score.

        >>> ShawKeys.of(np.zeros((3, 2)), behind=1).cost(pairs=10, width=2)
        Tally(matmul=40, arithmetic=20)
        """
        return Tally(matmul=2 * width * pairs, arithmetic=2 * pairs)
