"""Roundings that are known: weights are known, so is the grid that they are rounded to.

Below its normal numbers a format has steps of one size.  A weight of a few steps is not rounded by chance but to the
step next to it, and one below half a step is lost.  So, with ``rnd`` rounding to the format, for rows of one head::

    c_j = rnd(a_j) - a_j             known, but for what a weight is itself wrong by                     [S11]
    |Σ_j c_j v_j|                    what all of them do together
    Σ_j min(step / 2, a_j)² v_j² / 3 what they do where they are rounded at another scale, by chance     [S11]

A running maximum, a sink that comes last, another total: programs round the same weights at different scales.  The
larger of two is taken, 1 and √2, as for running sums.  Products ``p_j v_j`` that are below the normal numbers of
``accumulate`` are rounded to its steps likewise; sums of such products are exact [S11].
"""

from typing import NamedTuple

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.chains import normal, underflow
from kvattn.typing import Array

SCALES = (1.0, 2.0**0.5)
"""At which weights are rounded."""


class Steps(NamedTuple):
    """What rounding to steps does to some numbers.

    Attributes
    ----------
    known
        Rounded less exact, for each of `SCALES`: ``[2, ...]``.
    chance
        By how much each may be off at any scale.
    """

    known: Array
    chance: Array

    def __add__(self, other: "Steps") -> "Steps":  # type: ignore[override]
        """One rounding after the other.

        >>> one = Steps(np.ones(2), np.ones(()))
        >>> (one + one).known
        array([2., 2.])
        """
        return Steps(self.known + other.known, self.chance + other.chance)

    def over(self, unit: Array) -> "Steps":
        """The same, in other units.

        >>> float(Steps(np.ones(2), np.ones(())).over(np.array(2.0)).chance)
        0.5
        """
        return Steps(self.known / unit, self.chance / unit)


def stepped(x: Array, name: str) -> Steps:
    """Round numbers below the normal ones of a format; the others stay as they are.

    Parameters
    ----------
    x
        Any shape.
    name
        Of the format.

    Returns
    -------
    Steps
        Zeros where x is a normal number.

    Examples
    --------
    >>> found = stepped(np.array([1.1, 2.0**-24 * 1.4, 2.0**-24 * 0.4]), "float16")
    >>> found.known[0] * 2.0**24, found.chance * 2.0**24
    (array([ 0. , -0.4, -0.4]), array([0. , 0.5, 0.4]))
    """
    size = np.abs(x)
    some = (size > 0) & (size < normal(name))
    if not some.any():
        return Steps(np.zeros((len(SCALES), *x.shape)), np.zeros_like(x))
    found = format_of(name)
    if found.kind.bias >= 127:  # may be flushed
        return Steps(np.where(some, -x, np.zeros((len(SCALES), *x.shape))), np.where(some, size, 0.0))
    known = [np.where(some, _stepped(x, name, at), 0.0) for at in SCALES]
    return Steps(np.array(known), np.where(some, np.minimum(size, underflow(name)), 0.0))


def rounded(x: Array, name: str) -> Array:
    """Return what rounding to a format does to all numbers, at each of `SCALES`: ``[2, ...]``.

    Parameters
    ----------
    x
        Any shape, finite.
    name
        Of the format.

    Returns
    -------
    Array
        Rounded less exact.

    Examples
    --------
    >>> rounded(np.array([1.0, 1.125, 1.0 / 3]), "float8_e4m3")[0]
    array([0.        , 0.        , 0.01041667])
    """
    return np.array([format_of(name).kind.nearest(x * at) / at - x for at in SCALES])


def products(weights: Array, steps: Steps, v: Array, arithmetic: Arithmetic) -> tuple[Array, Array]:
    """Follow products that are below the normal numbers of ``accumulate``.

    Parameters
    ----------
    weights, steps
        ``[R, S']``, as they are mixed, and what rounding them does.
    v
        ``[S', Dv]``.
    arithmetic
        Of the tested code.

    Returns
    -------
    known, squares
        ``[R, Dv]``: what all of them lose or gain together, and the sum of the squares of what each may.

    Examples
    --------
    >>> w, v = np.full((1, 100), 2.0**-14), np.full((100, 1), 1.4 * 2.0**-10)
    >>> known, squares = products(w, stepped(w, "float16"), v, Arithmetic("float16"))
    >>> round(float(known[0, 0] * 2.0**24), 9), float(squares[0, 0] * 2.0**48)
    (40.0, 25.0)
    """
    shape = (*weights.shape[:-1], v.shape[-1])
    known, squares = np.zeros(shape), np.zeros(shape)
    if format_of(arithmetic.accumulate).kind.bias >= 127:  # wide enough for whatever weights and values are
        return known, squares
    near = weights + steps.known
    for channel in range(v.shape[-1]):
        column = v[..., None, :, channel]
        x = weights * column
        below = (np.abs(x) < normal(arithmetic.accumulate)) & (x != 0)
        if below.any():
            off = [_stepped(w * column, arithmetic.accumulate, at) for w, at in zip(near, SCALES, strict=True)]
            known[..., channel] = np.abs(np.where(below, off, 0.0).sum(-1)).max(0)
            most = np.minimum(np.abs(x), underflow(arithmetic.accumulate))
            squares[..., channel] = (np.where(below, most, 0.0) ** 2).sum(-1)
    return known, squares


def _stepped(x: Array, name: str, at: float) -> Array:
    step = format_of(name).tiny
    found: Array = np.rint(x * (at / step)) * (step / at) - x
    return found
