"""What the formulas of many recipes share, beside `kvattn.goldens.formulas`: rotation, powers, floors.

Arrays are nested lists, ``[B][H][T][D]``; positions are integers.  Nothing here is shared with the code that the
goldens are for.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from kvattn.goldens.formulas import See
from kvattn.goldens.numbers import Numbers

Row = list[Any]
Nested = Any
"""Nested lists of numbers, or of integers."""


def floor(x: Any) -> int:
    """The largest integer not above x, by halving an interval of whole numbers."""
    low, high = -1, 1
    while x < low:
        low *= 2
    while x >= high:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if x >= middle else (low, middle)
    return low


def fraction(x: Any, denominator: int) -> Fraction:
    """A number that is known to be so many parts of ``denominator``, exactly."""
    return Fraction(floor(x * denominator), denominator)


def power(n: Numbers, base: Any, exponent: Any) -> Any:
    """``base ** exponent`` for a base above 0."""
    return n.exp(exponent * n.log(base))


def softplus(n: Numbers, x: Any) -> Any:
    """``ln(1 + exp(x))``."""
    return n.log(1 + n.exp(x))


def every_row(rows: Nested, change: Callable[[int, int, int, Row], Row]) -> Nested:
    """``[B][H][T][D]`` with each row changed; ``change`` is asked with b, h, t and the row."""
    return [
        [[change(b, h, t, row) for t, row in enumerate(head)] for h, head in enumerate(heads)]
        for b, heads in enumerate(rows)
    ]


def geometric(n: Numbers, width: int, base: float = 10000.0) -> Row:
    """``base ** (-2k / width)``: Su et al. 2021 (2104.09864) §3.3."""
    log = n.log(n(base))
    return [n.exp(-2 * k * log / width) for k in range(width // 2)]


def turn(
    n: Numbers, row: Row, angles: Sequence[Any], *, layout: str = "half", magnitude: Any = 1, start: int = 0
) -> Row:
    """Pairs of features turned by their angles; the others stay."""
    turned, pairs = list(row), len(angles)
    first = start % len(row)
    for j, angle in enumerate(angles):
        one, two = (j, j + pairs) if layout == "half" else (2 * j, 2 * j + 1)
        one, two = one + first, two + first
        c, s = n.cos(angle) * magnitude, n.sin(angle) * magnitude
        turned[one], turned[two] = row[one] * c - row[two] * s, row[one] * s + row[two] * c
    return turned


def causal(q_positions: Nested, k_positions: Nested) -> See:
    """A query sees what stands at its own position or before."""
    return lambda b, h, t, s: bool(q_positions[b][t] >= k_positions[b][s])


def before(_b: int, _h: int, t: int, s: int) -> bool:
    """As many keys as queries: a query sees itself and what came before."""
    return s <= t
