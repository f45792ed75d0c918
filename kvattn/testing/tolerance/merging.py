"""Partial results that are weighed by ``exp`` of a difference of log-sum-exps: split keys, rings, ``exp(s - lse)``.

A part i of the keys has the log-sum-exp ``lse_i``, rounded, and its output the weight ``exp(lse_i - lse)``: wrong by
``u |lse_i|``, ``u |lse|``, by the logarithms and the exp.  A part that holds key j has ``lse_i`` between ``s_j`` and
``lse``, so that ``|lse_i| <= |lse| - log p_j``: every key's error is known without knowing the parts [T16].
"""

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import above
from kvattn.testing.tolerance.weights import Weights
from kvattn.typing import Array


def through_lse(weights: Weights, arithmetic: Arithmetic) -> Array:
    """Return what weighing partial results by their log-sum-exp adds to the relative error of each key [T16].

    Parameters
    ----------
    weights
        Of R rows.
    arithmetic
        Its ``merges`` count.

    Returns
    -------
    Array
        ``[R, S']``, zeros where nothing is merged.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Weights(one, one, one, one, one, one, one, 0 * one, one, one, one)
    >>> float(through_lse(w, Arithmetic())[0, 0]), bool(through_lse(w, Arithmetic(merges=1)) > 1e-15)
    (0.0, True)
    """
    if not arithmetic.merges:
        return np.zeros_like(weights.p)
    u = format_of(arithmetic.compute).roundoff
    with np.errstate(divide="ignore"):
        deep = -np.log(np.where(weights.p > 0, weights.p, 1.0))
    lse = np.where(weights.empty, 0.0, weights.lse)[:, None]
    reach = 1 + np.abs(lse) + deep + np.log(np.maximum(weights.keys, 1))
    found: Array = arithmetic.merges * (4 * arithmetic.exp_ulp * u + above(u, 8)) * reach
    return found


def merging(weights: Weights, v: Array, out: Array, arithmetic: Arithmetic) -> Array:
    """Variance that weighing by log-sum-exps adds: of each part, and of the whole, which is shared [T16].

    Parameters
    ----------
    weights, v, out
        Of R rows; ``[S', Dv]``, ``[R, Dv]``.
    arithmetic
        Its ``merges`` count.

    Returns
    -------
    Array
        ``[R, Dv]``.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Weights(one, one, one, one, one, one, one, 0 * one, one, one, one)
    >>> float(merging(w, one, one, Arithmetic())[0, 0]), bool(merging(w, one, one, Arithmetic(merges=2)) > 0)
    (0.0, True)
    """
    if not arithmetic.merges:
        return np.zeros_like(out)
    u, p = format_of(arithmetic.compute).roundoff, weights.p
    exp_error = 2 * arithmetic.exp_ulp * u
    with np.errstate(divide="ignore"):
        deep = np.log(np.where(p > 0, p, 1.0))
    lse = np.where(weights.empty, 0.0, weights.lse)[:, None]
    shared = u**2 * (2 * lse**2 + np.log(weights.total) ** 2) + 2 * exp_error**2
    found: Array = ((p**2 * (shared + u**2 * deep**2)) @ v**2 + shared * out**2) / 3
    return found
