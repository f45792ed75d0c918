"""Transformer-XL: a query meets keys and distances apart, each with a bias of its own.

    s[q, k]  =  scale · ( (q + u) · key_k  +  (q + v) · R_(q - k) ),      R_n = W_R · [sin(n w), cos(n w)]

One value does both parts, and a layer needs it in both places: as ``query_key`` it adds u, so that the
score is the first product; as a mod it adds the second, in which the query is ``(q + u) + (v - u)``.

    Grouped(projections, query_key=(relative,), mods=(relative,))

Shapes: u and v ``[H, D]``; R ``[H, farthest + ahead + 1, D]``, made once in float64 for the distances
``-ahead .. farthest``; beyond them the last one serves, which the released code calls ``clamp_len``.
Cached per token: nothing besides keys without any position, which is what lets a segment's cache be
used again from any distance.  XLNet sees both sides (``ahead`` > 0); under a causal mask the laws of a
cache hold.  Cost: see `TransformerXL.cost`.

Source: Dai et al. 2019 (arXiv 1901.02860) §3.3, the last equation of A^rel and its terms (a) to (d).

Where libraries differ: the paper's W_R makes a key of each head from M features, sines first, then cosines,
not interleaved; XLNet stores it as ``r [M, H, D]``, names u ``r_w_bias`` and v ``r_r_bias``, and adds a term for
segments.  The factor is ``1/sqrt(D)`` of a head for both products.
"""

from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from kvattn.arguments import integer, optional_real, real, shown
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions._heads import frozen_table, heads_of
from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.rotary import geometric
from kvattn.typing import Array, Place, Positions


@dataclass(frozen=True, eq=False)
class TransformerXL:
    """Biases of queries, and the product of queries with distances: a ``query_key`` and a mod.

    Parameters
    ----------
    table
        R by distance, for H heads.
    content, position
        ``[H, D]``, u and v.
    scale
        The scale of the layer; ``1/sqrt(D)`` unless given.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        When a parameter is not of its kind.

    Examples
    --------
    >>> relative = TransformerXL.of(np.eye(2), [[1.0, 0.0]], [[0.0, 1.0]], farthest=3)
    >>> relative.queries(np.zeros((1, 1, 1, 2)), np.zeros((1, 1, 1), np.int64))
    array([[[[1., 0.]]]])
    """

    table: DistanceTable
    content: Array
    position: Array
    scale: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.table, DistanceTable):
            raise ArgumentError(f"table must be a DistanceTable, got {shown(self.table)}")
        heads, _, width = self.table.vectors.shape
        for name in ("content", "position"):
            held = frozen_table(name, getattr(self, name), "H D")
            if held.shape != (heads, width):
                raise ShapeError(f"{name} must have shape ({heads}, {width}) like the table's heads, got {held.shape}")
            object.__setattr__(self, name, held)
        object.__setattr__(self, "scale", optional_real("scale", self.scale))

    @classmethod
    def of(
        cls,
        projection: Any,
        content: Any,
        position: Any,
        farthest: int,
        ahead: int = 0,
        scale: float | None = None,
        base: float = 10000.0,
    ) -> "TransformerXL":
        """With the paper's sinusoids and W_R ``[M, H·D]``.

        >>> table = TransformerXL.of(np.eye(2), [[0.0, 0.0]], [[0.0, 0.0]], farthest=2).table
        >>> table.vectors[0].round(3)  # sin n, cos n
        array([[ 0.   ,  1.   ],
               [ 0.841,  0.54 ],
               [ 0.909, -0.416]])
        """
        weights = frozen_table("projection", projection, "M H·D")
        heads = len(frozen_table("content", content, "H D"))
        farthest, ahead = integer("farthest", farthest, 0), integer("ahead", ahead, 0)
        if weights.shape[0] % 2 or weights.shape[1] % heads:
            raise ShapeError(f"projection must have shape [M, H·D] with H={heads} and M even, got {weights.shape}")
        angles = np.arange(-ahead, farthest + 1)[:, None] * np.array(geometric(len(weights), real("base", base)))
        vectors = np.concatenate([np.sin(angles), np.cos(angles)], axis=1) @ weights  # [N, H·D]
        by_head = vectors.reshape(len(vectors), heads, -1).swapaxes(0, 1)
        return cls(DistanceTable(by_head, ahead), content, position, scale)

    def queries(self, q: Array, positions: Positions) -> Array:
        """Queries ``[B, H, T, D]`` with u added.

        >>> relative = TransformerXL.of(np.eye(2), [[1.0, 3.0]], [[0.0, 0.0]], farthest=3)
        >>> relative.queries(np.ones((1, 1, 1, 2)), np.zeros((1, 1, 1), np.int64))
        array([[[[2., 4.]]]])
        """
        charge(self.queries_cost(tokens=q.shape[0] * q.shape[2], heads=q.shape[1], width=q.shape[3]))
        added: Array = q + self.content[:, None].astype(q.dtype)
        return added

    def keys(self, k: Array, positions: Positions) -> Array:
        """Keys as they are.

        >>> relative = TransformerXL.of(np.eye(2), [[1.0, 3.0]], [[0.0, 0.0]], farthest=3)
        >>> relative.keys(np.ones((1, 1, 1, 2)), np.zeros((1, 1, 1), np.int64))
        array([[[[1., 1.]]]])
        """
        return k

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """An addition for each number.

        >>> zeros = np.zeros((2, 2))
        >>> TransformerXL.of(np.zeros((2, 4)), zeros, zeros, 3).queries_cost(tokens=3, heads=2, width=2)
        Tally(arithmetic=12)
        """
        return Tally(arithmetic=tokens * heads * width)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """Nothing.

        >>> zeros = np.zeros((2, 2))
        >>> TransformerXL.of(np.zeros((2, 4)), zeros, zeros, 3).keys_cost(tokens=3, heads=2, width=2)
        Tally()
        """
        return Tally()

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores of queries that have u, with the scaled product of ``q + v`` and the distance."""
        if place.queries is None:
            raise ArgumentError("place must have queries for distances to meet, got None")
        heads = heads_of("position", len(self.position), place)
        moved = place.queries + (self.position - self.content)[heads[..., 0]].astype(place.queries.dtype)
        scale = 1.0 / math.sqrt(self.table.width) if self.scale is None else self.scale
        return scores + self.table.with_queries(moved, place) * scale

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A product of D numbers, a scaling and an addition for each score; ``v - u`` is added once per row, not here.

        >>> zeros = np.zeros((2, 2))
        >>> TransformerXL.of(np.zeros((2, 4)), zeros, zeros, 3).cost(pairs=10, width=2)
        Tally(matmul=40, arithmetic=20)
        """
        return Tally(matmul=2 * width * pairs, arithmetic=2 * pairs)
