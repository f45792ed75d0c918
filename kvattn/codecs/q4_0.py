"""q4_0 of GGUF: 32 nibbles and a float16 scale in front, 18 bytes a block.

    d = m / -8,  m the number of largest size, with its sign, the first of several
    q = min(15, floor(x · (1 / d) + 8.5))        x̂ = (q - 8) · float16(d)

All in float32, and in this order: halves go up.  m itself gets code 0 and comes back exactly but for float16; a number
as large with the other sign gets 15, not 16, and loses d.  Where 1 / d is beyond float32, d is 0 in float16 and
codes are 8.

Shapes: x ``[*, H, T, D]``, D a multiple of 32; blocks ``[*, H, T, 18 · D / 32]`` uint8: scale, little-endian, then 16
bytes, byte i with channel i in the low nibble and channel i + 16 in the high one.
Cached per token: 18 bytes for 32 numbers a head.
Cost: encode 6 FLOPs a number (size, maximum, product, sum, rounding, bound) and 2 a block; decode 2 a number.

Error: ``|d| · (max(1/2, x / d - 7) + 2^-18) + (|x| + 0.6 |d|) · 2^-11 + 8 · 2^-25``, plus the roundings of x to float32
and of x̂ to the dtype given back.

Source: ggml ``quantize_row_q4_0_ref`` (ggml-quants.c), ``block_q4_0`` (ggml-common.h).
Where libraries differ: scales beyond float16 become infinite there and are refused here; q4_1 keeps a minimum as
`kvattn.codecs.minimum` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from kvattn.codecs._ggml import apart, blocks_of, joined, reciprocal
from kvattn.codecs._shared import given_back, read, shaped, stored, with_rounding
from kvattn.codecs.codec import Blocks, Part
from kvattn.counting import Tally, charge
from kvattn.typing import Array

BLOCK = 32
"""Channels of a block."""

BYTES = 18
"""Bytes of a block."""


@dataclass(frozen=True)
class Q4_0:  # noqa: N801 -- the format's own name
    """Blocks of 32 nibbles under a float16 scale.

    Examples
    --------
    >>> x = np.zeros((1, 1, 32))
    >>> x[0, 0, [0, 1, 16]] = -8.0, 8.0, 2.5
    >>> Q4_0().encode(x).blocks[0, 0, :4]  # 0x3C00 is 1.0
    array([  0,  60, 176, 143], dtype=uint8)
    """

    @property
    def tokens(self) -> int | None:
        """Each token stands alone.

        >>> Q4_0().tokens
        1
        """
        return 1

    def encode(self, x: Array) -> Blocks:
        """Blocks of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or a width that is no multiple of 32.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity, or a scale beyond float16.

        Examples
        --------
        >>> Q4_0().encode(np.ones((2, 5, 64))).blocks.shape
        (2, 5, 36)
        """
        numbers = blocks_of(x, BLOCK)
        scales = _signed_largest(numbers) / np.float32(-8)
        kept = stored("scales", scales, np.dtype(np.float16))
        raised = numbers * reciprocal(scales) + np.float32(8.5)
        codes = np.minimum(np.floor(raised), 15).astype(np.uint8)
        nibbles = codes[..., : BLOCK // 2] | codes[..., BLOCK // 2 :] << np.uint8(4)
        charge(self.encode_cost(np.shape(x)))
        return Blocks(joined(kept, nibbles))

    def decode(self, codes: Blocks, dtype: DTypeLike) -> Array:
        """Code times scale, rounded once to ``dtype``.

        >>> Q4_0().decode(Q4_0().encode(np.full((1, 1, 32), -2.5)), np.float64)[0, 0, 0]
        np.float64(-2.5)
        """
        scales, found, shape = apart(codes, BLOCK, BYTES)
        steps = np.concatenate([found & np.uint8(15), found >> np.uint8(4)], -1).astype(np.float64) - 8
        charge(self.decode_cost(shape))
        return given_back((steps * scales).reshape(shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a scale, a whole one opposite the largest, and what rounding it to float16 can cost.

        >>> Q4_0().error(np.full((1, 1, 32), 8.0))[0, 0, 0].round(4)
        np.float64(0.5042)
        """
        numbers = blocks_of(x, BLOCK).astype(np.float64)
        signed = _signed_largest(numbers) / -8
        scale = np.abs(signed)
        units = np.divide(numbers, signed, out=np.zeros_like(numbers), where=scale > 0)
        lost = np.maximum(units - 7, 0.5) + 2.0**-18
        bound = scale * lost + (np.abs(numbers) + 0.6 * scale) * 2.0**-11 + 8 * 2.0**-25
        rows = read(x, BLOCK)
        bound = bound.reshape(rows.shape) + np.abs(rows) * 2.0**-24 + 2.0**-150
        return with_rounding(bound, rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Blocks of rows of this shape.

        >>> Q4_0().parts((8, 1, 64))
        (Part(name='blocks', shape=(8, 1, 36), dtype='u1'),)
        """
        full = shaped(shape, BLOCK)
        return (Part("blocks", (*full[:-1], full[-1] // BLOCK * BYTES), "u1"),)

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Six FLOPs a number, two a block.

        >>> Q4_0().encode_cost((1, 1, 32))
        Tally(arithmetic=194)
        """
        return Tally(arithmetic=6 * prod(shape) + 2 * (prod(shape) // BLOCK))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """A difference and a product a number.

        >>> Q4_0().decode_cost((1, 1, 32))
        Tally(arithmetic=64)
        """
        return Tally(arithmetic=2 * prod(shape))


def _signed_largest(numbers: Array) -> Array:
    """The number of largest size in each block, with its sign, the first of several."""
    place = np.abs(numbers).argmax(-1, keepdims=True)
    return np.take_along_axis(numbers, place, -1)
