"""The small number formats of recorded arrays: what their bit patterns mean.

    value = (-1)^s · 2^(e - bias) · (1 + m / 2^M),    or  (-1)^s · 2^(1 - bias) · m / 2^M  where e = 0

A format that has an infinity keeps the highest exponent for it and for NaN; ``e4m3fn`` keeps only the
pattern with all ones, for NaN; ``e2m1fn`` keeps nothing.

Source: IEEE 754-2019 §3.4; Micikevicius et al. 2022 (2209.05433) §3; OCP Microscaling 1.0 §5.3.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError
from kvattn.typing import Array


@dataclass(frozen=True, eq=False)
class Bits:
    """Numbers of a format that NumPy may not have: their bit patterns, and its name.

    Attributes
    ----------
    dtype
        ``bfloat16``, ``float16``, ``float32``, ``float8_e4m3fn``, ``float8_e5m2`` or ``float4_e2m1fn``.
    bits
        Unsigned integers of that width (four-bit numbers one to a byte).

    Examples
    --------
    >>> Bits("bfloat16", np.array([0x3F80], np.uint16)).dtype
    'bfloat16'
    """

    dtype: str
    bits: NDArray[np.unsignedinteger[Any]]


class Format(NamedTuple):
    """The widths of a format's fields.

    >>> FORMATS["bfloat16"].bits
    16
    """

    exponent: int
    mantissa: int
    bias: int
    specials: str

    @property
    def bits(self) -> int:
        """How wide a number is.

        >>> FORMATS["float8_e5m2"].bits
        8
        """
        return 1 + self.exponent + self.mantissa


FORMATS = {
    "float32": Format(8, 23, 127, "infinite"),
    "bfloat16": Format(8, 7, 127, "infinite"),
    "float16": Format(5, 10, 15, "infinite"),
    "float8_e4m3fn": Format(4, 3, 7, "nan"),
    "float8_e5m2": Format(5, 2, 15, "infinite"),
    "float4_e2m1fn": Format(2, 1, 1, "none"),
}


def decoded(array: Bits) -> Array:
    """The numbers as float64, exactly.

    Parameters
    ----------
    array
        Bit patterns.

    Returns
    -------
    array
        Of the same shape.

    Raises
    ------
    ArgumentError
        A format that is not in `FORMATS`.

    Examples
    --------
    >>> decoded(Bits("bfloat16", np.array([0x3F80, 0xC000, 0x0001], np.uint16))).tolist()
    [1.0, -2.0, 9.183549615799121e-41]
    """
    if array.dtype not in FORMATS:
        raise ArgumentError(f"dtype must be one of {', '.join(FORMATS)}, got {array.dtype!r}")
    form = FORMATS[array.dtype]
    bits = array.bits.astype(np.int64)
    mantissa = bits % 2**form.mantissa
    exponent = bits >> form.mantissa & 2**form.exponent - 1
    negative = bits >> form.mantissa + form.exponent & 1
    normal = exponent > 0
    significand = mantissa / 2**form.mantissa + normal
    value = np.ldexp(significand, np.where(normal, exponent, 1) - form.bias)
    highest = exponent == 2**form.exponent - 1
    if form.specials == "infinite":
        value = np.where(highest, np.where(mantissa == 0, np.inf, np.nan), value)
    elif form.specials == "nan":
        value = np.where(highest & (mantissa == 2**form.mantissa - 1), np.nan, value)
    return np.asarray(np.where(negative == 1, -value, value), np.float64)
