"""Unsigned integers with an integer zero point: zero is exact, and the range reaches from lowest to highest.

    n = 2^bits - 1      lo = min(x, 0)      hi = max(x, 0)      s = round((hi - lo) / n)
    z = clip(rint(-lo / s), 0, n)           q = clip(rint(x / s) + z, 0, n)         x̂ = (q - z) · s

The range is widened to hold 0, so that 0 has a code of its own: a group far from 0 pays for that
(`kvattn.codecs.minimum` does not).  Rounding is half to even; a group of zeros has scale 0 and zero point 0.

Shapes: x ``[*, H, T, D]``; codes ``[*, H, T, D · bits / 8]`` uint8, low bits first; scales float32 or float16 and zero
points uint8 as `kvattn.codecs.sharing` has them.
Cached per token: D · bits / 8 bytes a head, its scales and a byte for each of them.
Cost: encode 7 FLOPs a number and 4 a scale; decode 2 a number.

Error: ``s/2 + u · (hi - lo) + n · η``, as in `kvattn.codecs.symmetric`, plus one rounding to the dtype given back.

Source: Jacob et al. 2018 (1712.05877) §2.1 and §3; ONNX DynamicQuantizeLinear.
Where libraries differ: ONNX rounds the zero point as here, from 8 bits; torch clips it too, and computes in float32;
some take the minimum itself as the zero (`kvattn.codecs.minimum`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike

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
from kvattn.codecs.codec import Part, Shifted
from kvattn.codecs.packing import pack, unpack, width_of
from kvattn.codecs.sharing import PER_TOKEN_HEAD, Sharing
from kvattn.counting import Tally, charge
from kvattn.typing import Array


@dataclass(frozen=True)
class ZeroPoint:
    """Integers of 2, 4 or 8 bits, from the lowest to the highest number, 0 among them.

    Parameters
    ----------
    bits
        2, 4 or 8.
    sharing
        Which numbers share a scale and a zero point.
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
    >>> codes = ZeroPoint(8).encode(np.array([[[-55.0, 0.0, 0.5, 200.0]]]))
    >>> codes.codes, codes.scales, codes.zeros
    (array([[[  0,  55,  55, 255]]], dtype=uint8), array([[[1.]]], dtype=float32), array([[[55]]], dtype=uint8))
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

        >>> ZeroPoint(8).tokens
        1
        """
        return self.sharing.tokens

    @property
    def top(self) -> int:
        """The highest code.

        >>> ZeroPoint(4).top
        15
        """
        return (1 << self.bits) - 1

    def encode(self, x: Array) -> Shifted:
        """Codes, scales and zero points of finite rows.

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
        >>> ZeroPoint(4).encode(np.array([[[-7.0, 8.0]]])).codes
        array([[[240]]], dtype=uint8)
        """
        rows = read(x, 8 // self.bits)
        low, _, scales = self._ends(rows)
        kept = scales.astype(np.float64)
        zeros = np.clip(np.rint(in_units(-low, kept)), 0, self.top)
        steps = np.rint(in_units(rows, self.sharing.spread(kept, rows.shape)))
        codes = np.clip(steps + self.sharing.spread(zeros, rows.shape), 0, self.top).astype(np.uint8)
        charge(self.encode_cost(rows.shape))
        return Shifted(pack(codes, self.bits), scales, zeros.astype(np.uint8))

    def decode(self, codes: Shifted, dtype: DTypeLike) -> Array:
        """Code less zero point, times scale, rounded once to ``dtype``.

        >>> codec = ZeroPoint(8)
        >>> codec.decode(codec.encode(np.array([[[-55.0, 0.0, 0.5, 200.0]]])), np.float64)
        array([[[-55.,   0.,   0., 200.]]])
        """
        shape = unpacked(codes, 8 // self.bits)
        packed, scales, zeros = fitted(self.parts(shape), codes)
        steps = unpack(packed, self.bits).astype(np.float64) - self.sharing.spread(zeros, shape)
        charge(self.decode_cost(shape))
        return given_back(steps * self.sharing.spread(scales, shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a scale, and what rounding the scale can cost at the ends.

        >>> ZeroPoint(8).error(np.array([[[-55.0, 200.0]]])).round(4)
        array([[[0.5, 0.5]]])
        """
        rows = read(x, 8 // self.bits)
        unit, least = kept_error(scale_dtype(self.scales))
        low, high, scales = self._ends(rows)
        bound = scales.astype(np.float64) / 2 + (unit + 2.0**-50) * (high - low) + self.top * least
        return with_rounding(self.sharing.spread(bound, rows.shape), rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes, scales and zero points of rows of this shape.

        >>> [part.dtype for part in ZeroPoint(4).parts((8, 1, 64))]
        ['u1', 'f4', 'u1']
        """
        full = shaped(shape, 8 // self.bits)
        shared = self.sharing.shape(full)
        packed = (*full[:-1], full[-1] * self.bits // 8)
        kind = f"f{scale_dtype(self.scales).itemsize}"
        return Part("codes", packed, "u1"), Part("scales", shared, kind), Part("zeros", shared, "u1")

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Seven FLOPs a number, four a scale.

        >>> ZeroPoint(8).encode_cost((1, 2, 4))
        Tally(arithmetic=64)
        """
        return Tally(arithmetic=7 * prod(shape) + 4 * prod(self.sharing.shape(shape)))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """A difference and a product a number.

        >>> ZeroPoint(8).decode_cost((1, 2, 4))
        Tally(arithmetic=16)
        """
        return Tally(arithmetic=2 * prod(shape))

    def _ends(self, rows: Array) -> tuple[Array, Array, Array]:
        """Lowest and highest number of each group, 0 included, and the scale as it is kept."""
        low = np.minimum(self.sharing.reduce(np.minimum, rows), 0.0)
        high = np.maximum(self.sharing.reduce(np.maximum, rows), 0.0)
        with np.errstate(over="ignore"):
            wanted = (high - low) / self.top
        return low, high, stored("scales", wanted, scale_dtype(self.scales))
