"""Sigmoid attention: each key is weighed by itself, and weights need not sum to 1.

    w_ij = σ(s_ij + b)   for visible j,      σ(t) = 1 / (1 + e^-t)

b = -ln n makes the weights of n unremarkable keys sum to about 1 before training; n is the length of the
training sequences, one constant of the layer, and not the number of keys that a row happens to see.

Shapes: scores and weights ``[Hq, T, S]``.  Cached per token: as grouped attention.
Cost: 3 operations and one exponential per pair; no maximum, no sum over keys, nothing per row.
There being no denominator, parts over different keys merge by plain addition, and lse is NaN.

Source: Ramapuram et al. 2024 (2409.04431) §2; how b is set: §5.
Where libraries differ: x-transformers (``attn_sigmoid``) has no b.
"""

from dataclasses import dataclass
import math

import numpy as np

from kvattn.arguments import real
from kvattn.core.weights import Weights, shown_scores, without_lse
from kvattn.counting import Tally
from kvattn.typing import Array, Place, Visible


@dataclass(frozen=True)
class Sigmoid:
    """Sigmoid weights, for `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    bias
        b, added to every score.

    Raises
    ------
    ArgumentError
        A bias that is not a finite number.

    Examples
    --------
    >>> Sigmoid().definition(np.zeros((1, 1, 2)), np.array([[[True, False]]]), None).weights
    array([[[0.5, 0. ]]])
    """

    bias: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", real("bias", self.bias))

    @classmethod
    def of(cls, keys: float) -> "Sigmoid":
        """The paper's bias for sequences of so many tokens, -ln n.

        >>> Sigmoid.of(1)
        Sigmoid(bias=-0.0)
        """
        return cls(-math.log(real("keys", keys, above=0.0)))

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """``σ(s + b)`` as it is written.

        >>> Sigmoid().definition(np.zeros((1, 1, 1)), np.ones((1, 1, 1), bool), None).weights
        array([[[0.5]]])
        """
        with np.errstate(over="ignore"):
            weights = 1.0 / (1.0 + np.exp(-(scores + self.bias)))
        return without_lse(np.where(seen, weights, 0.0).astype(scores.dtype, copy=False))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same without overflow.

        >>> Sigmoid().weigh(np.zeros((1, 1, 256)), np.ones((1, 1, 256), bool), None).weights[0, 0, :2]
        array([0.5, 0.5])
        """
        shifted = shown_scores(scores, seen) + self.bias
        small = np.exp(-np.abs(shifted))
        return without_lse(np.where(shifted >= 0, 1.0, small).astype(scores.dtype, copy=False) / (1.0 + small))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """An addition and a sigmoid per pair.

        >>> Sigmoid().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=30, transcendental=10)
        """
        return Tally(arithmetic=3 * pairs, transcendental=pairs)
