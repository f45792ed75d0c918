"""Roundings one after the other, and how many of them a sum needs.

``k`` roundings, each by a factor ``1 + δ`` with ``|δ| <= u``, are one factor between ``(1 - u)^k`` and
``(1 + u)^k``: exact, for every k and u, where the usual ``γ_k = k u / (1 - k u)`` ends at ``k u = 1``.  Below the
normal numbers of a format rounding adds an absolute error instead, `underflow`.
"""

import math

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.typing import Array

LOOSE = 3 / (8 * math.log(2))
"""Mean of ``(2^floor(log2 x) / x)²`` where the logarithm of x is evenly spread: rounding errors go with binades."""


def above(u: float, count: float | Array) -> Array:
    """Return the most that a chain of roundings adds, relatively: ``(1 + u)^count - 1`` [T1].

    Parameters
    ----------
    u
        Largest relative error of one rounding.
    count
        How many there are; any shape.

    Returns
    -------
    Array
        Of count's shape; infinite where it is too large for a float.

    Examples
    --------
    >>> float(above(2.0**-8, 1)) == 2.0**-8, round(float(above(2.0**-8, 256)), 3)
    (True, 1.713)
    """
    with np.errstate(over="ignore"):
        found: Array = np.expm1(np.asarray(count) * math.log1p(u))
    return found


def below(u: float, count: float | Array) -> Array:
    """Return the most that a chain of roundings takes away, relatively: ``1 - (1 - u)^count`` [T1].

    Parameters
    ----------
    u, count
        As for `above`.

    Returns
    -------
    Array
        At most 1.

    Examples
    --------
    >>> round(float(below(2.0**-8, 1)), 6), round(float(below(2.0**-8, 256)), 3)
    (0.003906, 0.633)
    """
    found: Array = -np.expm1(np.asarray(count) * math.log1p(-u))
    return found


def path(terms: int | Array, arithmetic: Arithmetic) -> Array:
    """Return how many additions lie on the longest way from a term to the sum [T2].

    Parameters
    ----------
    terms
        How many numbers are added; any shape.
    arithmetic
        Its ``order`` counts.

    Returns
    -------
    Array
        ``terms - 1``, or ``log2(terms) + 11`` where that is less and sums are pairwise.

    Examples
    --------
    >>> float(path(8192, Arithmetic())), float(path(8192, Arithmetic(order="pairwise")))
    (8191.0, 24.0)
    """
    longest: Array = np.maximum(np.asarray(terms) - 1.0, 0.0)
    if arithmetic.order == "sequential":
        return longest
    shorter: Array = np.minimum(longest, np.ceil(np.log2(np.maximum(terms, 1))) + 11)
    return shorter


def rescales(terms: int | Array, arithmetic: Arithmetic) -> Array:
    """Return how often the sums of an online softmax may be rescaled: at most once for every tile [T2].

    Parameters
    ----------
    terms
        How many keys a row sees; any shape.
    arithmetic
        Its ``tiles`` count.

    Returns
    -------
    Array
        ``min(tiles, terms - 1)``, at least 0; a sink is there before the first tile.

    Examples
    --------
    >>> float(rescales(3, Arithmetic(tiles=8))), float(rescales(100, Arithmetic(tiles=8)))
    (2.0, 8.0)
    """
    return np.maximum(np.minimum(np.asarray(terms) - 1.0, arithmetic.tiles), 0.0)


def unit(arithmetic: Arithmetic) -> float:
    """Return the largest relative error of one addition of a running sum.

    >>> unit(Arithmetic("float16")) == 2.0**-11, unit(Arithmetic("float16", sum_ulp=1)) == 2.0**-10
    (True, True)
    """
    return 2 * arithmetic.sum_ulp * format_of(arithmetic.accumulate).roundoff


def binade(x: Array) -> Array:
    """Return the power of two below each number: times ``u``, the most by which rounding moves it.

    >>> binade(np.array([0.0, 1.5, -9.0]))
    array([0., 1., 8.])
    """
    _, exponent = np.frexp(x)
    found: Array = np.where(x == 0, 0.0, np.ldexp(0.5, exponent))
    return found


def weight_unit(arithmetic: Arithmetic) -> float:
    """Return the largest relative error of rounding a weight to ``probabilities``: none where that is not coarser.

    >>> weight_unit(Arithmetic("float32")), weight_unit(Arithmetic("float32", probabilities="bfloat16")) == 2.0**-8
    (0.0, True)
    """
    u_p = format_of(arithmetic.probabilities).roundoff
    return u_p if u_p > format_of(arithmetic.compute).roundoff else 0.0


def total_unit(arithmetic: Arithmetic) -> float:
    """Return the same for the weights that the total is of.

    >>> [total_unit(Arithmetic("float32", probabilities="float16", totals=x)) > 0 for x in ("rounded", "unrounded")]
    [True, False]
    """
    return weight_unit(arithmetic) if arithmetic.totals == "rounded" else 0.0


def exact_products(name: str, arithmetic: Arithmetic) -> bool:
    """Say whether products of a format's numbers and ``inputs`` have room in ``accumulate``.

    >>> [exact_products(name, Arithmetic("float32", inputs=name)) for name in ("bfloat16", "float32")]
    [True, False]
    """
    factors = format_of(name).roundoff * format_of(arithmetic.inputs).roundoff
    return factors >= format_of(arithmetic.accumulate).roundoff


def normal(name: str) -> float:
    """Return the smallest positive number of a format that has all its digits.

    >>> normal("float16") == 2.0**-14
    True
    """
    return 2.0 ** (1 - format_of(name).kind.bias)


def underflow(name: str) -> float:
    """Return the largest absolute error of rounding a number below `normal` [T3].

    Half a step of the subnormal numbers; in the formats of float32's and float64's range the smallest normal
    number itself, because hardware in use flushes theirs to zero.

    >>> underflow("float16") == 2.0**-25, underflow("bfloat16") == 2.0**-126
    (True, True)
    """
    found = format_of(name)
    return normal(name) if found.kind.bias >= 127 else found.tiny / 2


def conversion(x: Array, name: str) -> Array:
    """Return how far numbers may move when they are converted to a format: not at all, where they are in it [T4].

    Parameters
    ----------
    x
        Any shape, float64.
    name
        Of the format.

    Returns
    -------
    Array
        Of the same shape; infinite where a number is beyond the format's largest.

    Examples
    --------
    >>> conversion(np.array([1.0, 1.1, 1e9, 1e-9]), "float16") / 2.0**-11
    array([0.00000000e+00, 1.10000000e+00,            inf, 6.10351562e-05])
    """
    found = format_of(name)
    size = np.abs(x)
    with np.errstate(invalid="ignore"):
        there = found.kind.nearest(x) == x
    moved = np.where(there, 0.0, np.where(size < normal(name), underflow(name), found.roundoff * size))
    flushed = np.where((size < normal(name)) & (found.kind.bias >= 127), size, moved)
    within: Array = np.where(size > found.kind.largest, np.inf, flushed)
    return within
