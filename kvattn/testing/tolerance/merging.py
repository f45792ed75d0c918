"""Partial results that are weighed by ``exp`` of a difference of log-sum-exps: split keys, rings, ``exp(s - lse)``.

A part i of the keys has the log-sum-exp ``lse_i``, rounded, and its output the weight ``exp(lse_i - lse)``: wrong by
``u |lse_i|``, ``u |lse|``, by the logarithms and the exp.  A part that holds key j has ``lse_i`` between ``s_j`` and
``lse``, so that ``|lse_i| <= |lse| - log p_j``: every key's error is known without knowing the parts [T16].

Probabilities taken as ``exp(s - lse)`` are divided by nothing, so that the error of lse does not cancel, and lse itself
may be added up key by key, ``lse_t = max + log(1 + exp(-d))``.  With ``c`` the error of exp and log, step t errs by at
most ``c/2 + c log 2 + u/e + u |lse_t|``: exp, log, the difference d, the sum.  What it errs by reaches the end
times the share ``P_t`` of the keys up to t, and ``P_t |lse_t| <= |lse| + 1/e``.  So, over n keys::

    δ = (n - 1) (5/4 c + 5/4 u (1 + |lse|)),    |error of lse| <= δ exp(4δ) where δ <= 1/6                [T16]

of which ``exp(4δ)`` is for shares that are themselves wrong; beyond, nothing is known.
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
    lse = np.where(weights.empty, 0.0, weights.lse)[..., None]
    reach = 1 + np.abs(lse) + deep + np.log(np.maximum(weights.keys, 1))
    found: Array = arithmetic.merges * (4 * arithmetic.exp_ulp * u + above(u, 8)) * reach
    return found + added(weights, arithmetic)


def added(weights: Weights, arithmetic: Arithmetic) -> Array:
    """Return how far a log-sum-exp may be off that is added up key by key [T16].

    Parameters
    ----------
    weights
        Of R rows.
    arithmetic
        With ``merges=1``.

    Returns
    -------
    Array
        ``[R, 1]``; zeros for other merges, infinite where too many keys are added.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Weights(one, one, one, one, one, one, one, 0 * one, one, one, one + 8)
    >>> [bool(added(w, Arithmetic(name, merges=1))[0, 0] < 1e-5) for name in ("float32", "bfloat16")]
    [True, False]
    """
    if arithmetic.merges != 1:
        return np.zeros_like(weights.keys)
    u = format_of(arithmetic.compute).roundoff
    lse = np.where(weights.empty, 0.0, weights.lse)[..., None]
    first = 1.25 * u * np.maximum(weights.keys - 1, 0) * (2 * arithmetic.exp_ulp + 1 + np.abs(lse))
    found: Array = np.where(first > 1 / 6, np.inf, first * np.exp(4 * np.minimum(first, 1)))  # [T16]
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
    lse = np.where(weights.empty, 0.0, weights.lse)[..., None]
    shared = u**2 * (2 * lse**2 + np.log(weights.total) ** 2) + 2 * exp_error**2
    if arithmetic.merges == 1:
        shared = shared + np.maximum(weights.keys - 1, 0) * (u**2 * (1 + np.abs(lse)) ** 2 + exp_error**2)  # [T16]
    found: Array = ((p**2 * (shared + u**2 * deep**2)) @ v**2 + shared * out**2) / 3
    return found
