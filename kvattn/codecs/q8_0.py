"""q8_0 of GGUF: 32 bytes around zero and a float16 scale in front, 34 bytes a block.

    d = max |x| / 127        q = round(x · (1 / d))        x̂ = q · float16(d)

All in float32, and in this order; ``round`` takes ties away from zero.  Codes are made with d as it was before it is
rounded to float16, so that the bytes are ggml's.  Where 1 / d is beyond float32, d is 0 in float16: codes are 0.

Shapes: x ``[*, H, T, D]``, D a multiple of 32; blocks ``[*, H, T, 34 · D / 32]`` uint8, scale first, little-endian.
Cached per token: 34 bytes for 32 numbers a head.
Cost: encode 4 FLOPs a number (size, maximum, product, rounding) and 2 a block; decode 1 a number.

Error: d/2, and what rounding d loses: ``d · (1/2 + 2^-15) + (|x| + 0.6 d) · 2^-11 + 127 · 2^-25``, plus the roundings
of x to float32 and of x̂ to the dtype given back.  The last term is float16's smallest number: blocks below 2^-18 or
so are lost in it.

Source: ggml ``quantize_row_q8_0_ref`` (ggml-quants.c), ``block_q8_0`` (ggml-common.h).
Where libraries differ: ggml's vector code rounds ties to even; scales beyond float16 become infinite there and are
refused here; where 1 / d overflows, it converts infinities to bytes.
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

BYTES = 34
"""Bytes of a block."""


@dataclass(frozen=True)
class Q8_0:  # noqa: N801 -- the format's own name
    """Blocks of 32 signed bytes under a float16 scale.

    Examples
    --------
    >>> x = np.zeros((1, 1, 32))
    >>> x[0, 0, :3] = -127.0, 0.5, 1.4
    >>> Q8_0().encode(x).blocks[0, 0, :6]  # 0x3C00 is 1.0
    array([  0,  60, 129,   1,   1,   0], dtype=uint8)
    """

    @property
    def tokens(self) -> int | None:
        """Each token stands alone.

        >>> Q8_0().tokens
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
        >>> Q8_0().encode(np.ones((2, 5, 64))).blocks.shape
        (2, 5, 68)
        """
        numbers = blocks_of(x, BLOCK)
        scales = np.abs(numbers).max(-1, keepdims=True) / np.float32(127)
        kept = stored("scales", scales, np.dtype(np.float16))
        size = (np.abs(numbers) * reciprocal(scales)).astype(np.float64)
        codes = np.copysign(np.floor(size + 0.5), numbers).astype(np.int8)
        charge(self.encode_cost(np.shape(x)))
        return Blocks(joined(kept, codes.view(np.uint8)))

    def decode(self, codes: Blocks, dtype: DTypeLike) -> Array:
        """Code times scale, rounded once to ``dtype``.

        >>> Q8_0().decode(Q8_0().encode(np.full((1, 1, 32), -2.54)), np.float64)[0, 0, 0].round(3)
        np.float64(-2.541)
        """
        scales, found, shape = apart(codes, BLOCK, BYTES)
        charge(self.decode_cost(shape))
        return given_back((found.view(np.int8).astype(np.float64) * scales).reshape(shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a scale, and what rounding it to float16 can cost.

        >>> Q8_0().error(np.full((1, 1, 32), 127.0))[0, 0, 0].round(4)
        np.float64(0.5623)
        """
        numbers = blocks_of(x, BLOCK).astype(np.float64)
        size = np.abs(numbers)
        scale = size.max(-1, keepdims=True) / 127
        bound = scale * (0.5 + 2.0**-15) + (size + 0.6 * scale) * 2.0**-11 + 127 * 2.0**-25
        rows = read(x, BLOCK)
        bound = bound.reshape(rows.shape) + np.abs(rows) * 2.0**-24 + 2.0**-150
        return with_rounding(bound, rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Blocks of rows of this shape.

        >>> Q8_0().parts((8, 1, 64))
        (Part(name='blocks', shape=(8, 1, 68), dtype='u1'),)
        """
        full = shaped(shape, BLOCK)
        return (Part("blocks", (*full[:-1], full[-1] // BLOCK * BYTES), "u1"),)

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Four FLOPs a number, two a block.

        >>> Q8_0().encode_cost((1, 1, 32))
        Tally(arithmetic=130)
        """
        return Tally(arithmetic=4 * prod(shape) + 2 * (prod(shape) // BLOCK))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """One product a number.

        >>> Q8_0().decode_cost((1, 1, 32))
        Tally(arithmetic=32)
        """
        return Tally(arithmetic=prod(shape))
