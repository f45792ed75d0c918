"""Floating-point numbers of few bits: rounding and reading them, bit for bit.

    x̂ = ± rint(|x| / 2^e) · 2^e,   e = max(floor(log2 |x|), 1 - bias) - mantissa bits,   at most the largest number

Rounding is half to even, once, from float64 (float32 fits in it); below the smallest normal number the step stays.
Beyond the largest number, infinity included, codes saturate; NaN stays NaN where the format has one and is refused
where it has none.  Codes are sign, exponent, mantissa, from the highest bit down, in the smallest unsigned integer.

Shapes: elementwise.  Cached per number: 4 or 8 bits.  Cost: counted by the codecs that use it.

Error: half a step at x, ``2^e / 2``; beyond the largest number the distance to it, rounded once.

Source: OCP 8-bit floating point v1.0 (E4M3, E5M2, conversion with saturation); OCP Microscaling v1.0 §5.3.3 (E2M1);
Noune et al. 2022 (2206.02915) for E4M3FNUZ, with one more exponent of bias, one zero, and NaN where -0 would be.
Where libraries differ: ml_dtypes and torch give NaN (E5M2: infinity) beyond the largest number; engines saturate.
ml_dtypes rounds float64 twice, by way of float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.codecs._shared import in_units
from kvattn.errors import ArgumentError
from kvattn.typing import Array

Codes = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class SmallFloat:
    """A format: bits of exponent and mantissa, bias, and what stands beyond the largest number.

    Attributes
    ----------
    name
        As the literature has it.
    exponent, mantissa
        Bits; a sign bit stands before them.
    bias
        Of the exponent.
    largest
        The largest finite number.
    nan
        Code that NaN gets, None in formats without.
    infinity
        Code of infinity, None in formats without; reading only, nothing is rounded to it.
    negative_zero
        Whether -0 has a code.

    Examples
    --------
    >>> E2M1.decode(np.arange(8, dtype=np.uint8))
    array([0. , 0.5, 1. , 1.5, 2. , 3. , 4. , 6. ])
    """

    name: str
    exponent: int
    mantissa: int
    bias: int
    largest: float
    nan: int | None = None
    infinity: int | None = None
    negative_zero: bool = True

    def __repr__(self) -> str:
        return self.name

    @property
    def bits(self) -> int:
        """Of a code, sign included.

        >>> E4M3FN.bits, E2M1.bits
        (8, 4)
        """
        return 1 + self.exponent + self.mantissa

    def nearest(self, x: Array) -> Array:
        """The nearest multiples of the step at x, ties to even, as if there was no largest number.

        What lies beyond twice the largest number counts as twice that; NaN stays.

        >>> E2M1.nearest(np.array([0.25, -0.2, 5.0, 6.9, 7.0, np.inf]))
        array([ 0., -0.,  4.,  6.,  8., 12.])
        """
        return self._multiple(x, np.rint)

    def cut(self, x: Array) -> Array:
        """The next multiples of the step at x towards zero, as `nearest` otherwise.

        >>> E2M1.cut(np.array([0.4, -0.9, 5.9, 7.0]))
        array([ 0. , -0.5,  4. ,  6. ])
        """
        return self._multiple(x, np.trunc)

    def _multiple(self, x: Array, whole: Callable[[Array], Array]) -> Array:
        size = np.minimum(np.abs(x), 2 * self.largest).astype(np.float64)
        step = self._step(size)
        found: Array = np.copysign(np.ldexp(whole(np.ldexp(size, -step)), step), x)
        return found

    def encode(self, x: Array) -> Codes:
        """Codes of the nearest numbers, ties to even, saturating.

        Raises
        ------
        ArgumentError
            NaN, in a format without.

        Examples
        --------
        >>> E2M1.encode(np.array([0.25, 0.75, 5.0, -100.0])), E4M3FN.encode(np.array([np.nan, 464.0, np.inf]))
        (array([ 0,  2,  6, 15], dtype=uint8), array([127, 126, 126], dtype=uint8))
        """
        lost = np.isnan(x)
        if self.nan is None and lost.any():
            raise ArgumentError(f"x must not be NaN in {self.name}, which has none, got NaN")
        size = np.minimum(np.abs(self.nearest(np.where(lost, 0.0, x))), self.largest)
        step = self._step(size)
        # The implicit bit of a normal number adds one to the exponent field, so all below it is one sum.
        low = 1 - self.bias - self.mantissa
        code = np.ldexp(size, -step).astype(np.int64) + ((step - low) << self.mantissa)
        negative = np.signbit(x) & (self.negative_zero | (code > 0))
        found = code | (negative.astype(np.int64) << (self.exponent + self.mantissa))
        return np.where(lost, self.nan or 0, found).astype(np.min_scalar_type((1 << self.bits) - 1))

    def decode(self, codes: Codes) -> Array:
        """The numbers of codes, float64.

        >>> E5M2.decode(np.array([0x01, 0x7B, 0x7C, 0x7D], np.uint8)), E4M3FNUZ.decode(np.array([0x80], np.uint8))
        (array([1.52587891e-05, 5.73440000e+04,            inf,            nan]), array([nan]))
        """
        number: Array = self.numbers()[codes] if self.bits <= 8 else self._read(codes)
        return number

    def numbers(self) -> Array:
        """Every number of the format, in the order of its codes.

        >>> E2M1.numbers()[8:]
        array([-0. , -0.5, -1. , -1.5, -2. , -3. , -4. , -6. ])
        """
        return self._read(np.arange(1 << self.bits))

    def _read(self, codes: NDArray[np.integer[Any]]) -> Array:
        low = np.asarray(codes).astype(np.int64) & ((1 << (self.bits - 1)) - 1)
        field, part = low >> self.mantissa, low & ((1 << self.mantissa) - 1)
        whole = np.where(field > 0, part + (1 << self.mantissa), part)
        with np.errstate(over="ignore"):  # float64's own infinity
            size = np.ldexp(whole.astype(np.float64), np.maximum(field, 1) - self.bias - self.mantissa)
        size = np.where(size > self.largest, np.nan, size)
        if self.infinity is not None:
            size = np.where(low == self.infinity, np.inf, size)
        negative = (codes >> (self.bits - 1)).astype(np.bool_)
        both = np.where(negative, -size, size)
        return both if self.negative_zero else np.where(negative & (low == 0), np.nan, both)

    def error(self, x: Array) -> Array:
        """Half a step, or the distance to the largest number.

        >>> E2M1.error(np.array([0.1, 1.9, 5.0, 7.5]))
        array([0.25, 0.25, 1.  , 1.5 ])
        """
        size = np.abs(x)
        half: Array = np.ldexp(0.5, self._step(np.minimum(size, self.largest)))
        return np.maximum(half, size - self.largest)

    def _step(self, size: Array) -> NDArray[np.int64]:
        """Exponent of the step at a finite size."""
        _, exponent = np.frexp(size)  # size = f · 2^exponent, 1/2 <= f < 1
        floor = np.where(size > 0, exponent.astype(np.int64) - 1, 1 - self.bias)
        step: NDArray[np.int64] = np.maximum(floor, 1 - self.bias) - self.mantissa
        return step


E4M3FN = SmallFloat("E4M3FN", 4, 3, 7, 448.0, nan=0x7F)
"""OCP's E4M3: no infinity, one NaN a sign."""

E5M2 = SmallFloat("E5M2", 5, 2, 15, 57344.0, nan=0x7E, infinity=0x7C)
"""OCP's E5M2: with infinity and NaN, as IEEE has them."""

E4M3FNUZ = SmallFloat("E4M3FNUZ", 4, 3, 8, 240.0, nan=0x80, negative_zero=False)
"""E4M3 with one zero and one NaN, twice as fine and half as far."""

E2M1 = SmallFloat("E2M1", 2, 1, 1, 6.0)
"""Four bits: 0, 1/2, 1, 3/2, 2, 3, 4, 6 and their negatives."""


def scaled_error(kind: SmallFloat, x: Array, scales: Array) -> Array:
    """Bound on ``abs(x - round(x / scale) · scale)``; where the scale is 0, x itself is lost.

    >>> scaled_error(E2M1, np.array([10.0, 15.0, 1.0]), np.array([2.0, 2.0, 0.0]))
    array([2., 3., 1.])
    """
    found: Array = np.where(scales > 0, kind.error(in_units(x, scales)) * scales, np.abs(x))
    wider: Array = found + np.ldexp(np.abs(x), -50) * (scales > 0)
    return wider
