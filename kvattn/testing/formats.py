"""Number formats of kernels: any array rounded to them, once, and the patterns that store what was found.

    x̂ = ± rint(|x| / 2^e) · 2^e,   e = max(floor(log2 |x|), 1 - bias) - mantissa bits

Rounding is half to even, from float64, so float32 and narrower numbers go in exactly; subnormals are kept; a zero has
the sign of what became it, but in the formats with one zero.  What rounds to more than the largest number becomes what
the format says: infinity, NaN where there is none, or the largest number in FP4 and FP6, which have neither, and in
`saturating` copies of the others.  The arithmetic is that of `kvattn.codecs.small_float`, which codecs use.

Shapes: elementwise.

Source: IEEE 754-2019 §4.3.1 (ties to even), §7.4 (overflow); OCP 8-bit floating point v1.0; OCP Microscaling v1.0
§5.3; Noune et al. 2022 (2206.02915) for the FNUZ kinds.
Where libraries differ: ml_dtypes casts float64 by way of float32, rounding twice: 1 + 2⁻⁸ + 2⁻⁴⁰ goes to 1 there, and
to 1 + 2⁻⁷ here.  Kernels saturate where they convert to 8 bits (PTX ``cvt.rn.satfinite``), ml_dtypes and torch do not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvattn.codecs.small_float import E2M1, E4M3FN, E4M3FNUZ, E5M2, Codes, SmallFloat
from kvattn.errors import ArgumentError
from kvattn.typing import Array


@dataclass(frozen=True)
class Format:
    """A number format and what stands beyond its largest number.

    Attributes
    ----------
    kind
        Bits of exponent and mantissa, bias, largest number, special codes.
    beyond
        What a number becomes that rounds to more than the largest: infinity, NaN, or the largest.

    Examples
    --------
    >>> FORMATS["bfloat16"], FORMATS["bfloat16"].roundoff == 2.0**-8
    (bfloat16, True)
    """

    kind: SmallFloat
    beyond: float

    def __repr__(self) -> str:
        return self.kind.name

    @property
    def roundoff(self) -> float:
        """Largest relative error of rounding to a normal number: half a unit in the last place of 1.

        >>> FORMATS["float16"].roundoff == 2.0**-11
        True
        """
        return 2.0 ** -(self.kind.mantissa + 1)

    @property
    def tiny(self) -> float:
        """The smallest positive number, which is also the distance between the smallest ones.

        >>> FORMATS["float16"].tiny == 2.0**-24
        True
        """
        return 2.0 ** (1 - self.kind.bias - self.kind.mantissa)

    def round(self, x: Any) -> Array:
        """The nearest numbers of the format, ties to even, as float64.

        Raises
        ------
        ArgumentError
            NaN, in a format without.

        Examples
        --------
        >>> FORMATS["bfloat16"].round([1.00390625, 1.01171875, 1e39, -1e-50])
        array([ 1.      ,  1.015625,       inf, -0.      ])
        >>> FORMATS["float8_e4m3"].round([464.0, 465.0]), saturating(FORMATS["float8_e4m3"]).round([464.0, 465.0])
        (array([448.,  nan]), array([448., 448.]))
        """
        return self._settled(x, self.kind.nearest)

    def cut(self, x: Any) -> Array:
        """The next numbers of the format towards zero, as float64; too large ones as in `round`.

        Raises
        ------
        ArgumentError
            NaN, in a format without.

        Examples
        --------
        >>> FORMATS["bfloat16"].cut([1.0077, -1.99999, 3.5e38])
        array([ 1.       , -1.9921875,        inf])
        """
        return self._settled(x, self.kind.cut)

    def _settled(self, x: Any, multiple: Callable[[Array], Array]) -> Array:
        exact = np.asarray(x, np.float64)
        if self.kind.nan is None and np.isnan(exact).any():
            raise ArgumentError(f"x must not be NaN in {self}, which has none, got NaN")
        found = multiple(exact)
        over = np.abs(found) > self.kind.largest
        if over.any():
            found = np.where(over, np.copysign(self.beyond, found), found)
        return found if self.kind.negative_zero else found + 0.0

    def pattern(self, x: Any) -> Codes:
        """Bit patterns of the nearest numbers: sign, exponent, mantissa, from the highest bit down.

        The 19 bits of TF32 are those that stand highest in a float32.

        >>> FORMATS["bfloat16"].pattern([1.0, -2.0, np.inf]), FORMATS["float4_e2m1"].pattern([6.0, -0.5])
        (array([16256, 49152, 32640], dtype=uint16), array([7, 9], dtype=uint8))
        """
        near = self.round(x)
        codes = self.kind.encode(near)
        if self.kind.infinity is None:
            return codes
        sign = codes & codes.dtype.type(1 << (self.kind.bits - 1))
        return np.where(np.isinf(near), sign | codes.dtype.type(self.kind.infinity), codes)

    def number(self, patterns: Codes) -> Array:
        """The numbers of bit patterns, as float64.

        >>> FORMATS["float16"].number(np.array([0x3C00, 0x0001, 0xFC00], np.uint16))
        array([1.00000000e+00, 5.96046448e-08,           -inf])
        """
        return self.kind.decode(np.asarray(patterns))


def saturating(number_format: Format) -> Format:
    """The same numbers, where too large ones, infinity included, become the largest.

    >>> saturating(FORMATS["float16"]).round([1e9, -np.inf])
    array([ 65504., -65504.])
    """
    return replace(number_format, beyond=number_format.kind.largest)


def _ieee(name: str, exponent: int, mantissa: int) -> Format:
    """A format as IEEE 754 makes them: the highest exponent is left to infinity and NaN."""
    bias = 2 ** (exponent - 1) - 1
    infinity = (2**exponent - 1) << mantissa
    largest = (2.0 - 2.0**-mantissa) * 2.0**bias
    nan = infinity | 1 << (mantissa - 1)
    return Format(SmallFloat(name, exponent, mantissa, bias, largest, nan, infinity), np.inf)


E5M2FNUZ = SmallFloat("E5M2FNUZ", 5, 2, 16, 57344.0, nan=0x80, negative_zero=False)
"""E5M2 with one zero and one NaN, which gives the highest exponent back to numbers."""

E2M3 = SmallFloat("E2M3", 2, 3, 1, 7.5)
"""Six bits, finer."""

E3M2 = SmallFloat("E3M2", 3, 2, 3, 28.0)
"""Six bits, farther."""

FORMATS: Mapping[str, Format] = {
    "float64": _ieee("float64", 11, 52),
    "float32": _ieee("float32", 8, 23),
    "tf32": _ieee("tf32", 8, 10),
    "bfloat16": _ieee("bfloat16", 8, 7),
    "float16": _ieee("float16", 5, 10),
    "float8_e4m3": Format(E4M3FN, np.nan),
    "float8_e5m2": Format(E5M2, np.inf),
    "float8_e4m3fnuz": Format(E4M3FNUZ, np.nan),
    "float8_e5m2fnuz": Format(E5M2FNUZ, np.nan),
    "float6_e2m3": Format(E2M3, E2M3.largest),
    "float6_e3m2": Format(E3M2, E3M2.largest),
    "float4_e2m1": Format(E2M1, E2M1.largest),
}
"""Formats by the names that `kvattn.testing.arithmetic` uses; E4M3 is OCP's, without infinity."""


def format_of(name: str) -> Format:
    """Look a format up by name.

    Raises
    ------
    ArgumentError
        Where there is none of this name.

    Examples
    --------
    >>> format_of("float8_e4m3").kind.largest
    448.0
    """
    if name not in FORMATS:
        raise ArgumentError(f"format must be one of {', '.join(FORMATS)}, got {name}")
    return FORMATS[name]
