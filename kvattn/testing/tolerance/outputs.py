"""How far an output may be from the exact one: worst case and statistical, for some rows of one head.

Worst case.  With the weights ``a_j exp(τ_j)`` of `kvattn.testing.tolerance.weights`, ``p'_j`` these weights over their
sum, ``o' = Σ p'_j v_j``, tested code has ``N / D`` with ``N = Σ p'_j (1 + ν_j)(v_j + dv_j) + f`` and
``D = Σ p'_j (1 + μ_j) + g``.  Two exact steps::

    o' - o   = Σ p_j (exp(τ_j) - 1)(v_j - o) / Σ p_j exp(τ_j)
    N/D - o' = [ Σ p'_j ν_j v_j + Σ p'_j (1 + ν_j) dv_j + f - o' (Σ p'_j μ_j + g) ] / D

The factor ``v_j - o`` is what makes errors that all scores share harmless.  Hence::

    R = min( Σ p_j (exp(ε_j) - 1)|v_j - o| / Σ p_j exp(-ε_j),  max_j |v_j - o| )               [T11]
    X = R + [ ν V + (1 + ν) dV + f + (μ + g)(|o| + R) ] / (1 - μ' - g)                          [T12]
    ν: rounding to `probabilities`, product, additions, rescales, division                      [T13]
    μ: rounding to `probabilities` where the total is of rounded weights, additions, rescales   [T14]
    |out - o| <= X + u_store (|o| + X) + underflow                                              [T15]

``V`` is the mean of |v| under the tested code's weights: at most ``Σ p_j exp(ε_j)|v_j| / Σ p_j exp(-ε_j)``, and at most
the largest.  ``f`` and ``g`` are what underflow takes.  Partial results merged by their log-sum-exp add to ν, key
by key, what ``exp(lse_i - lse)`` is wrong by [T16].

Statistical.  Independent roundings of variance ``u²/3``, eight standard deviations::

    Σ p_j² (v_j - o)² Var τ_j                            weights, with the total           [S3]
    u_p²/3 Σ p_j² v_j²  + u_p |o|                        probabilities; alone, and all alike [S4]
    Σ_t min(u² S_t² / 3, x_t²)                           additions of x_t = p_t v_t to S_t; the same for the total [S5]
    |Σ of the x_t with |x_t| < u |S_t||                  additions in which x_t is lost     [S6]
    Σ_g Var τ_g (Σ_{j in g} p_j (v_j - o))²              keys that are equal err alike      [S7]
    Σ_t min(u |S_t|, |x_t|) over t with equal keys       and are added with equal errors, where their values
        and equal values                                 are equal too (in the total: their weights)  [S10]
    u_store |o| + underflow                                                                 [S8]
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import above, below, conversion, path, rescales, underflow, unit
from kvattn.testing.tolerance.weights import Weights, divided_first
from kvattn.typing import Array

CHUNK = 1 << 18
"""Numbers in a block of rows, keys and channels."""

SIGMAS = 8.0
"""Standard deviations in the statistical bound."""


class Limits(NamedTuple):
    """What some rows should be, and how far from it they may be.

    Attributes
    ----------
    exact
        ``[R, Dv]``, or ``[R]`` for the log-sum-exp, as exact as float64 has it.
    statistical, worst
        The bounds, of the same shape.
    variance
        Of the error, without what is below.
    drift
        By how much the error's mean may differ from 0.
    """

    exact: Array
    statistical: Array
    worst: Array
    variance: Array
    drift: Array


class Alike(NamedTuple):
    """Which keys of a head are copies of each other.

    Attributes
    ----------
    keys
        ``[S']``: a number for each set of equal keys, -1 for a key that is like no other.
    pairs
        ``[S']``: whether another key is equal, and its value too.
    """

    keys: Array
    pairs: NDArray[np.bool_]


def mixed(weights: Weights, v: Array, alike: Alike, arithmetic: Arithmetic) -> Limits:
    """Compute outputs, and bound the error of each.

    Parameters
    ----------
    weights
        Of R rows, S' keys.
    v
        ``[S', Dv]``.
    alike
        Copies among the S' keys.
    arithmetic
        Of the tested code.

    Returns
    -------
    Limits
        ``[R, Dv]`` each.

    Examples
    --------
    >>> from kvattn.testing.tolerance.scores import Scores
    >>> from kvattn.testing.tolerance.weights import weighed
    >>> s = np.array([[0.0, 0.0]])
    >>> a, none = Arithmetic("float32"), Alike(np.array([-1, -1]), np.array([False, False]))
    >>> found = mixed(weighed(Scores(s, 0 * s, 0 * s, s), a), np.array([[1.0], [3.0]]), none, a)
    >>> found.exact, bool((found.statistical <= found.worst).all())
    (array([[2.]]), True)
    """
    u, u_sum = format_of(arithmetic.compute).roundoff, unit(arithmetic)
    u_p, u_store = format_of(arithmetic.probabilities).roundoff, format_of(arithmetic.store).roundoff
    tiny_sum = underflow(arithmetic.accumulate)
    p, total = weights.p, weights.total
    count, again = weights.keys, rescales(weights.keys, arithmetic)
    dv = conversion(v, arithmetic.inputs)
    size = np.abs(v)
    out = p @ v
    sums = _summed(weights, v, out, alike, arithmetic)

    less = weights.less.sum(axis=1, keepdims=True)
    spread = np.maximum(v.max(0, initial=-np.inf) - out, out - v.min(0, initial=np.inf)) if len(v) else 0 * out
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        moved = np.fmin(sums.moved / less, spread)  # [T11]
        mean = np.fmin((p @ size + weights.more @ size) / less, size.max(0, initial=0.0))
        converted = np.fmin((p @ dv + weights.more @ dv) / less, dv.max(0, initial=0.0))
        additions = path(count, arithmetic) + again
        nu = (1 + u_p) * (1 + above(u_sum, additions + 1)) * (1 + above(u, 3)) - 1  # [T13]
        mu = (1 + u_p) * (1 + above(u_sum, additions)) - 1  # [T14]
        mu_less = 1 - (1 - u_p) * (1 - below(u_sum, additions))
        through = through_lse(weights, arithmetic)
        merged = (np.expm1(through) * (p + weights.more)) @ size / less  # [T16]
        slack = np.exp(weights.shift) * (1 + nu)
        per_key = tiny_sum * (1 + 1 / total) if divided_first(arithmetic) else tiny_sum / total
        f = slack * (weights.absolute @ size + (count + again) * per_key)
        g = slack * (weights.absolute.sum(axis=1, keepdims=True) + again * tiny_sum / total)
        rest = 1 - mu_less - g
        away = nu * mean + (1 + nu) * (merged + converted) + f + (mu + g) * (np.abs(out) + moved)
        error = moved + np.where(rest > 0, away / np.where(rest > 0, rest, 1), np.inf)  # [T12]
        worst = error + u_store * (np.abs(out) + error) + underflow(arithmetic.store)  # [T15]

    rounding = (u_p**2 + u_sum**2) / 3 * (p**2 @ v**2)  # [S4]
    rescaled = np.log2(1 + again) * u_sum**2 / 3 * 2 * out**2
    finish = 2 * u**2 / 3 * out**2
    variance = sums.variance + rounding + rescaled + finish + _merging(weights, v, out, arithmetic)
    drift = sums.lost + sums.second + f + g * np.abs(out)
    whole = (u_p + u_store) * np.abs(out) + underflow(arithmetic.store)  # [S4] [S8]
    statistical = SIGMAS * np.sqrt(variance) + drift + sums.together + whole
    everything = variance + (u_store * out) ** 2 / 3
    return closed(Limits(out, statistical, worst, everything, drift), weights, np.abs(v).max(0, initial=0), arithmetic)


def logs(weights: Weights, alike: Alike, arithmetic: Arithmetic) -> Limits:
    """Bound the error of the log-sum-exp of each row.

    The total is ``Σ p_j exp(τ_j)(1 + μ_j) + g``, of which the logarithm is taken, and to which the maximum is
    added; conversion from base 2 is allowed for [T18].  Where all errors are small the bound is
    ``Σ p_j ε_j + μ + u (c |log A| + 3 |m| + 3 |lse|)``.

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
    u, u_sum = format_of(arithmetic.compute).roundoff, unit(arithmetic)
    u_p, tiny_sum = format_of(arithmetic.probabilities).roundoff, underflow(arithmetic.accumulate)
    p, total, count = weights.p, weights.total[:, 0], weights.keys[:, 0]
    again = rescales(count, arithmetic)
    exp_error = 2 * arithmetic.exp_ulp * u
    lse = np.where(weights.empty, 0.0, weights.lse)
    additions = path(count, arithmetic) + again
    mu = (1 + u_p) * (1 + above(u_sum, additions)) - 1  # [T14]
    mu_less = 1 - (1 - u_p) * (1 - below(u_sum, additions))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        g = np.exp(weights.shift[:, 0]) * (weights.absolute.sum(1) + again * tiny_sum / total) * (1 + mu)
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
        )
        parts, lost, together = _additions(weights, alike, arithmetic)
        variance = (p**2 * (weights.variance + u_p**2 / 3)).sum(1) + parts
        variance = variance + (exp_error * np.log(total)) ** 2 / 3 + u**2 * (outer**2 + lse**2)
        variance = variance + (arithmetic.merges * u * (1 + np.abs(lse))) ** 2
        drift = -np.log1p(-np.minimum(lost + g, 1)) + (p * weights.variance).sum(1)
        statistical = SIGMAS * np.sqrt(variance) + drift + together + u * np.abs(lse)
    found = Limits(weights.lse, statistical, error, variance, drift)
    return closed(found, weights, np.zeros(()), arithmetic)


def through_lse(weights: Weights, arithmetic: Arithmetic) -> Array:
    """Return what weighing partial results by their log-sum-exp adds to the relative error of each key [T16].

    A part that holds key j has ``lse_i`` between ``s_j`` and ``lse``, so that ``|lse_i| <= |lse| - log p_j``.

    >>> one = np.ones((1, 1))
    >>> w = Weights(one, one, one, one, one, 0 * one, one, one, one)
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


def _merging(weights: Weights, v: Array, out: Array, arithmetic: Arithmetic) -> Array:
    """Variance that weighing by log-sum-exps adds: of each part, and of the whole, which is shared [T16]."""
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


def closed(limits: Limits, weights: Weights, largest: Array, arithmetic: Arithmetic) -> Limits:
    """Return limits that are right in rows that see nothing, and where a format ends.

    Rows that see nothing are 0, exactly.  Where the sums or the output can pass the largest number of
    their format, nothing is bounded [T17].  A millionth is added for the rounding of the bound itself.

    >>> one, zero = np.ones((1, 1)), np.zeros((1, 1))
    >>> w = Weights(zero, zero, zero, zero, zero, zero, one, zero, zero)
    >>> closed(Limits(zero, one, one, one, one), w, zero, Arithmetic()).worst
    array([[0.]])
    """
    exact, statistical, worst, variance, drift = limits
    nothing = weights.empty if exact.ndim == 1 else weights.empty[:, None]
    total, shift = (x[:, 0] if exact.ndim == 1 else x for x in (weights.total, weights.shift))
    store = arithmetic.compute if exact.ndim == 1 else arithmetic.store
    with np.errstate(invalid="ignore", over="ignore"):
        sums = total * np.exp(shift) * np.maximum(largest, 1) * (1 + above(unit(arithmetic), weights.p.shape[1]))
        beyond = (sums > format_of(arithmetic.accumulate).kind.largest) | np.isinf(shift)
        beyond = beyond | (np.abs(exact) + worst > format_of(store).kind.largest)
        worst = np.where(beyond | np.isnan(worst), np.inf, worst) * (1 + 1e-6)
        certain = total * np.maximum(np.abs(exact), 1) > format_of(arithmetic.accumulate).kind.largest
        certain = certain | (np.abs(exact) > format_of(store).kind.largest)
        statistical = np.where(certain | np.isnan(statistical), np.inf, np.minimum(statistical, worst))
    return Limits(exact, *(np.where(nothing, 0.0, x) for x in (statistical, worst, variance, drift)))


class _Sums(NamedTuple):
    moved: Array
    variance: Array
    second: Array
    lost: Array
    together: Array


def _summed(weights: Weights, v: Array, out: Array, alike: Alike, arithmetic: Arithmetic) -> _Sums:
    """What needs ``v_j - o`` or the running sums, key by key: ``[rows, keys, channels]``, some keys at a time."""
    p, u = weights.p, unit(arithmetic)
    rows, width = out.shape
    moved, variance, second, lost, together = (np.zeros_like(out) for _ in range(5))
    running, size = np.zeros_like(out), max(1, CHUNK // max(1, rows * width))
    spread = p**2 * weights.variance
    for first in range(0, len(v), size):
        some = slice(first, first + size)
        away = v[some] - out[:, None]  # [R, keys, Dv]
        variance += (spread[:, None, some] @ away**2)[:, 0]  # [S3]
        np.abs(away, out=away)
        moved += (weights.more[:, None, some] @ away)[:, 0]
        second += ((p * weights.variance)[:, None, some] @ away)[:, 0]
        if arithmetic.order == "sequential":
            x = p[:, some, None] * v[some]
            sums = np.cumsum(x, axis=1)
            sums += running[:, None]
            running = sums[:, -1].copy()
            np.abs(sums, out=sums)
            sums *= u
            small = np.abs(x) < sums
            lost += np.where(small, x, 0.0).sum(1)  # [S6]
            lost_by_cut = (2 * arithmetic.sum_ulp - 1) * np.minimum(sums, np.abs(x)).sum(1)
            lost += np.copysign(lost_by_cut, running)
            together += np.minimum(sums, np.abs(x))[:, alike.pairs[some]].sum(1)  # [S10]
            variance += np.minimum(sums**2 / 3, x**2).sum(1)  # [S5]
    parts, lost_parts, together_parts = _additions(weights, alike, arithmetic)
    variance += parts[:, None] * out**2
    lost = np.abs(lost) + lost_parts[:, None] * np.abs(out)
    together += together_parts[:, None] * np.abs(out)
    if arithmetic.order == "pairwise":
        variance += u**2 / 3 * (float(path(len(v), arithmetic)) * (p**2 @ v**2) + 2 * out**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.where(lost_parts[:, None] < 1, lost / (1 - np.minimum(lost_parts, 1))[:, None], np.inf)
    deviation = p * np.sqrt(weights.variance)
    for group in np.unique(alike.keys[alike.keys >= 0]):
        same = np.flatnonzero(alike.keys == group)
        variance += (deviation[:, same] @ v[same] - deviation[:, same].sum(1, keepdims=True) * out) ** 2  # [S7]
    return _Sums(moved, variance, second, lost, together)


def _additions(weights: Weights, alike: Alike, arithmetic: Arithmetic) -> tuple[Array, Array, Array]:
    """Of the total's running sum, in units of the total: variance, loss, errors of equal weights; ``[R]`` each."""
    u, p = unit(arithmetic), weights.p
    if arithmetic.order == "pairwise":
        none = np.zeros(len(p))
        return u**2 / 3 * (float(path(p.shape[1], arithmetic)) * (p**2).sum(1) + 2), none, none
    sums = np.minimum(u * np.cumsum(p, axis=1), p)
    lost = np.where(sums == p, p, 0.0).sum(1) + (2 * arithmetic.sum_ulp - 1) * sums.sum(1)
    below_top = (alike.keys >= 0) & (p * weights.total < 1)  # a weight of 1 is added without error
    return np.minimum(sums**2 / 3, p**2).sum(1), lost, np.where(below_top, sums, 0.0).sum(1)


def _short(weights: Weights, mu_less: Array, g: Array) -> Array:
    """One less than ``Σ p exp(-ε) (1 - μ') - g``, without cancellation where the errors are small."""
    short = (weights.p - weights.less).sum(1)
    found: Array = short + mu_less * (1 - short) + g
    return found
