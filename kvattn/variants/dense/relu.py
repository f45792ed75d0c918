"""ReLU and squared-ReLU attention: a key that scores below 0 is not read at all.

    w_ij = relu(s_ij) / n      or      w_ij = relu(s_ij)² / n,      relu(t) = max(t, 0)

n is a constant of the layer: the length of the training sequences, or 1 where something else keeps the
mix in bounds, such as the norm behind it in rectified linear attention.

Shapes: scores and weights ``[Hq, T, S]``.  Cached per token: as grouped attention.
Cost: 2 operations per pair, 3 for the square; no exponential, and nothing per row.
Parts over different keys merge by plain addition; lse is NaN.

Source: n and both functions: Wortsman et al. 2023 (2309.08586) §3; the square: Hua et al. 2022 (2202.10447), the gated
attention unit; without n and with a norm: Zhang et al. 2021 (2104.07012), rectified linear attention.
Where libraries differ: Hua et al. divide the score by n, inside the square, which is a factor in ``scale``.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import real
from kvattn.core.weights import Weights, shown_scores, without_lse
from kvattn.counting import Tally
from kvattn.typing import Array, Place, Visible


@dataclass(frozen=True)
class Relu:
    """Weights ``relu(s) / n``, for `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    keys
        n.

    Raises
    ------
    ArgumentError
        Keys that are not a number above 0.

    Examples
    --------
    >>> Relu(2).definition(np.array([[[3.0, -1.0]]]), np.ones((1, 1, 2), bool), None).weights
    array([[[1.5, 0. ]]])
    """

    keys: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", real("keys", self.keys, above=0.0))

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """``max(s, 0) / n`` over visible keys.

        >>> Relu().definition(np.array([[[3.0]]]), np.ones((1, 1, 1), bool), None).weights
        array([[[3.]]])
        """
        return without_lse(np.where(seen & (scores > 0), scores / self.keys, 0.0).astype(scores.dtype, copy=False))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same, with NaN kept where it is seen.

        >>> Relu(2).weigh(np.full((1, 1, 256), 3.0), np.arange(256) < 1, None).weights[0, 0, :2]
        array([1.5, 0. ])
        """
        return without_lse(np.maximum(shown_scores(scores, seen), 0.0) / self.keys)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """A comparison and a division per pair.

        >>> Relu().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=20)
        """
        return Tally(arithmetic=2 * pairs)


@dataclass(frozen=True)
class SquaredRelu:
    """Weights ``relu(s)² / n``, for `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    keys
        n.

    Raises
    ------
    ArgumentError
        Keys that are not a number above 0.

    Examples
    --------
    >>> SquaredRelu(2).definition(np.array([[[3.0, -1.0]]]), np.ones((1, 1, 2), bool), None).weights
    array([[[4.5, 0. ]]])
    """

    keys: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", real("keys", self.keys, above=0.0))

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """``max(s, 0)² / n`` over visible keys.

        >>> SquaredRelu().definition(np.array([[[3.0]]]), np.ones((1, 1, 1), bool), None).weights
        array([[[9.]]])
        """
        return without_lse(np.where(seen & (scores > 0), scores**2 / self.keys, 0.0).astype(scores.dtype, copy=False))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same, with NaN kept where it is seen.

        >>> SquaredRelu(2).weigh(np.full((1, 1, 256), 3.0), np.arange(256) < 1, None).weights[0, 0, :2]
        array([4.5, 0. ])
        """
        above = np.maximum(shown_scores(scores, seen), 0.0)
        return without_lse(above * above / self.keys)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """A comparison, a multiplication and a division per pair.

        >>> SquaredRelu().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=30)
        """
        return Tally(arithmetic=3 * pairs)
