"""What a row should be and how far from it code may be; rows that see nothing, and where formats end."""

from typing import NamedTuple

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import above, unit
from kvattn.testing.tolerance.weights import Weights
from kvattn.typing import Array


class Limits(NamedTuple):
    """What some rows should be, and how far from it they may be.

    Attributes
    ----------
    exact
        ``[R, Dv]``, or ``[R]`` for the log-sum-exp, as exact as float64 has it; of N heads, N in front.
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


def larger(one: Limits, *others: Limits) -> Limits:
    """Return limits that hold for programs of every kind that has some.

    >>> zero, one = np.zeros(1), np.ones(1)
    >>> larger(Limits(zero, zero, one, zero, one), Limits(zero, one, one, one, zero)).statistical
    array([1.])
    """
    for other in others:
        one = Limits(one.exact, *(np.maximum(x, y) for x, y in zip(one[1:], other[1:], strict=True)))
    return one


def closed(limits: Limits, weights: Weights, largest: Array, arithmetic: Arithmetic) -> Limits:
    """Return limits that are right in rows that see nothing, and where a format ends.

    Rows that see nothing are 0, exactly.  Where the sums or the output can pass the largest number of
    their format, nothing is bounded [T17].  A millionth is added for the rounding of the bound itself.

    >>> one, zero = np.ones((1, 1)), np.zeros((1, 1))
    >>> w = Weights(*([zero] * 8), one, zero, zero)
    >>> closed(Limits(zero, one, one, one, one), w, zero, Arithmetic()).worst
    array([[0.]])
    """
    exact, statistical, worst, variance, drift = limits
    of_rows = exact.ndim < weights.p.ndim
    nothing = weights.empty if of_rows else weights.empty[..., None]
    total, shift = (x[..., 0] if of_rows else x for x in (weights.total, weights.shift))
    store = arithmetic.compute if of_rows else arithmetic.store
    with np.errstate(invalid="ignore", over="ignore"):
        sums = total * np.exp(shift) * np.maximum(largest, 1) * (1 + above(unit(arithmetic), weights.p.shape[-1]))
        beyond = (sums > format_of(arithmetic.accumulate).kind.largest) | np.isinf(shift)
        beyond = beyond | (np.abs(exact) + worst > format_of(store).kind.largest)
        worst = np.where(beyond | np.isnan(worst), np.inf, worst) * (1 + 1e-6)
        most = total * np.maximum(np.abs(exact), 1) if not of_rows else total
        certain = most > format_of(arithmetic.accumulate).kind.largest
        certain = certain | (np.abs(exact) > format_of(store).kind.largest)
        statistical = np.where(certain | np.isnan(statistical), np.inf, np.minimum(statistical, worst))
    return Limits(exact, *(np.where(nothing, 0.0, x) for x in (statistical, worst, variance, drift)))
