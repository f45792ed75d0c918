"""Numbers that carry a bound on their rounding error, for witnesses written in Python loops.

    Ball(value, error):      |any computation of this number - the exact one|  <=  error,  to first order in u

Each operation adds its own rounding, ``u·|result|`` for + - * / and `FUNCTION_UNITS` times that for
exp, log, tanh and their like, to what its operands' errors become on the way: they add under + and
-, are weighted by the other operand under * and /, and by the derivative under a function.  A sum of
n numbers in any order costs at most ``(n - 1)·u·Σ|terms|``.  So a witness that computes with balls
derives, as it goes, a bound for this very input, and `agree` allows twice that: both sides round.
What the bound cannot see is an error below it; a test states how small that is.

Source: Wilkinson 1986 (Error analysis revisited) §2, running error analysis; Higham 2002 (Accuracy
and Stability of Numerical Algorithms) §3.3 and §4.2.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from kvattn.typing import Array

FUNCTION_UNITS = 8
"""Roundings that one call of exp, log, tanh, cos or sin may cost: 4 ulp, more than any NumPy build has."""


@dataclass(frozen=True, slots=True)
class Ball:
    """A number, and how far a computation with unit roundoff ``unit`` may be from the exact one.

    Attributes
    ----------
    value
        Computed in float64.
    error
        The bound; 0 for what is given exactly.
    unit
        u: ``2**-53`` for float64, ``2**-24`` for float32.

    Examples
    --------
    >>> third = Ball(1.0) / 3.0
    >>> third.value, third.error == third.value * 2.0**-53
    (0.3333333333333333, True)
    """

    value: float
    error: float = 0.0
    unit: float = 2.0**-53

    def __add__(self, other: "Ball | float") -> "Ball":
        term = self._read(other)
        return self._rounded(self.value + term.value, self.error + term.error)

    def __sub__(self, other: "Ball | float") -> "Ball":
        return self + -self._read(other)

    def __neg__(self) -> "Ball":
        return Ball(-self.value, self.error, self.unit)

    def __mul__(self, other: "Ball | float") -> "Ball":
        factor = self._read(other)
        carried = self.error * abs(factor.value) + factor.error * abs(self.value)
        return self._rounded(self.value * factor.value, carried)

    def __truediv__(self, other: "Ball | float") -> "Ball":
        divisor = self._read(other)
        value = self.value / divisor.value
        return self._rounded(value, (self.error + abs(value) * divisor.error) / abs(divisor.value))

    def through(self, function: Callable[[float], float], slope: float) -> "Ball":
        """A function whose derivative here is at most ``slope``.

        >>> Ball(0.0, error=0.5).through(math.exp, 1.0).error > 0.5
        True
        """
        return self._rounded(function(self.value), self.error * slope, FUNCTION_UNITS)

    def exp(self) -> "Ball":
        """The exponential.

        >>> Ball(0.0).exp().value
        1.0
        """
        return self.through(math.exp, math.exp(self.value))

    def log(self) -> "Ball":
        """The natural logarithm.

        >>> Ball(1.0).log().value
        0.0
        """
        return self.through(math.log, 1.0 / self.value)

    def tanh(self) -> "Ball":
        """The hyperbolic tangent.

        >>> Ball(0.0).tanh().value
        0.0
        """
        return self.through(math.tanh, 1.0)

    def _read(self, other: "Ball | float") -> "Ball":
        return other if isinstance(other, Ball) else Ball(float(other), 0.0, self.unit)

    def _rounded(self, value: float, carried: float, units: int = 1) -> "Ball":
        return Ball(value, carried + units * self.unit * abs(value), self.unit)


def total(balls: Iterable[Ball]) -> Ball:
    """The sum, added in whatever order.

    >>> total([Ball(1.0), Ball(2.0)]).value
    3.0
    """
    terms = list(balls)
    spread = sum(abs(term.value) for term in terms)
    unit = max((term.unit for term in terms), default=2.0**-53)
    error = sum(term.error for term in terms) + max(len(terms) - 1, 0) * unit * spread
    return Ball(math.fsum(term.value for term in terms), error, unit)


def dot(left: Iterable[Ball], right: Iterable[Ball]) -> Ball:
    """The sum of products, added in whatever order.

    >>> dot([Ball(1.0), Ball(2.0)], [Ball(3.0), Ball(4.0)]).value
    11.0
    """
    return total(a * b for a, b in zip(left, right, strict=True))


def given(array: ArrayLike, dtype: DTypeLike | None = None) -> Any:
    """Nested lists of exact balls from an array, in the unit of its dtype.

    >>> given(np.array([[2.0]]))[0][0].value
    2.0
    """
    numbers = np.asarray(array, dtype)
    unit = float(np.finfo(numbers.dtype).eps) / 2
    if not numbers.ndim:
        return Ball(float(numbers), 0.0, unit)
    return [given(part) for part in numbers]


def agree(found: Array, wanted: Any) -> float:
    """How far numbers stand from balls, in units of what they may: at most 1 where they agree.

    Parameters
    ----------
    found
        An array.
    wanted
        Nested lists of balls of the same shape.

    Returns
    -------
    float
        The largest ``|found - value| / (2·error)``; infinite where shapes differ, or where only one is finite.

    Examples
    --------
    >>> agree(np.array([1.0]), [Ball(1.0)]), agree(np.array([1.0]), [Ball(2.0, 1.0)])
    (0.0, 0.5)
    """
    balls = np.array(wanted, dtype=object)
    if balls.shape != found.shape:
        return math.inf
    tiny = float(np.finfo(found.dtype).tiny)  # what underflows is lost on either side
    worst = 0.0
    for number, ball in zip(found.ravel().tolist(), balls.ravel().tolist(), strict=True):
        if number != ball.value:
            gap = abs(number - ball.value) / (2 * ball.error + tiny)
            worst = gap if gap > worst else worst if gap <= worst else math.inf
    return worst
