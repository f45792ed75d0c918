"""Unsigned integers above the group's minimum: every level is used, and zero has no code of its own.

    n = 2^bits - 1      m = round(min x)      s = round((max x - min x) / n)
    q = clip(rint((x - m) / s), 0, n)         x̂ = q · s + m

Scale and minimum are rounded to the dtype they are kept in before codes are made of them; rounding is half to even.
A constant group has scale 0 and comes back as its rounded minimum.

Shapes: x ``[*, H, T, D]``; codes ``[*, H, T, D · bits / 8]`` uint8, low bits first; scales and minima (``zeros``)
as `kvattn.codecs.sharing` has them, float32 or float16.
Cached per token: D · bits / 8 bytes a head, its scales and as many minima.
Cost: encode 7 FLOPs a number and 2 a scale; decode 2 a number.

Error: inside the range s/2; at its ends also what rounding s and m lost, so
``s/2 + u · (max x - min x + |min x|) + (n + 1) · η``, u half a unit of the kept dtype and η half its smallest number,
plus one rounding to the dtype given back.  Far from 0 the rounding of the minimum is what counts.

Source: Liu et al. 2024 (KIVI, 2402.02750) §3, with ``z_X = min X``; HQQ and mlx-lm keep the same two numbers.
Where libraries differ: mlx moves the scale so that 0 falls on a code and measures from the end that is farther from
0; optimum-quanto keeps -min x, and divides in float32; KIVI keeps float16.
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
class Minimum:
    """Integers of 2, 4 or 8 bits that count up from the lowest number.

    Parameters
    ----------
    bits
        2, 4 or 8.
    sharing
        Which numbers share a scale and a minimum.
    scales
        dtype in which scales and minima are kept, float32 or float16.

    Raises
    ------
    ArgumentError
        Other bits.
    DtypeError
        Another dtype for scales.

    Examples
    --------
    >>> codes = Minimum(4).encode(np.array([[[10.0, 12.4, 25.0, 17.5]]]))
    >>> codes.codes, codes.scales, codes.zeros
    (array([[[ 32, 143]]], dtype=uint8), array([[[1.]]], dtype=float32), array([[[10.]]], dtype=float32))
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

        >>> Minimum(8).tokens
        1
        """
        return self.sharing.tokens

    @property
    def top(self) -> int:
        """The highest code.

        >>> Minimum(2).top
        3
        """
        return (1 << self.bits) - 1

    def encode(self, x: Array) -> Shifted:
        """Codes, scales and minima of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or sizes that groups or bytes do not divide.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity, or a scale or minimum that its dtype cannot hold.

        Examples
        --------
        >>> Minimum(8).encode(np.array([[[-3.0, 252.0]]])).codes
        array([[[  0, 255]]], dtype=uint8)
        """
        rows = read(x, 8 // self.bits)
        scales, zeros = self._kept(rows)
        above = rows - self.sharing.spread(zeros, rows.shape)
        units = in_units(above, self.sharing.spread(scales, rows.shape))
        codes = np.clip(np.rint(units), 0, self.top).astype(np.uint8)
        charge(self.encode_cost(rows.shape))
        return Shifted(pack(codes, self.bits), scales, zeros)

    def decode(self, codes: Shifted, dtype: DTypeLike) -> Array:
        """Code times scale above the minimum, rounded once to ``dtype``.

        >>> codec = Minimum(8)
        >>> codec.decode(codec.encode(np.array([[[-3.0, 252.0, 7.4, 0.0]]])), np.float64)
        array([[[ -3., 252.,   7.,   0.]]])
        """
        shape = unpacked(codes, 8 // self.bits)
        packed, scales, zeros = fitted(self.parts(shape), codes)
        steps = unpack(packed, self.bits).astype(np.float64) * self.sharing.spread(scales, shape)
        charge(self.decode_cost(shape))
        return given_back(steps + self.sharing.spread(zeros, shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a scale, and what rounding scale and minimum can cost at the ends.

        >>> Minimum(8).error(np.array([[[-3.0, 252.0]]])).round(4)
        array([[[0.5, 0.5]]])
        """
        rows = read(x, 8 // self.bits)
        unit, least = kept_error(scale_dtype(self.scales))
        scales, _ = self._kept(rows)
        low, high = (self.sharing.reduce(by, rows) for by in (np.minimum, np.maximum))
        ends = (unit + 2.0**-50) * (high - low + np.abs(low)) + (self.top + 1) * least
        return with_rounding(
            self.sharing.spread(scales.astype(np.float64) / 2 + ends, rows.shape), rows, np.asarray(x).dtype
        )

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes, scales and minima of rows of this shape.

        >>> [part.shape for part in Minimum(4).parts((8, 1, 64))]
        [(8, 1, 32), (8, 1, 1), (8, 1, 1)]
        """
        full = shaped(shape, 8 // self.bits)
        shared = self.sharing.shape(full)
        packed = (*full[:-1], full[-1] * self.bits // 8)
        kind = f"f{scale_dtype(self.scales).itemsize}"
        return Part("codes", packed, "u1"), Part("scales", shared, kind), Part("zeros", shared, kind)

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Seven FLOPs a number (two comparisons, a difference, a quotient, a rounding, two bounds), two a scale.

        >>> Minimum(8).encode_cost((1, 2, 4))
        Tally(arithmetic=60)
        """
        return Tally(arithmetic=7 * prod(shape) + 2 * prod(self.sharing.shape(shape)))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """A product and a sum a number.

        >>> Minimum(8).decode_cost((1, 2, 4))
        Tally(arithmetic=16)
        """
        return Tally(arithmetic=2 * prod(shape))

    def _kept(self, rows: Array) -> tuple[Array, Array]:
        """Scales and minima as they are kept."""
        dtype = scale_dtype(self.scales)
        low, high = (self.sharing.reduce(by, rows) for by in (np.minimum, np.maximum))
        with np.errstate(over="ignore"):
            wanted = (high - low) / self.top
        return stored("scales", wanted, dtype), stored("minima", low, dtype)
