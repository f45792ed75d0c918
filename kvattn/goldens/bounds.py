"""How far float64 may be from a formula: numbers that carry the rounding error of computing them.

    Rounding(value, error):   |a float64 computation of the formula - the true number|  <=  error, to first order

The rules are those of `kvattn.testing.balls`: ``u·|result|`` for + - * /, `FUNCTION_UNITS` times that for
exp and its like, what the operands' errors become on the way, and ``(n-1)·u·Σ|terms|`` for a sum of n terms
in any order; u = 2^-53.  Here the numbers are decimals, so that a recorded bound is the same on every machine.

Source: Higham 2002 (Accuracy and Stability of Numerical Algorithms) §3.3 and §4.2.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import decimal
from decimal import Decimal
from typing import Any

from kvattn.goldens.numbers import Decimals, Interval

UNIT = Decimal(2.0**-53)
"""u of float64."""

FUNCTION_UNITS = 8
"""Roundings that one call of exp, log, tanh, cos or sin may cost: 4 ulp."""

_CONTEXT = decimal.Context(prec=40, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
_add, _multiply, _divide = _CONTEXT.add, _CONTEXT.multiply, _CONTEXT.divide


@dataclass(frozen=True, slots=True, eq=False)
class Rounding:
    """A number, and how far float64 may be from it.

    Examples
    --------
    >>> n = Roundings()
    >>> third = n(1) / 3
    >>> float(third.error / third.value) == 2.0**-53
    True
    """

    value: Decimal
    error: Decimal = Decimal(0)

    def __add__(self, other: "Rounding | int") -> "Rounding":
        if (term := _read(other)) is None:
            return NotImplemented
        return _rounded(_add(self.value, term.value), _add(self.error, term.error))

    __radd__ = __add__

    def __neg__(self) -> "Rounding":
        return Rounding(self.value.copy_negate(), self.error)

    def __abs__(self) -> "Rounding":
        return Rounding(self.value.copy_abs(), self.error)

    def __sub__(self, other: "Rounding | int") -> "Rounding":
        if (term := _read(other)) is None:
            return NotImplemented
        return self + -term

    def __rsub__(self, other: int) -> "Rounding":
        return -self + other

    def __mul__(self, other: "Rounding | int") -> "Rounding":
        if (factor := _read(other)) is None:
            return NotImplemented
        mine, others = _multiply(self.error, factor.value.copy_abs()), _multiply(factor.error, self.value.copy_abs())
        return _rounded(_multiply(self.value, factor.value), _add(mine, others))

    __rmul__ = __mul__

    def __truediv__(self, other: "Rounding | int") -> "Rounding":
        if (divisor := _read(other)) is None:
            return NotImplemented
        value = _divide(self.value, divisor.value)
        carried = _add(self.error, _multiply(value.copy_abs(), divisor.error))
        return _rounded(value, _divide(carried, divisor.value.copy_abs()))

    def __rtruediv__(self, other: int) -> "Rounding":
        number = _read(other)
        return NotImplemented if number is None else number / self

    def __lt__(self, other: "Rounding | int") -> bool:
        number = _read(other)
        return NotImplemented if number is None else self.value < number.value

    def __le__(self, other: "Rounding | int") -> bool:
        number = _read(other)
        return NotImplemented if number is None else self.value <= number.value

    def __gt__(self, other: "Rounding | int") -> bool:
        number = _read(other)
        return NotImplemented if number is None else self.value > number.value

    def __ge__(self, other: "Rounding | int") -> bool:
        number = _read(other)
        return NotImplemented if number is None else self.value >= number.value


class Roundings:
    """The arithmetic of `Rounding`; its verbs are those of `kvattn.goldens.numbers.Numbers`.

    Examples
    --------
    >>> n = Roundings()
    >>> float(n.sum([n(1), n(2), n(4)]).error * 2**53)  # two additions, Σ|terms| = 7
    14.0
    """

    def __call__(self, value: float) -> Rounding:
        """Read exactly.

        >>> Roundings()(0.5).error
        Decimal('0')
        """
        return Rounding(Decimal(value))

    def sum(self, terms: Iterable[Rounding]) -> Rounding:
        """The sum, in whatever order.

        >>> Roundings().sum([]).value
        Decimal('0')
        """
        parts = list(terms)
        total, spread, error = Decimal(0), Decimal(0), Decimal(0)
        for part in parts:
            total = _add(total, part.value)
            spread = _add(spread, part.value.copy_abs())
            error = _add(error, part.error)
        roundings = _multiply(Decimal(max(len(parts) - 1, 0)), UNIT)
        return Rounding(total, _add(error, _multiply(roundings, spread)))

    def max(self, values: Iterable[Rounding]) -> Rounding:
        """The largest.

        >>> n = Roundings()
        >>> n.max([n(1), n(2)]).value
        Decimal('2')
        """
        return max(values, key=lambda number: number.value)

    def exp(self, x: Rounding) -> Rounding:
        """The exponential.

        >>> n = Roundings()
        >>> n.exp(n(0)).value
        Decimal('1')
        """
        value = _CONTEXT.exp(x.value)
        return _through(value, x, value)

    def log(self, x: Rounding) -> Rounding:
        """The natural logarithm.

        >>> n = Roundings()
        >>> n.log(n(1)).value
        Decimal('0')
        """
        return _through(_CONTEXT.ln(x.value), x, _divide(Decimal(1), x.value))

    def sqrt(self, x: Rounding) -> Rounding:
        """The square root; 0 only of an exact 0.

        >>> n = Roundings()
        >>> n.sqrt(n(4)).value
        Decimal('2')
        """
        if not x.value:
            return x
        value = _CONTEXT.sqrt(x.value)
        return _through(value, x, _divide(Decimal(1), _multiply(Decimal(2), value)))

    def sin(self, x: Rounding) -> Rounding:
        """The sine.

        >>> n = Roundings()
        >>> n.sin(n(0)).value
        Decimal('0')
        """
        return self._waved(x, Decimals.sin)

    def cos(self, x: Rounding) -> Rounding:
        """The cosine.

        >>> n = Roundings()
        >>> n.cos(n(0)).value
        Decimal('1')
        """
        return self._waved(x, Decimals.cos)

    def tanh(self, x: Rounding) -> Rounding:
        """The hyperbolic tangent.

        >>> n = Roundings()
        >>> n.tanh(n(0)).value
        Decimal('0')
        """
        return self._waved(x, Decimals.tanh)

    def pi(self) -> Rounding:
        """The circle's number.

        >>> float(Roundings().pi().value)
        3.141592653589793
        """
        return _rounded(_EXACT.pi().low, Decimal(0))

    @staticmethod
    def _waved(x: Rounding, function: Callable[[Decimals, Interval], Interval]) -> Rounding:
        return _through(function(_EXACT, Interval(x.value, x.value, _EXACT)).low, x, Decimal(1))


_EXACT = Decimals(40)


def _read(other: Any) -> Rounding | None:
    if isinstance(other, Rounding):
        return other
    return Rounding(Decimal(other)) if isinstance(other, int) and not isinstance(other, bool) else None


def _rounded(value: Decimal, carried: Decimal, units: int = 1) -> Rounding:
    return Rounding(value, _add(carried, _multiply(_multiply(Decimal(units), UNIT), value.copy_abs())))


def _through(value: Decimal, x: Rounding, slope: Decimal) -> Rounding:
    return _rounded(value, _multiply(x.error, slope.copy_abs()), FUNCTION_UNITS)
