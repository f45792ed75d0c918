"""MXFP4: 32 four-bit floats under one power of two.

    e = floor(log2 max |x|) - 2,  at least -127        q = E2M1(x / 2^e)        x̂ = q · 2^e

2 is the exponent of E2M1's largest power of two, 4: the largest number of a block lands in [4, 8), and what is above 6
saturates.  Scales are E8M0, one byte, exponent plus 127; 255 is NaN.  A block of zeros has exponent -127, and so has
one whose largest number is below 2^-125.

Shapes: x ``[*, H, T, D]``, D a multiple of 32; codes ``[*, H, T, D / 2]`` uint8, the lower channel in the low nibble;
scales ``[*, H, T, D / 32]`` uint8.
Cached per token: 17 bytes for 32 numbers a head.
Cost: encode 6 FLOPs a number and 1 a scale (exponents are read off); decode 1 a number.

Error: half a step of E2M1 at x / 2^e, times 2^e, or the distance to 6 · 2^e: at most a quarter
of the block's largest number, from 2^-125 on.

Source: OCP Microscaling formats v1.0 §5.2.1, §5.3.3, §5.4.1 and §6.3.
Where libraries differ: this is torchao's ``FLOOR``, which divides by no less than 2^-126;
it also has modes that choose an exponent higher, so that nothing saturates.  v1.0 leaves a block of zeros and
exponents beyond 127 open: beyond is refused here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvattn.codecs._shared import fitted, given_back, read, shaped, unpacked, with_rounding
from kvattn.codecs.codec import Part, Scaled
from kvattn.codecs.packing import pack, unpack
from kvattn.codecs.sharing import groups_of
from kvattn.codecs.small_float import E2M1, scaled_error
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.typing import Array

BLOCK = 32
"""Channels that share a scale."""

_BIAS = 127
_SHARING = groups_of(BLOCK)


@dataclass(frozen=True)
class MXFP4:
    """Four-bit floats in blocks of 32 channels, a power of two each.

    Examples
    --------
    >>> codes = MXFP4().encode(np.full((1, 1, 32), -7.9))
    >>> codes.codes[0, 0, :2], codes.scales
    (array([255, 255], dtype=uint8), array([[[127]]], dtype=uint8))
    >>> MXFP4().decode(codes, np.float64)[0, 0, 0]
    np.float64(-6.0)
    """

    @property
    def tokens(self) -> int | None:
        """Each token stands alone.

        >>> MXFP4().tokens
        1
        """
        return 1

    def encode(self, x: Array) -> Scaled:
        """Codes and exponents of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or a width that is no multiple of 32.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN, infinity, or numbers from 2^130 on.

        Examples
        --------
        >>> MXFP4().encode(np.full((1, 1, 32), 2.0**-126)).scales
        array([[[0]]], dtype=uint8)
        """
        rows = read(x, BLOCK)
        exponents = _exponents(rows)
        codes = E2M1.encode(np.ldexp(rows, -_SHARING.spread(exponents, rows.shape).astype(np.int64)))
        charge(self.encode_cost(rows.shape))
        return Scaled(pack(codes, 4), (exponents + _BIAS).astype(np.uint8))

    def decode(self, codes: Scaled, dtype: DTypeLike) -> Array:
        """The code's number times the power of two; NaN where the scale is 255.

        >>> MXFP4().decode(Scaled(np.full((1, 1, 16), 0x21, np.uint8), np.array([[[128]]], np.uint8)), np.float64)[
        ...     0, 0, :2
        ... ]
        array([1., 2.])
        """
        shape = unpacked(codes, 2)
        packed, scales = fitted(self.parts(shape), codes)
        powers = np.where(scales == 255, np.nan, np.ldexp(1.0, scales.astype(np.int64) - _BIAS))
        charge(self.decode_cost(shape))
        return given_back(E2M1.decode(unpack(packed, 4)) * _SHARING.spread(powers, shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a step at each number, or its distance to the block's largest.

        >>> MXFP4().error(np.full((1, 1, 32), 7.9))[0, 0, 0].round(4), MXFP4().error(np.full((1, 1, 32), 4.5))[0, 0, 0]
        (np.float64(1.9), np.float64(1.0...))
        """
        rows = read(x, BLOCK)
        scales = _SHARING.spread(np.ldexp(1.0, _exponents(rows)), rows.shape)
        return with_rounding(scaled_error(E2M1, rows, scales), rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes and exponents of rows of this shape.

        >>> MXFP4().parts((8, 1, 64))
        (Part(name='codes', shape=(8, 1, 32), dtype='u1'), Part(name='scales', shape=(8, 1, 2), dtype='u1'))
        """
        full = shaped(shape, BLOCK)
        return Part("codes", (*full[:-1], full[-1] // 2), "u1"), Part("scales", _SHARING.shape(full), "u1")

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Six FLOPs a number, one a scale.

        >>> MXFP4().encode_cost((1, 1, 32))
        Tally(arithmetic=193)
        """
        return Tally(arithmetic=6 * prod(shape) + prod(_SHARING.shape(shape)))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """One product a number.

        >>> MXFP4().decode_cost((1, 1, 32))
        Tally(arithmetic=32)
        """
        return Tally(arithmetic=prod(shape))


def _exponents(rows: Array) -> NDArray[np.int64]:
    """Exponent of each block's scale."""
    most = _SHARING.reduce(np.maximum, np.abs(rows))
    if most.size and most.max() >= 2.0**130:
        raise ArgumentError(f"x must be below 2**130 in size, which E8M0 scales reach, got {most.max():.3g}")
    _, above = np.frexp(most)  # most = f · 2^above, 1/2 <= f < 1
    floor = above.astype(np.int64) - 3
    return np.where(most > 0, np.maximum(floor, -_BIAS), -_BIAS)
