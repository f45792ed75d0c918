"""Roundings that lean one way: a test of all elements together.

Every element may be within its bound while all of them err to the same side: cut off instead of rounded, or rounded
in the same direction because rows repeat (Qiu and Yao 2025, 2510.04212).  With ``z`` the signed errors in units of
their standard deviations, their mean is compared with six of its own standard errors [V1].  Elements of a row share
the errors of its weights, elements of a channel those of the values, so that the standard error is the largest of
three: of the elements, of the rows' means, of the channels' means.  What the arithmetic itself shifts (lost additions,
underflow, second order) is allowed for.

Both the mean of z, and that of z with the sign of the answer, which shows what is cut towards zero.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.typing import Array

LEAST = 16
"""Rows, and channels, below which nothing is said."""


class MeanError(NamedTuple):
    """The mean error of all elements, in standard deviations of one.

    Attributes
    ----------
    mean
        The larger of the two means; NaN where there are too few rows or channels.
    allowed
        What it may be.
    outwards
        Whether it is the mean with the sign of the answer: positive is away from zero.

    Examples
    --------
    >>> MeanError(0.1, 0.5, outwards=False).leans
    False
    """

    mean: float
    allowed: float
    outwards: bool

    @property
    def leans(self) -> bool:
        """Whether the mean is more than it may be.

        >>> MeanError(float("nan"), 0.5, outwards=False).leans
        False
        """
        return abs(self.mean) > self.allowed

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return f"mean error not tested: fewer than {LEAST} rows or channels"
        way = "away from" if self.mean > 0 else "towards"
        way = f" {way} zero" if self.outwards else ""
        return f"mean error {self.mean:+.2g} standard deviations{way}, up to {self.allowed:.2g} is chance"


def mean_error(error: Array, exact: Array, variance: Array, drift: Array) -> MeanError:
    """Test whether errors lean one way.

    Parameters
    ----------
    error
        Found less exact, ``[B, Hq, T, Dv]``.
    exact, variance, drift
        Of the same shape.

    Returns
    -------
    MeanError
        Of the finite elements.

    Examples
    --------
    >>> exact = np.ones((1, 1, 100, 16))
    >>> even = np.where(np.arange(1600).reshape(exact.shape) % 3 == 1, 1.0, -0.5)
    >>> [mean_error(x, exact, exact, 0 * exact).leans for x in (even, even + 0.5)]
    [False, True]
    """
    some = np.isfinite(error) & (variance > 0) & np.isfinite(variance) & np.isfinite(drift)
    deviation = np.sqrt(np.where(some, variance, 1.0))
    z = np.where(some, error, 0.0) / deviation
    room = float((np.where(some, drift, 0.0) / deviation).sum() / max(some.sum(), 1))
    rows = z.reshape(-1, z.shape[-1])
    there = some.reshape(rows.shape)
    if there.any(1).sum() < LEAST or there.any(0).sum() < LEAST:
        return MeanError(np.nan, 0.0, outwards=False)
    found = []
    for outwards, signed in ((False, rows), (True, rows * np.sign(exact).reshape(rows.shape))):
        mean = float(signed[there].mean())
        found.append(MeanError(mean, 6 * _standard_error(signed, there) + room, outwards))
    return max(found, key=lambda one: abs(one.mean) / one.allowed)


def _standard_error(z: Array, there: NDArray[np.bool_]) -> float:  # [V1]
    errors = [float(np.sqrt((z[there] ** 2).mean() / there.sum()))]
    for axis in (0, 1):
        count = there.sum(axis)
        means = (z.sum(axis) / np.maximum(count, 1))[count > 0]
        errors.append(float(means.std(ddof=1) / np.sqrt(len(means))))
    return max(*errors, float(np.finfo(np.float64).tiny))
