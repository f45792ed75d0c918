"""Numbers that formulas are written over, and exact ones: decimal intervals that hold the true value.

    Interval(low, high):     low <= the number that the formula means <= high

A formula of a golden case is a plain Python function over a `Numbers` value ``n``: ``n(0.5)`` reads a
float exactly, ``n.exp`` and its like are functions, ``+ - * /`` take numbers and integers.  A float in an
operation is a TypeError, so that nothing that float64 has rounded slips in.  The same formula then runs
over `Decimals` (here), over `kvattn.goldens.bounds.Roundings`, and in the tests over mpmath.

Every operation rounds its lower end down and its upper end up.  ``decimal`` rounds exp, ln and sqrt
correctly, so one unit outwards is enough; sin and cos are Taylor series after a reduction by multiples of
pi/2, with ten digits more than asked and the truncated tail added to the interval; pi is Machin's formula
in integers.

Source: Moore, Kearfott & Cloud 2009 (Introduction to Interval Analysis) §2 and §3; the General Decimal
Arithmetic Specification 1.70, "exp", "ln" and "square-root".
"""

from collections.abc import Iterable
from dataclasses import dataclass
import decimal
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import lru_cache
import math
from typing import Any, Protocol, TypeAlias

from kvattn.errors import ArgumentError, UndecidedError

Number: TypeAlias = Any
"""One number of an arithmetic: it takes + - * / with others and with integers, and unary minus."""


class Numbers(Protocol):
    """An arithmetic: how numbers are read, and the functions of them."""

    def __call__(self, value: float) -> Number:
        """Read a finite float or an integer, exactly."""

    def sum(self, terms: Iterable[Number]) -> Number:
        """The sum, in whatever order; 0 of nothing."""

    def max(self, values: Iterable[Number]) -> Number:
        """One of the largest, to shift by: where two are too close to tell, either."""

    def exp(self, x: Number) -> Number:
        """The exponential."""

    def log(self, x: Number) -> Number:
        """The natural logarithm."""

    def sqrt(self, x: Number) -> Number:
        """The square root."""

    def sin(self, x: Number) -> Number:
        """The sine."""

    def cos(self, x: Number) -> Number:
        """The cosine."""

    def tanh(self, x: Number) -> Number:
        """The hyperbolic tangent."""

    def pi(self) -> Number:
        """The circle's number."""


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Two decimals between which a number lies; ``home`` says with how many digits they are computed.

    Comparisons answer only where the intervals decide them.

    Examples
    --------
    >>> n = Decimals(30)
    >>> third = n(1) / 3
    >>> third.low, third.high > third.low, third < n(0.5)
    (Decimal('0.333333333333333333333333333333'), True, True)
    """

    low: Decimal
    high: Decimal
    home: "Decimals"

    def __add__(self, other: "Interval | int") -> "Interval":
        if (term := self._read(other)) is None:
            return NotImplemented
        return self._new(self.home.down.add(self.low, term.low), self.home.up.add(self.high, term.high))

    __radd__ = __add__

    def __neg__(self) -> "Interval":
        return self._new(self.high.copy_negate(), self.low.copy_negate())

    def __sub__(self, other: "Interval | int") -> "Interval":
        if (term := self._read(other)) is None:
            return NotImplemented
        return self.home(0) if term is self else self + -term

    def __rsub__(self, other: "Interval | int") -> "Interval":
        return -self + other

    def __mul__(self, other: "Interval | int") -> "Interval":
        if (factor := self._read(other)) is None:
            return NotImplemented
        ends = [(a, b) for a in (self.low, self.high) for b in (factor.low, factor.high)]
        down, up = self.home.down.multiply, self.home.up.multiply
        return self._new(min(down(a, b) for a, b in ends), max(up(a, b) for a, b in ends))

    __rmul__ = __mul__

    def __truediv__(self, other: "Interval | int") -> "Interval":
        if (divisor := self._read(other)) is None:
            return NotImplemented
        if divisor.low <= 0 <= divisor.high:
            raise UndecidedError(f"a divisor must not hold 0, got the interval {divisor.low:.5g} .. {divisor.high:.5g}")
        ends = [(a, b) for a in (self.low, self.high) for b in (divisor.low, divisor.high)]
        down, up = self.home.down.divide, self.home.up.divide
        return self._new(min(down(a, b) for a, b in ends), max(up(a, b) for a, b in ends))

    def __rtruediv__(self, other: int) -> "Interval":
        if (number := self._read(other)) is None:
            return NotImplemented
        return number / self

    def __abs__(self) -> "Interval":
        return self if self >= 0 else -self

    def __lt__(self, other: "Interval | int") -> bool:
        if (number := self._read(other)) is None:
            return NotImplemented
        if self.high < number.low or self.low >= number.high:
            return self.high < number.low
        raise UndecidedError(f"which of two numbers is less must be decided, got both near {self.low:.5g}")

    def __gt__(self, other: "Interval | int") -> bool:
        if (number := self._read(other)) is None:
            return NotImplemented
        return number < self

    def __le__(self, other: "Interval | int") -> bool:
        if (number := self._read(other)) is None:
            return NotImplemented
        return not number < self

    def __ge__(self, other: "Interval | int") -> bool:
        if (number := self._read(other)) is None:
            return NotImplemented
        return not self < number

    def rounded(self) -> float:
        """The nearest float64, ties to even; zero has no sign.

        Raises
        ------
        UndecidedError
            The two ends have different ones: more digits are needed.

        Examples
        --------
        >>> (Decimals(30)(1) / 3).rounded() == 1 / 3
        True
        """
        low, high = float(self.low), float(self.high)
        if low != high:
            raise UndecidedError(f"the nearest float64 must be decided, got {low!r} and {high!r} at the two ends")
        return low + 0.0  # no negative zero

    def _read(self, other: Any) -> "Interval | None":
        if isinstance(other, Interval):
            return other
        return self.home(other) if isinstance(other, int) and not isinstance(other, bool) else None

    def _new(self, low: Decimal, high: Decimal) -> "Interval":
        return Interval(low, high, self.home)


class Decimals:
    """The arithmetic of `Interval` with so many significant digits.

    Examples
    --------
    >>> n = Decimals(40)
    >>> n.exp(n(1)).rounded() == math.e, n.pi().rounded() == math.pi
    (True, True)
    """

    def __init__(self, digits: int = 70) -> None:
        self.digits = digits
        self.down, self.up = _context(digits, ROUND_FLOOR), _context(digits, ROUND_CEILING)
        self._wide = _context(digits + 20)

    def __call__(self, value: float) -> Interval:
        """Read a finite float or an integer, exactly.

        >>> Decimals()(0.1).low == Decimal(0.1)
        True
        """
        if not math.isfinite(value):
            raise ArgumentError(f"a number must be finite, got {value}")
        return Interval(Decimal(value), Decimal(value), self)

    def sum(self, terms: Iterable[Interval]) -> Interval:
        """The sum; 0 of nothing.

        >>> n = Decimals()
        >>> n.sum([n(1), n(2)]).rounded()
        3.0
        """
        total = self(0)
        for term in terms:
            total += term
        return total

    def max(self, values: Iterable[Interval]) -> Interval:
        """One of the largest, to shift by.

        >>> n = Decimals()
        >>> n.max([n(1), n(2)]).rounded()
        2.0
        """
        return max(values, key=lambda value: value.high)

    def exp(self, x: Interval) -> Interval:
        """The exponential.

        >>> n = Decimals()
        >>> n.exp(n(0)).rounded()
        1.0
        """
        return x + 1 if _is(x, 0) else self._outwards(self.down.exp(x.low), self.up.exp(x.high))

    def log(self, x: Interval) -> Interval:
        """The natural logarithm.

        >>> n = Decimals()
        >>> n.log(n(1)).rounded()
        0.0
        """
        return x - 1 if _is(x, 1) else self._outwards(self.down.ln(x.low), self.up.ln(x.high))

    def sqrt(self, x: Interval) -> Interval:
        """The square root.

        >>> n = Decimals()
        >>> n.sqrt(n(4)).rounded()
        2.0
        """
        low, high = self.down.sqrt(x.low), self.up.sqrt(x.high)
        whole = x.low == x.high and self._wide.multiply(low, low) == x.low
        return Interval(low, high, self) if whole else self._outwards(low, high)

    def sin(self, x: Interval) -> Interval:
        """The sine.

        >>> n = Decimals()
        >>> n.sin(n(1)).rounded()
        0.8414709848078965
        """
        return self._wave(x, 0)

    def cos(self, x: Interval) -> Interval:
        """The cosine.

        >>> n = Decimals()
        >>> n.cos(n(1)).rounded()
        0.5403023058681398
        """
        return self._wave(x, 1)

    def tanh(self, x: Interval) -> Interval:
        """The hyperbolic tangent.

        >>> n = Decimals()
        >>> n.tanh(n(1)).rounded()
        0.7615941559557649
        """
        return x if _is(x, 0) else 1 - 2 / (self.exp(2 * x) + 1)

    def pi(self) -> Interval:
        """The circle's number.

        >>> str(Decimals(20).pi().low)
        '3.1415926535897932384'
        """
        value = _pi(self.digits + 5)
        return Interval(self.down.plus(value), self.up.next_plus(self.up.plus(value)), self)

    def _outwards(self, low: Decimal, high: Decimal) -> Interval:
        """One unit further on both sides, since these functions round to nearest whatever the context says."""
        return Interval(self.down.next_minus(low), self.up.next_plus(high), self)

    def _wave(self, x: Interval, quarters: int) -> Interval:
        """sin(x + quarters·pi/2)."""
        if _is(x, 0):
            return self(quarters)
        value = _sine(self._wide.divide(self._wide.add(x.low, x.high), 2), quarters, self.digits)
        room = self.up.add(self.up.subtract(x.high, x.low), _power_of_ten(-self.digits - 10))
        return Interval(self.down.subtract(value, room), self.up.add(value, room), self)


@lru_cache(maxsize=4096)  # one angle turns many pairs of numbers
def _sine(x: Decimal, quarters: int, digits: int) -> Decimal:
    """sin(x + quarters·pi/2) to within 10^(-digits - 10).

    An alternating series stops within its next term; two hundred roundings at 20 further digits are less.
    """
    wide, finer = _context(digits + 20), _context(digits + 25 + max(0, x.adjusted()))
    half_pi = finer.divide(_pi(finer.prec), 2)
    turns = int(finer.to_integral_value(finer.divide(x, half_pi)))
    rest = finer.subtract(x, finer.multiply(half_pi, turns))  # |rest| < 0.8
    term, power = (rest, 1) if (turns + quarters) % 2 == 0 else (Decimal(1), 0)
    value, square, smallest = Decimal(0), wide.multiply(rest, rest), _power_of_ten(-digits - 15)
    while term.copy_abs() > smallest:
        value = wide.add(value, term)
        power += 2
        term = wide.divide(wide.multiply(term.copy_negate(), square), power * (power - 1))
    return value.copy_negate() if (turns + quarters) % 4 >= 2 else value


def _context(digits: int, rounding: str = ROUND_HALF_EVEN) -> decimal.Context:
    traps = [decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow]
    return decimal.Context(digits, rounding, decimal.MIN_EMIN, decimal.MAX_EMAX, traps=traps)


def _power_of_ten(exponent: int) -> Decimal:
    return Decimal((0, (1,), exponent))


def _is(x: Interval, value: int) -> bool:
    return x.low == x.high == value


@lru_cache(maxsize=64)
def _pi(digits: int) -> Decimal:
    """Pi cut after so many significant digits: 16·atan(1/5) - 4·atan(1/239), in integers."""
    unit = 10 ** (digits + 15)

    def arctangent_of_one_over(x: int) -> int:
        total: int = unit // x
        term = total
        n, sign = 1, 1
        while term:
            term //= x * x
            n, sign = n + 2, -sign
            total += sign * (term // n)
        return total

    scaled = 16 * arctangent_of_one_over(5) - 4 * arctangent_of_one_over(239)
    cut = str(scaled // 10**16)
    return Decimal(f"{cut[0]}.{cut[1:]}")
