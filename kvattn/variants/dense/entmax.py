"""Sparsemax and 1.5-entmax: softmaxes whose smaller weights are exactly 0.

    w_i = [(α - 1) s_i - τ_i]₊ ^ (1 / (α - 1)),      τ_i such that Σ_j w_ij = 1,   over visible j

α = 2 is sparsemax, the projection onto the simplex; α = 1.5 lies between that and the softmax (α → 1).
τ is exact, not searched for: with scores sorted downwards and z = (α - 1)(s - max s),

    α = 2:    τ = (Σ_{j ≤ k} z_(j) - 1) / k
    α = 1.5:  τ = μ_k - √((1 - k (ν_k - μ_k²)) / k),     μ_k, ν_k the means of z_(j) and z_(j)² over j ≤ k

for k the number of keys that weigh anything: those with z_(k) > τ_k.  Sums run down the sorted scores one
after the other, so hidden keys, which sort last, are behind every sum that is used.

Shapes: scores and weights ``[Hq, T, S]``.  Cached per token: as grouped attention.
Cost: 8 operations per pair and 2 per row for sparsemax; 19 and a square root per pair for 1.5-entmax.
Sorting is not counted.  lse is NaN: parts over different keys do not merge.

Source: sparsemax: Martins & Astudillo 2016 (1602.02068) alg. 1; any α, and the exact τ for 1.5: Peters et al. 2019
(1905.05702).
Where libraries differ: ``entmax`` also searches τ by bisection, for any α; that agrees to about its step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvattn.core.weights import Weights, shown_scores, without_lse
from kvattn.counting import Tally
from kvattn.typing import Array, Place, Visible

STEPS = 60
"""Halvings of `searched`: more than a float64 has bits."""


@dataclass(frozen=True)
class Sparsemax:
    """Sparsemax weights (α = 2), for `kvattn.variants.dense.weighed.Weighed`.

    Examples
    --------
    >>> Sparsemax().weigh(np.arange(256) / 4, np.arange(256) < 4, None).weights[:5]
    array([0.        , 0.08333333, 0.33333333, 0.58333333, 0.        ])
    """

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """τ by bisection, independent of the sorted form.

        >>> Sparsemax().definition(np.array([[[1.0, 1.5, -3.0]]]), np.ones((1, 1, 3), bool), None).weights
        array([[[0.25, 0.75, 0.  ]]])
        """
        return without_lse(searched(scores, seen, 2.0))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """τ from the sorted scores.

        >>> Sparsemax().weigh(np.zeros((1, 1, 256)), np.arange(256) < 2, None).weights[0, 0, :3]
        array([0.5, 0.5, 0. ])
        """
        return without_lse(_cut_off(_below_top(scores, seen), _sparsemax_thresholds))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """A comparison, a shift, a running sum, three for the support, a subtraction and a comparison per pair.

        >>> Sparsemax().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=84)
        """
        return Tally(arithmetic=8 * pairs + 2 * rows)


@dataclass(frozen=True)
class Entmax15:
    """1.5-entmax weights, for `kvattn.variants.dense.weighed.Weighed`.

    Examples
    --------
    >>> Entmax15().weigh(np.arange(256) / 2, np.arange(256) < 3, None).weights[:4].round(4)
    array([0.0841, 0.2917, 0.6242, 0.    ])
    """

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """τ by bisection, independent of the sorted form.

        >>> Entmax15().definition(np.zeros((1, 1, 4)), np.ones((1, 1, 4), bool), None).weights
        array([[[0.25, 0.25, 0.25, 0.25]]])
        """
        return without_lse(searched(scores, seen, 1.5))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """τ from the sorted scores.

        >>> Entmax15().weigh(np.zeros((1, 1, 256)), np.arange(256) < 4, None).weights[0, 0, 3:5]
        array([0.25, 0.  ])
        """
        root = _cut_off(_below_top(scores, seen) * 0.5, _entmax15_thresholds)
        return without_lse(root * root)

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """What sparsemax takes, and the halves, squares, means and roots.

        >>> Entmax15().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=190, transcendental=10)
        """
        return Tally(arithmetic=19 * pairs, transcendental=pairs)


def searched(scores: Array, seen: Visible, alpha: float) -> Array:
    """The weights by their definition, with τ halved down in float64 between bounds that hold for any scores.

    >>> searched(np.zeros((1, 1, 2)), np.ones((1, 1, 2), bool), 2.0)
    array([[[0.5, 0.5]]])
    """
    power = 1.0 / (alpha - 1.0)
    shown = np.where(seen, scores, -np.inf).astype(np.float64)
    top = shown.max(axis=-1, keepdims=True, initial=-np.inf)
    z = (shown - np.where(np.isneginf(top), 0.0, top)) * (alpha - 1.0)
    low, high = np.full(top.shape, -1.0), np.zeros(top.shape)  # the largest alone weighs 1 at τ = -1
    for _ in range(STEPS):
        middle = (low + high) / 2
        short = (np.maximum(z - middle, 0.0) ** power).sum(axis=-1, keepdims=True) < 1.0
        low, high = np.where(short, low, middle), np.where(short, middle, high)
    weights: Array = (np.maximum(z - low, 0.0) ** power).astype(scores.dtype)
    return weights


def _below_top(scores: Array, seen: Visible) -> Array:
    """Scores less the row's largest, -inf where hidden."""
    shown = shown_scores(scores, seen)
    top = shown.max(axis=-1, keepdims=True)
    return shown - np.where(np.isneginf(top), 0.0, top).astype(scores.dtype, copy=False)


def _cut_off(z: Array, thresholds: Callable[[Array, Array], tuple[Array, Visible]]) -> Array:
    """``[z - τ]₊`` with the threshold of the last key that still weighs something; 0 in a row that sees none."""
    falling = np.ascontiguousarray(-np.sort(-z, axis=-1))
    count = np.arange(1, z.shape[-1] + 1).astype(z.dtype)
    tau, inside = thresholds(falling, count)
    last = np.maximum(np.count_nonzero(inside, axis=-1, keepdims=True), 1) - 1
    chosen = np.take_along_axis(tau, last, axis=-1)
    none = np.isneginf(falling[..., :1])
    return np.maximum(z - np.where(none, 0.0, chosen).astype(z.dtype, copy=False), 0.0)


def _sparsemax_thresholds(falling: Array, count: Array) -> tuple[Array, Visible]:
    """τ for a support of the first k, and whether the k-th is in it."""
    sums = np.add.accumulate(falling, axis=-1)
    return (sums - 1.0) / count, 1.0 + count * falling > sums


def _entmax15_thresholds(falling: Array, count: Array) -> tuple[Array, Visible]:
    """τ for a support of the first k, and whether the k-th is in it."""
    mean = np.add.accumulate(falling, axis=-1) / count
    squares = np.add.accumulate(falling * falling, axis=-1) / count
    with np.errstate(invalid="ignore"):  # behind the last visible key
        left = (1.0 - count * (squares - mean * mean)) / count
    tau = mean - np.sqrt(np.maximum(left, 0.0))
    return tau, tau < falling
