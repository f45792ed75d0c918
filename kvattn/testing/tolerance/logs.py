"""How far a log-sum-exp may be from the exact one, for some rows of one head.

The total is ``Σ p_j exp(τ_j)(1 + μ_j) + g``, as in `kvattn.testing.tolerance.outputs`; nothing cancels.  Its logarithm
is taken, the maximum is added, and base 2 may be left again::

    |lse error| <= x + c |log D| + ((1 + u)^3 - 1)(|log D| + |m| + E + |lse| + x)                   [T18]
    x = max( log(Σ p_j exp(ε_j) (1 + μ) + g), -log(Σ p_j exp(-ε_j) (1 - μ') - g) )                  [T18]

The log-sum-exp is kept in ``compute``.
"""

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import LOOSE, above, below, binade, path, rescales, total_unit, underflow, unit
from kvattn.testing.tolerance.limits import Limits, closed
from kvattn.testing.tolerance.merging import added
from kvattn.testing.tolerance.outputs import SIGMAS
from kvattn.testing.tolerance.running import Alike, additions
from kvattn.testing.tolerance.weights import Weights
from kvattn.typing import Array


def logs(weights: Weights, alike: Alike, arithmetic: Arithmetic) -> Limits:
    """Bound the error of the log-sum-exp of each row.

    Parameters
    ----------
    weights
        Of R rows.
    alike
        Copies among their keys.
    arithmetic
        Of the tested code.

    Returns
    -------
    Limits
        ``[R]`` each; ``exact`` is -inf in rows that see nothing.

    Examples
    --------
    >>> from kvattn.testing.tolerance.scores import Scores
    >>> from kvattn.testing.tolerance.weights import weighed
    >>> s = np.array([[0.0, 0.0]])
    >>> a, none = Arithmetic("float32"), Alike(np.array([-1, -1]), np.array([False, False]))
    >>> logs(weighed(Scores(s, 0 * s, 0 * s, s), a), none, a).exact
    array([0.69314718])
    """
    shape, weights = weights.p.shape[:-1], weights.flat  # no row knows which head it is of
    u, u_sum = format_of(arithmetic.compute).roundoff, unit(arithmetic)
    u_p, tiny_sum = total_unit(arithmetic), underflow(arithmetic.accumulate)
    p, total, count = weights.p, weights.total[:, 0], weights.keys[:, 0]
    again = rescales(count, arithmetic)
    exp_error = 2 * arithmetic.exp_ulp * u
    lse = np.where(weights.empty, 0.0, weights.lse)
    longest = path(count, arithmetic) + again
    mu = (1 + u_p) * (1 + above(u_sum, longest)) - 1  # [T14]
    mu_less = 1 - (1 - u_p) * (1 - below(u_sum, longest))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        lost = weights.absolute.sum(1) + again * tiny_sum / total
        g = np.exp(weights.shift[:, 0]) * lost * (1 + mu)
        more = np.log1p(weights.more.sum(1) + mu * (1 + weights.more.sum(1)) + g)
        rest = weights.less.sum(1) * (1 - mu_less) - g
        less = -np.log(np.where(rest > 0, rest, 0.0))
        less = np.where(rest > 0.5, -np.log1p(-_short(weights, mu_less, g)), less)
        off = np.maximum(more, less)
        inner = np.log(total) + off + weights.shift[:, 0]
        outer = np.abs(weights.top[:, 0]) + weights.shift[:, 0]
        error = off + exp_error * inner + above(u, 3) * (inner + outer + np.abs(lse) + off)  # [T18]
        error = (
            error * (1 + above(u, 3))
            + 3 * underflow(arithmetic.compute)
            + arithmetic.merges * (exp_error + above(u, 8) * (1 + np.abs(lse) + np.log(np.maximum(count, 1))))
            + added(weights, arithmetic)[:, 0]  # [T16]
        )
        total_sum = additions(weights, alike, arithmetic)
        each = weights.variance + weights.later
        variance = alike.squared(p * np.sqrt(each)) + LOOSE * u_p**2 / 3 * alike.squared(weights.rounded)
        variance = variance + total_sum.variance + alike.squared(weights.added.chance) / 3  # [S11]
        variance = variance + (exp_error * binade(np.log(total))) ** 2 / 3
        variance = variance + u**2 / 3 * (binade(weights.top[:, 0]) ** 2 + 2 * binade(lse) ** 2)
        variance = variance + (arithmetic.merges * u * (1 + np.abs(lse))) ** 2
        if arithmetic.merges == 1:
            one_step = (u * (1 + np.abs(lse))) ** 2 + exp_error**2
            variance = variance + np.maximum(count - 1, 0) * one_step / 3  # [T16]
        lost = np.abs(weights.added.known.sum(2)).max(0) + weights.again[:, 0] * tiny_sum / total  # [S11]
        drift = -np.log1p(-np.minimum(total_sum.lost + lost, 1)) + (p * (each / 2 + weights.drift)).sum(1)
        statistical = SIGMAS * np.sqrt(variance) + drift + total_sum.together + u * np.abs(lse)
    found = Limits(weights.lse, statistical, error, variance, drift)
    return Limits(*(x.reshape(shape) for x in closed(found, weights, np.zeros(()), arithmetic)))


def _short(weights: Weights, mu_less: Array, g: Array) -> Array:
    """One less than ``Σ p exp(-ε) (1 - μ') - g``, without cancellation where the errors are small."""
    short = (weights.p - weights.less).sum(1)
    found: Array = short + mu_less * (1 - short) + g
    return found
