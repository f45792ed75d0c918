"""Eight-bit floats with a scale taken from the numbers: the largest of a group becomes the format's largest.

    s = round(max |x| / largest)        q = nearest(x / s)        x̂ = q · s

The scale is kept in float32; a group of zeros has scale 0.  What rounding s lost at the top saturates.

Shapes: x ``[*, H, T, D]``; codes ``[*, H, T, D]`` uint8 (`kvattn.codecs.small_float`); scales float32 as
`kvattn.codecs.sharing` has them.
Cached per token: D bytes a head, and 4 for each scale.
Cost: encode 6 FLOPs a number (size, maximum, division, rounding, two bounds) and 1 a scale; decode 1.

Error: half a step of the format at x / s, times s; where the scale has vanished (with E4M3, no
number of 448 · 2^-150 or more), x itself.  For E4M3 that is at most 2^-4 of x where x / s is at least 2^-6, and
2^-10 · s below.

Source: OCP 8-bit floating point v1.0; Micikevicius et al. 2022 (2209.05433) §3.
Where libraries differ: TensorRT-LLM, vLLM and SGLang keep a scale for each tensor or head that was measured before
(`kvattn.codecs.float8_fixed`); torchao takes it from the tensor, as here with `PER_TENSOR`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from kvattn.codecs._shared import fitted, given_back, in_units, read, shaped, stored, unpacked, with_rounding
from kvattn.codecs.codec import Part, Scaled
from kvattn.codecs.sharing import PER_TOKEN_HEAD, Sharing
from kvattn.codecs.small_float import E4M3FN, SmallFloat, scaled_error
from kvattn.counting import Tally, charge
from kvattn.typing import Array


@dataclass(frozen=True)
class Float8:
    """Eight-bit floats, the scale from each group's largest number.

    Parameters
    ----------
    kind
        `E4M3FN`, `E5M2` or `E4M3FNUZ` of `kvattn.codecs.small_float`.
    sharing
        Which numbers share a scale.

    Examples
    --------
    >>> codec = Float8(E4M3FN)
    >>> codes = codec.encode(np.array([[[896.0, -1.0, 33.0]]]))
    >>> codes.scales, codec.decode(codes, np.float64)
    (array([[[2.]]], dtype=float32), array([[[896.,  -1.,  32.]]]))
    """

    kind: SmallFloat = E4M3FN
    sharing: Sharing = PER_TOKEN_HEAD

    @property
    def tokens(self) -> int | None:
        """How many neighbouring tokens share a scale.

        >>> Float8().tokens
        1
        """
        return self.sharing.tokens

    def encode(self, x: Array) -> Scaled:
        """Codes and scales of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or sizes that groups do not divide.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity, or a scale beyond float32.

        Examples
        --------
        >>> Float8().encode(np.array([[[448.0, -448.0, 0.0]]])).codes
        array([[[126, 254,   0]]], dtype=uint8)
        """
        rows = read(x)
        scales = self._scales(rows)
        charge(self.encode_cost(rows.shape))
        return Scaled(self.kind.encode(in_units(rows, self.sharing.spread(scales, rows.shape))), scales)

    def decode(self, codes: Scaled, dtype: DTypeLike) -> Array:
        """The code's number times the scale, rounded once to ``dtype``.

        >>> Float8().decode(Scaled(np.array([[[126]]], np.uint8), np.array([[[0.5]]], np.float32)), np.float64)
        array([[[224.]]])
        """
        shape = unpacked(codes)
        found, scales = fitted(self.parts(shape), codes)
        charge(self.decode_cost(shape))
        return given_back(self.kind.decode(found) * self.sharing.spread(scales, shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a step at each number.

        >>> Float8().error(np.array([[[448.0, 33.0, 1.0]]])).round(4)
        array([[[16.    ,  2.    ,  0.0625]]])
        """
        rows = read(x)
        scales = self.sharing.spread(self._scales(rows).astype(np.float64), rows.shape)
        return with_rounding(scaled_error(self.kind, rows, scales), rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes and scales of rows of this shape.

        >>> Float8().parts((8, 1, 64))
        (Part(name='codes', shape=(8, 1, 64), dtype='u1'), Part(name='scales', shape=(8, 1, 1), dtype='f4'))
        """
        full = shaped(shape)
        return Part("codes", full, "u1"), Part("scales", self.sharing.shape(full), "f4")

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Six FLOPs a number, one a scale.

        >>> Float8().encode_cost((1, 2, 4))
        Tally(arithmetic=50)
        """
        return Tally(arithmetic=6 * prod(shape) + prod(self.sharing.shape(shape)))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """One product a number.

        >>> Float8().decode_cost((1, 2, 4))
        Tally(arithmetic=8)
        """
        return Tally(arithmetic=prod(shape))

    def _scales(self, rows: Array) -> Array:
        most = self.sharing.reduce(np.maximum, np.abs(rows))
        return stored("scales", most / self.kind.largest, np.dtype(np.float32))
