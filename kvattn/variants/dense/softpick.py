"""Softpick: a rectified softmax that can weigh everything 0, so that no key must serve as a sink.

    w_ij = relu(e^s_ij - 1) / (Σ_k |e^s_ik - 1| + ε e^m_i),      m_i = max_k s_ik,   over visible k

Keys that score below 0 add to the denominator and get nothing; weights sum to at most 1.  Hidden keys are
left out of the sum: they add 0, and not the 1 that a score of -∞ would.

Computed without overflow and without the cancellation of e^s - 1 near 0: with μ = max(m, 0),

    e^-μ |e^s - 1|  =  -expm1(-|s|) · e^(max(s, 0) - μ)

Shapes: scores and weights ``[Hq, T, S]``.  Cached per token: as grouped attention.
Cost: 10 operations and two exponentials per pair, two operations per row.  lse is NaN: parts over different
keys merge only with their denominators beside them.

Source: Zuhri et al. 2025 (2504.20966), the definition and the form that subtracts m and adds ε.
Where libraries differ: ε is added to the shifted sum, so its weight against unshifted scores is ε e^m, and matters
only where all scores are nearly 0; code in use subtracts e^-m from e^(s-m), which cancels there.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import real
from kvattn.core.weights import Weights, row_sum, shown_scores, without_lse
from kvattn.counting import Tally
from kvattn.typing import Array, Place, Visible


@dataclass(frozen=True)
class Softpick:
    """Softpick weights, for `kvattn.variants.dense.weighed.Weighed`.

    Parameters
    ----------
    epsilon
        ε, added to the denominator after the shift by the maximum; where ε is 0, a row of zeros stays 0.

    Raises
    ------
    ArgumentError
        A negative epsilon.

    Examples
    --------
    >>> scores = np.log([[[3.0, 0.5, 2.0]]])  # e^s - 1: 2, -0.5, 1
    >>> Softpick(0.0).definition(scores, np.array([[[True, True, False]]]), None).weights
    array([[[0.8, 0. , 0. ]]])
    """

    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", real("epsilon", self.epsilon, least=0.0))

    def definition(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """As it is written, with the paper's shift by the maximum.

        >>> Softpick(0.0).definition(np.ones((1, 1, 2)), np.ones((1, 1, 2), bool), None).weights
        array([[[0.5, 0.5]]])
        """
        shown = np.where(seen, scores, -np.inf)
        top = np.maximum(shown.max(axis=-1, keepdims=True, initial=-np.inf), 0.0)
        apart = np.where(seen, np.exp(scores - top) * -np.expm1(-scores), 0.0)
        small = np.where(seen, np.exp(-top) * np.expm1(np.minimum(scores, 0.0)), 0.0)
        moved = np.where(scores > 0, apart, small)
        total = np.abs(moved).sum(axis=-1, keepdims=True) + self.epsilon
        weights = np.divide(np.maximum(moved, 0.0), total, out=np.zeros_like(moved), where=total != 0)
        return without_lse(weights.astype(scores.dtype, copy=False))

    def weigh(self, scores: Array, seen: Visible, place: Place) -> Weights:
        """The same in blocks.

        >>> Softpick(0.0).weigh(np.ones((1, 1, 256)), np.arange(256) < 2, None).weights[0, 0, :3]
        array([0.5, 0.5, 0. ])
        """
        shown = shown_scores(scores, seen)
        above = np.maximum(shown, 0.0)
        powers = -np.expm1(-np.abs(shown)) * np.exp(above - above.max(axis=-1, keepdims=True))
        sizes = np.where(seen, powers, 0.0).astype(scores.dtype, copy=False)
        total = row_sum(sizes) + self.epsilon
        picked = np.where(shown <= 0, 0.0, sizes).astype(scores.dtype, copy=False)
        return without_lse(picked / np.where(total == 0.0, 1.0, total).astype(scores.dtype, copy=False))

    def cost(self, *, pairs: int, rows: int, width: int) -> Tally:
        """Two comparisons with 0, a maximum, five operations for the power, a sum and a division per pair.

        >>> Softpick().cost(pairs=10, rows=2, width=4)
        Tally(arithmetic=104, transcendental=20)
        """
        return Tally(arithmetic=10 * pairs + 2 * rows, transcendental=2 * pairs)
