"""Contextual positions (CoPE): a key's position is how many keys from it up to the query open their gates.

    g_ij = σ(f · s_ij),      p_ij = min(Σ_{t = j..i} g_it, P - 1),
    s'_ij = s_ij + (1 - u) q_i · e[⌊p_ij⌋] + u q_i · e[⌈p_ij⌉],   u = p_ij - ⌊p_ij⌋,     w = softmax(mask(s'))

A position is a real number, so its embedding lies between two of the table's.  Gates of hidden keys are 0:
they count for nothing.  Sums go down from the last key, one after the other; keys are in the order of slots.
s is the score after scale, softcap and mods, q the query after any rotation, which then makes q · e depend on
absolute positions; the paper has no other positions beside these.

Shapes: table e ``[P, D]``, shared by heads; scores and weights ``[Hq, T, S]``.
Cached per token: as grouped attention, and nothing of positions: they belong to pairs.
Cost: ``2 · P · D`` FLOPs per row; 12 operations and an exponential per pair besides the softmax.

Source: Golovneva et al. 2024 (2405.18719) §4 and appendix B.
Where libraries differ: the paper writes the gate of q · k, its code and x-transformers that of the scaled, masked
logit: f = 1 here; f = √D is the paper's formula where the scale is 1/√D.  q is not scaled in q · e.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import real
from kvattn.blas import ROWS, tile_product
from kvattn.core.meeting import widened
from kvattn.core.weights import Softmax, Weights, check_kept, kept, softmax, sums_from
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.typing import Array, Place, Visible


@dataclass(frozen=True, eq=False)
class ContextualPositions:
    """Softmax over scores with contextual positions, for `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    table
        ``[P, D]``, copied; of the dtype of the layer's matrices.
    gate_factor
        f; 1 takes gates of the scaled scores.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        A table that does not fit the layer; a factor that is not finite.

    Examples
    --------
    >>> from kvattn.core.weights import Softmax
    >>> place = Place(0, None, np.ones((1, 1, 1)), None, None)
    >>> flat = ContextualPositions(np.ones((4, 1)))  # the same embedding everywhere
    >>> flat.definition(np.zeros((1, 1, 2)), np.ones((1, 1, 2), bool), place).weights
    array([[[0.5, 0.5]]])
    """

    table: Array
    gate_factor: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate_factor", real("gate_factor", self.gate_factor))
        object.__setattr__(self, "table", kept("table", self.table, "P D"))

    def check(self, *, heads: int, width: int, dtype: "np.dtype[Any]") -> None:
        """Refuse a table of another layer's width or dtype.

        >>> ContextualPositions(np.ones((4, 1))).check(heads=3, width=2, dtype=np.dtype(float))
        Traceback (most recent call last):
        kvattn.errors.ShapeError: table must have shape [P, 2], got (4, 1)
        """
        check_kept("table", self.table, f"P {width}", dtype)

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """As it is written: the sum of gates as a product with a triangle of ones.

        >>> place = Place(0, None, np.ones((1, 1, 1)), None, None)
        >>> ContextualPositions(np.ones((4, 1))).definition(np.zeros((1, 1, 1)), np.ones((1, 1, 1), bool), place).lse
        array([[1.]])
        """
        queries = _queries(place)
        gates = np.where(seen, 1.0 / (1.0 + np.exp(-self.gate_factor * scores)), 0.0)
        onwards = np.tri(scores.shape[-1])  # [t, j]: 1 where t >= j
        p = np.minimum(np.einsum("hit,tj->hij", gates, onwards), len(self.table) - 1.0)
        below = np.floor(p).astype(np.int64)
        above = np.ceil(p).astype(np.int64)
        at = np.einsum("hid,pd->hip", queries, self.table)
        low, high = (np.take_along_axis(at, n, axis=-1) for n in (below, above))
        bent = scores + (low + (p - below) * (high - low))
        return Softmax().definition(bent.astype(scores.dtype, copy=False), seen, place)

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same in blocks.

        >>> place = Place(0, None, np.ones((1, 1, 1)), None, None)
        >>> flat = ContextualPositions(np.ones((4, 1)))
        >>> flat.weigh(np.zeros((1, 1, 256)), np.arange(256) < 2, place).weights[0, 0, :3]
        array([0.5, 0.5, 0. ])
        """
        near = self.gate_factor * scores
        small = np.exp(-np.abs(near))
        gates = np.where(seen, np.where(near >= 0, 1.0, small) / (1.0 + small), 0.0).astype(scores.dtype, copy=False)
        p = np.minimum(sums_from(gates), len(self.table) - 1.0)
        floor = np.floor(p)
        below = np.where(np.isfinite(floor), floor, 0.0).astype(np.int64)
        above = np.minimum(below + 1, len(self.table) - 1)
        at = self._at_integers(_queries(place))
        low, high = (np.take_along_axis(at, n, axis=-1) for n in (below, above))
        u = p - floor
        return softmax(scores + ((1.0 - u) * low + u * high), seen)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """A product with the table per row; a gate, a sum, and two embeddings weighed per pair; and a softmax.

        >>> ContextualPositions(np.ones((4, 1))).cost(pairs=10, rows=2, width=1).matmul
        16
        """
        own = Tally(
            matmul=2 * rows * len(self.table) * width,
            arithmetic=12 * pairs,
            transcendental=pairs,
        )
        return own + Softmax().cost(pairs=pairs, rows=rows, width=width)

    def _at_integers(self, queries: Array) -> Array:
        """Products of queries ``[Hq, t, D]`` with every embedding: ``[Hq, t, P]``, rounded up to eights."""
        heads, count, width = queries.shape
        rows = np.zeros((heads, -(-count // ROWS) * ROWS, width), queries.dtype)
        rows[:, :count] = queries
        wide = widened(np.ascontiguousarray(self.table.T)[None])
        return tile_product(rows.reshape(heads, -1, ROWS, width), wide).reshape(heads, rows.shape[1], -1)[:, :count]


def _queries(place: Place) -> Array:
    """The queries of the rows, unscaled."""
    if place.queries is None:
        raise ArgumentError("place must hold the queries, got None")
    return place.queries
