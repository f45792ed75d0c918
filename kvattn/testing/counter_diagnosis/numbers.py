"""Numbers as counters return them, read exactly, and said as Python says them."""

from fractions import Fraction
import math
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.raised import Misshapen


def exact(returned: Any) -> Fraction:
    """Read a number that was returned.

    Raises
    ------
    Misshapen
        Where it is none, or not finite.

    Examples
    --------
    >>> exact(4), exact(np.float32(0.5))
    (Fraction(4, 1), Fraction(1, 2))
    >>> exact((1, 2))
    Traceback (most recent call last):
    kvattn.testing.diagnosis.raised.Misshapen: returned tuple, expected one number
    """
    if isinstance(returned, np.ndarray | np.generic) and returned.size == 1:
        returned = returned.item()
    if isinstance(returned, bool | str | bytes | complex) or returned is None:
        raise Misshapen(f"returned {type(returned).__name__}, expected one number")
    try:
        if isinstance(returned, int | Fraction):
            return Fraction(returned)
        real = float(returned)
    except (TypeError, ValueError):
        raise Misshapen(f"returned {type(returned).__name__}, expected one number") from None
    if not math.isfinite(real):
        raise Misshapen(f"returned {real}, expected one number")
    return Fraction(int(returned)) if real == int(real) and not isinstance(returned, float) else Fraction(real)


def shown(number: Fraction) -> str:
    """Say an exact number as Python would.

    >>> shown(Fraction(4)), shown(Fraction(5, 2))
    ('4', '2.5')
    """
    return str(number.numerator) if number.denominator == 1 else repr(float(number))


def plain_number(number: Fraction) -> int | float:
    """Return an int where it is one.

    >>> plain_number(Fraction(4)), plain_number(Fraction(5, 2))
    (4, 2.5)
    """
    return int(number) if number.denominator == 1 else float(number)
