"""Eight-bit floats with scales given beforehand, for a tensor or for each head; what is beyond saturates.

    q = nearest(x / s_h)        x̂ = q · s_h        |x̂| <= largest · s_h

Shapes: x ``[*, H, T, D]``; codes ``[*, H, T, D]`` uint8 (`kvattn.codecs.small_float`); one scale, or one for each head.
Cached per token: D bytes a head; the scales, 4 bytes each, are kept once, like a weight.
Cost: encode 4 FLOPs a number (division, rounding, two bounds); decode 1.

Error: half a step of the format at x / s, times s; beyond ``largest · s`` the distance to it, without limit.

Source: OCP 8-bit floating point v1.0, conversion with saturation; Micikevicius et al. 2022 (2209.05433) §3.
Where libraries differ: engines name the factor ``k_scale`` and ``v_scale`` and mean what is called s here (a stored
number times it is the number).  Scale 1, a plain cast, is their default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import real, reals
from kvattn.codecs._shared import fitted, given_back, in_units, read, shaped, unpacked, with_rounding
from kvattn.codecs.codec import Bare, Part
from kvattn.codecs.small_float import E4M3FN, SmallFloat, scaled_error
from kvattn.counting import Tally, charge
from kvattn.errors import ShapeError
from kvattn.typing import Array


@dataclass(frozen=True)
class Float8Fixed:
    """Eight-bit floats under known scales.

    Parameters
    ----------
    kind
        `E4M3FN`, `E5M2` or `E4M3FNUZ` of `kvattn.codecs.small_float`.
    scales
        One number above 0, or one for each head; rounded to float32.

    Raises
    ------
    ArgumentError
        Scales that are not finite numbers above 0; later ShapeError, where heads are not as many.

    Examples
    --------
    >>> codec = Float8Fixed(E4M3FN, (0.5, 2.0))
    >>> codec.decode(codec.encode(np.array([[[300.0]], [[300.0]]])), np.float64)
    array([[[224.]],
    <BLANKLINE>
           [[288.]]])
    """

    kind: SmallFloat = E4M3FN
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        kept = (float(np.float32(min(scale, 2.0**127))) for scale in reals("scales", self.scales))
        object.__setattr__(self, "scales", tuple(real("scales", scale, above=0.0) for scale in kept))

    @property
    def tokens(self) -> int | None:
        """Each token stands alone.

        >>> Float8Fixed().tokens
        1
        """
        return 1

    def encode(self, x: Array) -> Bare:
        """Codes of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or a number of heads other than the scales'.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity.

        Examples
        --------
        >>> Float8Fixed().encode(np.array([[[1e9, 1.0]]])).codes
        array([[[126,  56]]], dtype=uint8)
        """
        rows = read(x)
        scales = self._spread(rows.shape)
        charge(self.encode_cost(rows.shape))
        return Bare(self.kind.encode(in_units(rows, scales)))

    def decode(self, codes: Bare, dtype: DTypeLike) -> Array:
        """The code's number times its head's scale, rounded once to ``dtype``.

        >>> Float8Fixed(scales=(0.5,)).decode(Bare(np.array([[[126]]], np.uint8)), np.float64)
        array([[[224.]]])
        """
        shape = unpacked(codes)
        (found,) = fitted(self.parts(shape), codes)
        charge(self.decode_cost(shape))
        return given_back(self.kind.decode(found) * self._spread(shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a step at each number, or its distance to the largest.

        >>> Float8Fixed().error(np.array([[[1000.0, 33.0]]])).round(4)
        array([[[552.,   2.]]])
        """
        rows = read(x)
        bound = scaled_error(self.kind, rows, self._spread(rows.shape))
        return with_rounding(bound, rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes of rows of this shape; the scales are the codec's own.

        >>> Float8Fixed().parts((8, 1, 64))
        (Part(name='codes', shape=(8, 1, 64), dtype='u1'),)
        """
        return (Part("codes", shaped(shape), "u1"),)

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Four FLOPs a number.

        >>> Float8Fixed().encode_cost((1, 2, 4))
        Tally(arithmetic=32)
        """
        return Tally(arithmetic=4 * prod(shape))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """One product a number.

        >>> Float8Fixed().decode_cost((1, 2, 4))
        Tally(arithmetic=8)
        """
        return Tally(arithmetic=prod(shape))

    def _spread(self, shape: Sequence[int]) -> Array:
        """The scale of each head, for every number."""
        full = shaped(shape)
        if len(self.scales) not in (1, full[-3]):
            raise ShapeError(f"x must have {len(self.scales)} heads, one for each scale, got {full[-3]}")
        return np.broadcast_to(np.array(self.scales)[:, None, None], full)
