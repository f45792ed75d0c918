"""Signed integers times a scale: zero is exact, and the range is as wide below as above.

    n = 2^(bits-1) - 1        s = round(max |x| / n)        q = clip(rint(x / s), -n, n)        x̂ = q · s

x / s is rounded half to even, with the scale as it is kept; a group of zeros has scale 0.  The lowest code,
-2^(bits-1), is never written.

Shapes: x ``[*, H, T, D]``; codes ``[*, H, T, D]`` int8 for 8 bits, else ``[*, H, T, D · bits / 8]`` uint8, two's
complement, low bits first; scales as `kvattn.codecs.sharing` has them, float32 or float16.
Cached per token: D · bits / 8 bytes a head, and its scales.
Cost: encode 6 FLOPs a number (size, maximum, division, rounding, two bounds) and 1 a scale; decode 1.

Error: s/2 inside the range; the largest number may lie beyond n · s by what rounding s lost, so
``s/2 + u · max |x| + n · η``, u half a unit of the scale's dtype and η half its smallest number (where the scale is
subnormal, that is what counts), plus one rounding to the dtype given back.

Source: Jacob et al. 2018 (1712.05877) §2.1 with zero point 0; Xiao et al. 2023 (2211.10438) eq. 1.
Where libraries differ: optimum-quanto and vLLM divide by n too, but clip at -2^(bits-1), which nothing reaches.  They
divide in float32, here in float64: a code next to a tie may move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvattn.codecs._shared import (
    fitted,
    given_back,
    in_units,
    kept_error,
    read,
    scale_dtype,
    shaped,
    stored,
    unpacked,
    with_rounding,
)
from kvattn.codecs.codec import Part, Scaled
from kvattn.codecs.packing import pack, unpack_signed, width_of
from kvattn.codecs.sharing import PER_TOKEN_HEAD, Sharing
from kvattn.counting import Tally, charge
from kvattn.typing import Array


@dataclass(frozen=True)
class Symmetric:
    """Integers of 2, 4 or 8 bits around zero.

    Parameters
    ----------
    bits
        2, 4 or 8.
    sharing
        Which numbers share a scale.
    scales
        dtype in which scales are kept, float32 or float16.

    Raises
    ------
    ArgumentError
        Other bits.
    DtypeError
        Another dtype for scales.

    Examples
    --------
    >>> codec = Symmetric(8)
    >>> codes = codec.encode(np.array([[[-127.0, 0.4, 0.5, 1.5]]]))
    >>> codes.codes, codes.scales
    (array([[[-127,    0,    0,    2]]], dtype=int8), array([[[1.]]], dtype=float32))
    """

    bits: int
    sharing: Sharing = PER_TOKEN_HEAD
    scales: DTypeLike = np.float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", width_of(self.bits))
        object.__setattr__(self, "scales", scale_dtype(self.scales))

    @property
    def tokens(self) -> int | None:
        """How many neighbouring tokens share a scale.

        >>> Symmetric(8).tokens
        1
        """
        return self.sharing.tokens

    @property
    def top(self) -> int:
        """The highest code.

        >>> Symmetric(8).top, Symmetric(4).top, Symmetric(2).top
        (127, 7, 1)
        """
        return (1 << (self.bits - 1)) - 1

    def encode(self, x: Array) -> Scaled:
        """Codes and scales of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or sizes that groups or bytes do not divide.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity, or a scale that its dtype cannot hold.

        Examples
        --------
        >>> Symmetric(4).encode(np.array([[[7.0, -7.0]]])).codes
        array([[[151]]], dtype=uint8)
        """
        rows = read(x, 8 // self.bits)
        scales = self._scales(rows)
        units = in_units(rows, self.sharing.spread(scales, rows.shape))
        codes = np.clip(np.rint(units), -self.top, self.top).astype(np.int8)
        charge(self.encode_cost(rows.shape))
        return Scaled(codes if self.bits == 8 else pack(codes, self.bits), scales)

    def decode(self, codes: Scaled, dtype: DTypeLike) -> Array:
        """Code times scale, rounded once to ``dtype``.

        >>> codec = Symmetric(4)
        >>> codec.decode(codec.encode(np.array([[[7.0, -2.2]]])), np.float64)
        array([[[ 7., -2.]]])
        """
        shape = unpacked(codes, 8 // self.bits)
        found, scales = fitted(self.parts(shape), codes)
        signed: NDArray[np.int8] = found if self.bits == 8 else unpack_signed(found, self.bits)
        charge(self.decode_cost(shape))
        return given_back(signed.astype(np.float64) * self.sharing.spread(scales, shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a scale, and what rounding the scale can cost at the top.

        >>> Symmetric(8).error(np.array([[[-127.0, 1.0]]])).round(4)
        array([[[0.5, 0.5]]])
        """
        rows = read(x, 8 // self.bits)
        unit, least = kept_error(scale_dtype(self.scales))
        beyond = (unit + 2.0**-50) * self.sharing.reduce(np.maximum, np.abs(rows)) + self.top * least
        bound = self._scales(rows).astype(np.float64) / 2 + beyond
        return with_rounding(self.sharing.spread(bound, rows.shape), rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes and scales of rows of this shape.

        >>> Symmetric(4).parts((8, 1, 64))
        (Part(name='codes', shape=(8, 1, 32), dtype='u1'), Part(name='scales', shape=(8, 1, 1), dtype='f4'))
        """
        full = shaped(shape, 8 // self.bits)
        packed = (*full[:-1], full[-1] * self.bits // 8)
        kind = "i1" if self.bits == 8 else "u1"
        scales = scale_dtype(self.scales)
        return Part("codes", packed, kind), Part("scales", self.sharing.shape(full), f"f{scales.itemsize}")

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Six FLOPs a number, one a scale.

        >>> Symmetric(8).encode_cost((1, 2, 4))
        Tally(arithmetic=50)
        """
        return Tally(arithmetic=6 * prod(shape) + prod(self.sharing.shape(shape)))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """One product a number.

        >>> Symmetric(8).decode_cost((1, 2, 4))
        Tally(arithmetic=8)
        """
        return Tally(arithmetic=prod(shape))

    def _scales(self, rows: Array) -> Array:
        most = self.sharing.reduce(np.maximum, np.abs(rows))
        return stored("scales", most / self.top, scale_dtype(self.scales))
