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

``V`` is the mean of ``|v|`` under the tested code's weights: at most ``Σ p_j exp(ε_j)|v_j| / Σ p_j exp(-ε_j)``, and
at most the largest.  ``f`` and ``g`` are what underflow takes.  Partial results merged by their log-sum-exp add to ν,
key by key, what ``exp(lse_i - lse)`` is wrong by [T16].

Statistical.  Independent roundings of variance ``u²/3``, eight standard deviations, all of it over what the total
keeps::

    Σ p_j² (v_j - o)² Var exp(τ_j)                       weights, with the total           [S3]
    (u_p² + u²)/3 Σ p_j² v_j²  + u_p |Σ p_j v_j|         rounding and product, each alone, and all alike; over the
                                                         j whose weight is not 1; division, where it is first [S4]
    Σ_t min(u² S_t² / 3, x_t²)                           additions of x_t = p_t v_t to S_t; the same for the total [S5]
    |Σ_t (x_t, rounded to steps of S_t) - x_t|           additions in which x_t is a few steps, or lost  [S6]
    Σ_g Var τ_g (Σ_{j in g} p_j (v_j - o))²              for keys that are equal, instead of the first  [S7]
    Σ_t min(u |S_t|, |x_t|) over t with equal keys       and are added with equal errors, where their values
        and equal values                                 are equal too (in the total: their weights)  [S10]
    u_store |o| + underflow                                                                 [S8]
    Σ η_j² v_j² / 3  + |Σ c_j v_j|                       weights and products below the normal numbers, each by
                                                         itself, and known (`kvattn.testing.tolerance.steps`)  [S11]
"""

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import (
    LOOSE,
    above,
    below,
    conversion,
    exact_products,
    path,
    rescales,
    total_unit,
    underflow,
    unit,
    weight_unit,
)
from kvattn.testing.tolerance.limits import Limits, closed
from kvattn.testing.tolerance.merging import merging, through_lse
from kvattn.testing.tolerance.running import Alike, summed
from kvattn.testing.tolerance.steps import products
from kvattn.testing.tolerance.weights import Weights, divided_first
from kvattn.typing import Array

SIGMAS = 8.0
"""Standard deviations in the statistical bound."""


def mixed(weights: Weights, v: Array, alike: Alike, arithmetic: Arithmetic) -> Limits:
    """Compute outputs, and bound the error of each.

    Parameters
    ----------
    weights
        Of R rows, S' keys; of N heads, everything has N in front.
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
    u_p, u_store = weight_unit(arithmetic), format_of(arithmetic.store).roundoff
    u_total, tiny_sum = total_unit(arithmetic), underflow(arithmetic.accumulate)
    p, total = weights.p, weights.total
    count, again = weights.keys, rescales(weights.keys, arithmetic)
    dv = conversion(v, arithmetic.inputs)
    size = np.abs(v)
    out = p @ v
    sums = summed(weights, v, out, alike, arithmetic)

    less = weights.less.sum(axis=-1, keepdims=True)
    largest, smallest = v.max(-2, keepdims=True, initial=-np.inf), v.min(-2, keepdims=True, initial=np.inf)
    spread = np.maximum(largest - out, out - smallest) if v.shape[-2] else 0 * out
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        moved = np.fmin(sums.moved / less, spread)  # [T11]
        mean = np.fmin((p @ size + weights.more @ size) / less, size.max(-2, keepdims=True, initial=0.0))
        converted = np.fmin((p @ dv + weights.more @ dv) / less, dv.max(-2, keepdims=True, initial=0.0))
        additions = path(count, arithmetic) + again
        nu = (1 + u_p) * (1 + above(u_sum, additions + 1)) * (1 + above(u, 3)) - 1  # [T13]
        mu = (1 + u_total) * (1 + above(u_sum, additions)) - 1  # [T14]
        mu_less = 1 - (1 - u_total) * (1 - below(u_sum, additions))
        through = through_lse(weights, arithmetic)
        merged = (np.expm1(through) * (p + weights.more)) @ size / less  # [T16]
        slack = np.exp(weights.shift) * (1 + nu)
        per_key = tiny_sum * (1 + 1 / total) if divided_first(arithmetic) else tiny_sum / total
        lost = weights.absolute @ size + (count + again) * per_key
        lost_total = weights.absolute.sum(axis=-1, keepdims=True) + again * tiny_sum / total
        f, g = slack * lost, slack * lost_total
        rest = 1 - mu_less - g
        away = nu * mean + (1 + nu) * (merged + converted) + f + (mu + g) * (np.abs(out) + moved)
        error = moved + np.where(rest > 0, away / np.where(rest > 0, rest, 1), np.inf)  # [T12]
        worst = error + u_store * (np.abs(out) + error) + underflow(arithmetic.store)  # [T15]

    exact = exact_products(arithmetic.probabilities, arithmetic)
    rounding = 0.0 if exact else LOOSE * u_sum**2 / 3 * (weights.rounded**2 @ v**2)  # [S4]
    whole = u_p * np.abs(weights.rounded @ v) + u_store * np.abs(out) + underflow(arithmetic.store)  # [S4] [S8]
    if divided_first(arithmetic):
        rounding, whole = rounding + LOOSE * 2 * u**2 / 3 * (p**2 @ v**2), whole + u * np.abs(out)  # [S4]
    rescaled = LOOSE * np.log2(1 + weights.again) * u_sum**2 / 3 * 2 * out**2
    finish = LOOSE * 2 * u**2 / 3 * out**2 * (total - 1 > u / 2)  # a total that rounds to 1 divides exactly
    variance = sums.variance + rounding + rescaled + finish + merging(weights, v, out, arithmetic)
    base = np.ones_like(total) if divided_first(arithmetic) else total
    gone, few = products(p * base, weights.mixed.over(1 / base), v, arithmetic)  # [S11]
    variance = variance + (alike.mixed(weights.mixed.chance, v) + few / base**2) / 3  # [S11]
    known = gone / base + np.abs(weights.mixed.known @ v).max(0)  # [S11]
    known = known + np.abs(weights.added.known.sum(-1, keepdims=True)).max(0) * np.abs(out)
    rescaling = weights.again * tiny_sum / total * (1 + np.abs(out))
    drift = sums.lost + np.fmin(sums.second, spread) + known + rescaling
    statistical = SIGMAS * np.sqrt(variance) + drift + sums.together + whole
    everything = variance + (u_store * out) ** 2 / 3
    found = Limits(out, statistical, worst, everything, drift)
    return closed(found, weights, np.abs(v).max(-2, keepdims=True, initial=0), arithmetic)
