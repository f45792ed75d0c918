"""Which additions are exact: products of numbers with few digits leave room in the sum.

A product of two bfloat16 numbers has 16 digits, float32 has 24.  A term whose lowest digit ``l`` is not below the step
``h`` of the sum is added without error; what is cut off of another is one of ``0, l, 2l, ... h - l``, on the mean
``h/2`` times ``1 - l/h``, now or when the sum grows, so that it is h of the largest sums that counts: of twice the
typical partial sum [S12].  The lowest digit of ``q_i k_i`` is the product of the lowest digits of its factors.

Cost: D times a look-up of ``[R, S]`` integers.
"""

import numpy as np
from numpy.typing import NDArray

from kvattn.typing import Array

NONE = 1 << 13
"""Exponent of a 0's lowest digit: above all others."""


def lowest(x: Array) -> NDArray[np.int16]:
    """Return the exponent of the lowest digit of each number.

    Parameters
    ----------
    x
        Any shape, finite.

    Returns
    -------
    NDArray
        Of the same shape: the largest e of which x is a multiple of 2^e.

    Examples
    --------
    >>> lowest(np.array([6.0, 1.0, -0.75, 0.0]))
    array([   1,    0,   -2, 8192], dtype=int16)
    """
    mantissa, exponent = np.frexp(x)
    whole = np.ldexp(np.abs(mantissa), 53).astype(np.int64)
    _, above = np.frexp((whole & -whole).astype(np.float64))
    found: NDArray[np.int16] = np.where(whole == 0, NONE, exponent + above - 54).astype(np.int16)
    return found


def inexact(q: Array, k: Array, typical: Array, unit: float) -> Array:
    """Return how many additions of a score may round, those that lose a part of a step for that part.

    Parameters
    ----------
    q, k
        ``[R, D]``, ``[S, D]``.
    typical
        Size of partial sums, ``[R, S]``.
    unit
        Largest relative error of an addition that cuts off: a step over the power of two below a number.

    Returns
    -------
    Array
        ``[R, S]``, at most D.

    Examples
    --------
    >>> q, k = np.array([[1.0, 3.0, 2.0**-9]]), np.array([[2.0, 1.0, 1.0]])
    >>> [float(inexact(q, k, np.full((1, 1), 4.0), unit)[0, 0]) for unit in (2.0**-23, 2.0**-11, 2.0**-2)]
    [0.0, 0.5, 1.4990234375]
    """
    _, exponent = np.frexp(2 * typical * unit)
    step = (exponent - 1).astype(np.int16)
    first, second = lowest(q), np.ascontiguousarray(np.swapaxes(lowest(k), -1, -2))
    found, part = np.zeros(step.shape), 1 - 2.0 ** -np.arange(64)
    for d in range(q.shape[-1]):
        found += part[np.clip(step - first[..., d, None] - second[..., d, None, :], 0, 63)]
    return found
