"""How far the scores that a softmax sees may be from the exact ones.

With ``α`` the scale, ``r = q·k``, ``M = Σ_i |q_i||k_i|``, everything one pair at a time::

    inputs     Σ_i dq_i |k_i| + |q_i| dk_i + dq_i dk_i                                        [T4]
    product    D products and D - 1 additions round each term at most D times; four times more where
               q and k are multiplied by the root of the scale beforehand                     [T5]
    finish     rounding r to `compute`, the scale, the product with it, the same for base 2:
               five roundings of the score                                                    [T6]
    softcap    c·tanh(s / c): its slope, where it is steepest within the error; tanh, the cap, the division  [T7]
    bias       conversion, addition, base 2                                                   [T8]
    sink       one key more, with value 0: conversion, base 2                                 [T9]

and underflow, which is absolute.  Where a number on the way can be beyond the largest of its format, the
error is infinite [T17].

The variance takes the roundings as independent, each ``u²/3`` times the square of the power of two below what is
rounded, or on the mean `LOOSE` times the square of it; the partial sums of ``D`` terms that end at r grow steadily,
squares ``r² D/3`` together, and stray, ``D/6 Σ q_i² k_i²`` more [S1]; of products of few digits only those count that
are not added exactly [S12].
Conversion of the inputs is not in it: its effect is known (`kvattn.testing.tolerance.bounding`).
"""

import math
from typing import NamedTuple

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.calls import Call, Rows
from kvattn.testing.tolerance.chains import LOOSE, above, binade, conversion, exact_products, path, underflow, unit
from kvattn.testing.tolerance.digits import inexact
from kvattn.typing import Array

STRAY = 0.7 - 3 * math.pi / 16
"""Variance of ``∫|B|``, B a Brownian bridge, in units of the mean of ``∫B²``: some paths stray farther than others."""


class Scores(NamedTuple):
    """Scores of some rows, the sink's first where there is one; of N heads, everything has N in front.

    Attributes
    ----------
    exact
        ``[R, S']``; -inf where hidden.
    worst
        Largest error, ``[R, S']``; 0 where hidden.
    variance
        Of the error, ``[R, S']``; 0 where hidden.
    slope
        What a relative change of the scale moves, ``[R, S']``.
    drift
        What sums that are cut off lose on the mean, ``[R, S']``, or a 0.
    sink
        Whether the first key is one.
    """

    exact: Array
    worst: Array
    variance: Array
    slope: Array
    drift: Array = np.zeros(())
    sink: bool = False


def scored(rows: Rows, call: Call, arithmetic: Arithmetic) -> Scores:
    """Compute the scores of some rows, and bound the error of each.

    Parameters
    ----------
    rows
        ``R`` rows that see ``S`` keys.
    call
        Where they come from.
    arithmetic
        Of the tested code.

    Returns
    -------
    Scores
        With ``S + 1`` columns where there are sinks.

    Examples
    --------
    >>> x = np.ones((1, 1, 3, 4))
    >>> call = Call(x, x, x)
    >>> found = scored(next(call.blocks()), call, Arithmetic("float32"))
    >>> found.exact[0], bool((found.worst < 1e-5).all())
    (array([2., 2., 2.]), True)
    """
    q, k = rows.q, rows.k
    width, turned = q.shape[-1], np.swapaxes(k, -1, -2)
    assert call.scale is not None
    scale, size = call.scale, abs(call.scale)
    u, u_sum = format_of(arithmetic.compute).roundoff, unit(arithmetic)
    tiny, tiny_sum = underflow(arithmetic.compute), underflow(arithmetic.accumulate)

    dot = q @ turned  # [R, S]
    terms, squares = np.abs(q) @ np.abs(turned), q**2 @ turned**2
    dq, dk = conversion(q, arithmetic.inputs), conversion(turned, arithmetic.inputs)
    moved = dq @ np.abs(turned) + (np.abs(q) + dq) @ dk  # [T4]

    additions = path(width, arithmetic)
    rounded = (1 + above(u_sum, additions + 1)) * (1 + above(u, 4)) - 1  # [T5]
    lost = width * tiny_sum + 4 * tiny + tiny * (np.abs(q).sum(-1)[..., None] + np.abs(k).sum(-1)[..., None, :])  # [T3]
    raw = moved + rounded * (terms + moved) + lost * (1 + rounded)
    reach = np.maximum((terms + raw), size * (terms + raw))
    s = scale * dot
    error = size * raw + 4 * tiny
    error = error + above(u, 5) * (np.abs(s) + error)  # [T6]

    steady, stray = (2 * dot**2, additions * squares) if arithmetic.order == "pairwise" else _path(dot, squares, width)
    if exact_products(arithmetic.inputs, arithmetic):
        step = 2 * format_of(arithmetic.accumulate).roundoff
        rounding = inexact(q, k, np.sqrt((steady + stray) / max(width, 1)), step) / max(width, 1)  # [S12]
        steady, stray = steady * rounding, stray * rounding
    else:
        stray = stray + squares
    sums = steady + stray
    share = 1 - 0.5 / arithmetic.sum_ulp
    drift = size * share * u_sum * np.sqrt(np.maximum(additions, 1) * sums)  # [S6]
    strays = (size * share * u_sum) ** 2 * np.maximum(additions, 1) * stray * STRAY  # [S6]
    variance = scale**2 * LOOSE * (((1 - share) * u_sum) ** 2 * sums + u**2 * 2 * squares) / 3  # [S1]
    variance = variance + strays + (u * binade(s)) ** 2
    slope = s

    exp_error = 2 * arithmetic.exp_ulp * u
    if call.softcap is not None:
        cap = call.softcap
        error = error + above(u, 3) * (np.abs(s) + error) + tiny * cap
        steepest = 1 - np.tanh(np.maximum(np.abs(s) - error, 0) / cap) ** 2  # [T7]
        bend = 1 - np.tanh(s / cap) ** 2
        variance, slope, drift = (variance + u**2 * s**2) * bend**2, slope * bend, drift * bend
        s = cap * np.tanh(s / cap)
        error = np.minimum(error * steepest, 2 * cap)
        error = error + ((1 + exp_error) * (1 + above(u, 2)) - 1) * (np.abs(s) + error) + tiny * (1 + cap)
        variance = variance + (exp_error**2 + 2 * u**2) / 3 * s**2
    if rows.bias is not None:
        bias, db = rows.bias, conversion(rows.bias, arithmetic.compute)
        s = s + bias
        error = error + db + above(u, 2) * (np.abs(bias) + db) + tiny
        error = error + above(u, 3) * (np.abs(s) + error)  # [T8]
        variance = variance + (db**2 + u**2 * (bias**2 + s**2)) / 3
        reach = np.maximum(reach, np.abs(s) + error)

    largest = min(format_of(arithmetic.compute).kind.largest, format_of(arithmetic.accumulate).kind.largest)
    error = np.where(reach > largest, np.inf, error)  # [T17]
    exact = np.where(rows.seen, s, -np.inf)
    error, variance, slope, drift = (np.where(rows.seen, x, 0.0) for x in (error, variance, slope, drift))
    if rows.sink is not None:  # one key more, whose value is 0
        sink = np.broadcast_to(rows.sink, (*q.shape[:-1], 1))
        ds = conversion(sink, arithmetic.compute)
        exact = np.concatenate([sink, exact], axis=-1)
        error = np.concatenate([ds + above(u, 3) * (np.abs(sink) + ds), error], axis=-1)  # [T9]
        variance = np.concatenate([(u * binade(sink)) ** 2 / 3, variance], axis=-1)
        slope, drift = (np.concatenate([np.zeros_like(sink), x], axis=-1) for x in (slope, drift))
    error = np.where(np.isneginf(exact), 0.0, error)
    variance = np.where(np.isneginf(exact), 0.0, variance)
    return Scores(exact, error, variance, slope, drift, rows.sink is not None)


def _path(dot: Array, squares: Array, width: int) -> tuple[Array, Array]:
    """Squares of the partial sums of a path that ends at dot: what grows steadily, what strays."""
    return dot**2 * width / 3, squares * width / 6
