"""Stick-breaking attention: going back from the query, each key breaks its share off what is left of a stick.

    w_ij = σ(s_ij) Π_{j < k < i} (1 - σ(s_ik)),   over visible j < i

Order is all the position there is: near keys are asked first, and what no key takes, Π_k (1 - σ(s_ik)), stays
over.  Under the mask `BEFORE` the query's own key is not asked, as in the paper; a mask that shows it asks it
first.  Hidden keys break nothing off.  Keys are in the order of their slots.

Computed from logarithms, ln w_ij = -softplus(-s_ij) - Σ_{k > j} softplus(s_ik), with the sum going down from the
last key: no product underflows early, and ``1 - σ`` loses no digits.

Shapes: scores and weights ``[Hq, T, S]``; `Remainder` takes ``[Hq, Dv]``.  Cached per token: as grouped attention.
Cost: 6 operations and 5 transcendentals per pair.  lse is NaN; parts merge in the order of their keys only:
the part behind fades the one in front by what it leaves over.

Source: Tan et al. 2024 (2410.17980), the definition and its form in logarithms.
Where libraries differ: ``attend_current`` of the released kernels asks the query's own key; their language models
mix what is left over into the output as a learned vector for each head, here `Remainder`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.core.weights import Weights, check_kept, kept, row_sum, sums_from, without_lse
from kvattn.counting import Tally
from kvattn.masks import Causal, Window
from kvattn.typing import Array, Place, Visible

BEFORE = Causal() & ~Window(1)
"""The paper's mask: the keys before the query."""


@dataclass(frozen=True)
class StickBreaking:
    """Stick-breaking weights, for `kvattn.variants.dense.weighed.Weighed` with ``mask=BEFORE``.

    Examples
    --------
    >>> StickBreaking().definition(np.zeros((1, 1, 3)), np.ones((1, 1, 3), bool), None).weights
    array([[[0.125, 0.25 , 0.5  ]]])
    """

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """As it is written, a product over the keys behind.

        >>> StickBreaking().definition(np.zeros((1, 1, 1)), np.ones((1, 1, 1), bool), None).weights
        array([[[0.5]]])
        """
        left = np.where(seen, 1.0 / (1.0 + np.exp(scores)), 1.0)
        share = np.where(seen, 1.0 / (1.0 + np.exp(-scores)), 0.0)
        weights = np.zeros(share.shape, scores.dtype)
        stick = np.ones(share.shape[:-1], scores.dtype)
        for j in reversed(range(share.shape[-1])):
            weights[..., j] = share[..., j] * stick
            stick = stick * left[..., j]
        return without_lse(weights)

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same from logarithms.

        >>> StickBreaking().weigh(np.zeros((1, 1, 256)), np.arange(256) < 3, None).weights[0, 0, :4].round(12)
        array([0.125, 0.25 , 0.5  , 0.   ])
        """
        tail = np.log1p(np.exp(-np.abs(scores)))
        kept = np.where(seen, np.maximum(scores, 0.0) + tail, 0.0).astype(scores.dtype, copy=False)
        behind = np.zeros_like(kept)
        behind[..., :-1] = sums_from(kept)[..., 1:]
        taken = np.minimum(scores, 0.0) - tail
        weights = np.exp(taken - behind)
        return without_lse(np.where(seen, weights, 0.0).astype(scores.dtype, copy=False))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """Two softplus of one exponential and one logarithm each, a sum, a subtraction and an exponential per pair.

        >>> StickBreaking().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=60, transcendental=50)
        """
        return Tally(arithmetic=6 * pairs, transcendental=5 * pairs)


@dataclass(frozen=True, eq=False)
class Remainder:
    """What is left of the stick, mixed in as a vector of each head: ``+ (1 - Σ_j w_ij) r_h``.

    Parameters
    ----------
    vectors
        ``[Hq, Dv]``, copied.

    Examples
    --------
    >>> Remainder([[2.0]]).definition(np.array([[[0.25, 0.5]]]), None)
    array([[[0.5]]])
    """

    vectors: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "vectors", kept("vectors", self.vectors, "Hq Dv"))

    def check(self, *, heads: int, value_width: int, dtype: "np.dtype[Any]") -> None:
        """Refuse vectors of another layer's sizes or dtype.

        >>> Remainder([[2.0]]).check(heads=2, value_width=1, dtype=np.dtype(float))
        Traceback (most recent call last):
        kvattn.errors.ShapeError: vectors must have shape [2, 1], got (1, 1)
        """
        check_kept("vectors", self.vectors, f"{heads} {value_width}", dtype)

    def definition(self, weights: Array, place: Place) -> Array:
        """As it is written.

        >>> Remainder([[2.0]]).definition(np.ones((1, 1, 1)), None)
        array([[[0.]]])
        """
        left: Array = 1.0 - np.einsum("hts->ht", weights)
        return left[..., None] * self.vectors[:, None, :]

    def mix(self, weights: Array, place: Place) -> Array:
        """The same in blocks.

        >>> Remainder([[2.0]]).mix(np.full((1, 1, 256), 1 / 512), None)
        array([[[1.]]])
        """
        left: Array = 1.0 - row_sum(weights)
        return left * self.vectors[:, None, :]

    def mix_cost(self, *, pairs: int, rows: int, value_width: int) -> Tally:
        """An addition per pair; a subtraction and Dv multiplications and additions per row.

        >>> Remainder([[2.0]]).mix_cost(pairs=10, rows=2, value_width=1)
        Tally(arithmetic=16)
        """
        return Tally(arithmetic=pairs + rows * (1 + 2 * value_width))
