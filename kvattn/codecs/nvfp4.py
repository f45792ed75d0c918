"""NVFP4: 16 four-bit floats under an E4M3 scale, all under one float32 scale given beforehand.

    b = E4M3(max |x| / 6 / s)        q = E2M1(x / (b · s))        x̂ = q · b · s

s, kept in float32, is chosen so that the largest number of all gets the largest block scale, 448:
``s = max |x| / (448 · 6)`` over what was seen before (`tensor_scale`).  Larger numbers saturate at 2688 · s.  Block
scales are rounded to even like any E4M3; one that rounds to 0 takes its block to 0.

Shapes: x ``[*, H, T, D]``, D a multiple of 16; codes ``[*, H, T, D / 2]`` uint8, the lower channel in the low nibble;
scales ``[*, H, T, D / 16]`` uint8, E4M3.
Cached per token: 9 bytes for 16 numbers a head; s is kept once, 4 bytes, like a weight.
Cost: encode 6 FLOPs a number and 3 a scale; decode 1 a number and 1 a scale.

Error: half a step of E2M1 at x / (b · s), times b · s, or the distance to 6 · b · s; x itself where b is 0.

Source: NVIDIA 2025 (2509.25149), the quantisation procedure of its appendix; torchao ``nvfp4_quantize``.
Where libraries differ: they divide in float32, and multiply by 1 / (b · s), which may move a code next to a tie;
torchao raises block scales below 2^-6 to it, the smallest normal E4M3.  Four
Over Six (2512.02010) scales some blocks to 4 instead of 6.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvattn.arguments import real
from kvattn.codecs._shared import fitted, given_back, in_units, read, shaped, unpacked, with_rounding
from kvattn.codecs.codec import Part, Scaled
from kvattn.codecs.packing import pack, unpack
from kvattn.codecs.sharing import groups_of
from kvattn.codecs.small_float import E2M1, E4M3FN, scaled_error
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.typing import Array

BLOCK = 16
"""Channels that share a block scale."""

_SHARING = groups_of(BLOCK)


def tensor_scale(x: Array) -> float:
    """The scale that brings the largest of these numbers to the top, rounded to float32; 1 for zeros.

    Raises
    ------
    ArgumentError
        NaN or infinity, or a scale beyond float32.

    Examples
    --------
    >>> tensor_scale(np.array([[[-2688.0, 1.0]]]))
    1.0
    """
    rows = read(x)
    most = np.abs(rows).max(initial=0.0) / (E4M3FN.largest * E2M1.largest)
    if most > float(np.finfo(np.float32).max):
        raise ArgumentError(f"x must have a scale in the range of float32, got {most:.3g}")
    return float(np.float32(most)) or 1.0


@dataclass(frozen=True)
class NVFP4:
    """Four-bit floats in blocks of 16 channels, an E4M3 scale each, under one scale for all.

    Parameters
    ----------
    scale
        The float32 scale of the tensor, above 0.

    Raises
    ------
    ArgumentError
        A scale that is not a finite number above 0, as float32.

    Examples
    --------
    >>> codes = NVFP4(1.0).encode(np.full((1, 1, 16), 6.0))
    >>> codes.codes[0, 0, 0], codes.scales  # 56 is 1.0 in E4M3
    (np.uint8(119), array([[[56]]], dtype=uint8))
    """

    scale: float

    def __post_init__(self) -> None:
        kept = float(np.float32(min(real("scale", self.scale, above=0.0), 2.0**127)))
        object.__setattr__(self, "scale", real("scale", kept, above=0.0))

    @property
    def tokens(self) -> int | None:
        """Each token stands alone: the scale of all is given.

        >>> NVFP4(1.0).tokens
        1
        """
        return 1

    def encode(self, x: Array) -> Scaled:
        """Codes and block scales of finite rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, or a width that is no multiple of 16.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity.

        Examples
        --------
        >>> NVFP4(1.0).encode(np.full((1, 1, 16), 1e9)).scales  # saturates: 126 is 448
        array([[[126]]], dtype=uint8)
        """
        rows = read(x, BLOCK)
        blocks = self._blocks(rows)
        codes = E2M1.encode(in_units(rows, self._wide(blocks, rows.shape)))
        charge(self.encode_cost(rows.shape))
        return Scaled(pack(codes, 4), blocks)

    def decode(self, codes: Scaled, dtype: DTypeLike) -> Array:
        """The code's number times both scales, rounded once to ``dtype``.

        >>> codes = NVFP4(0.5).encode(np.full((1, 1, 16), 6.0))
        >>> NVFP4(0.5).decode(codes, np.float64)[0, 0, 0]
        np.float64(6.0)
        """
        shape = unpacked(codes, 2)
        packed, blocks = fitted(self.parts(shape), codes)
        charge(self.decode_cost(shape))
        return given_back(E2M1.decode(unpack(packed, 4)) * self._wide(blocks, shape), dtype)

    def error(self, x: Array) -> Array:
        """Half a step at each number, or its distance to the block's largest.

        >>> NVFP4(1.0).error(np.full((1, 1, 16), 6.0))[0, 0, 0].round(4)
        np.float64(1.0)
        """
        rows = read(x, BLOCK)
        scales = self._wide(self._blocks(rows), rows.shape)
        return with_rounding(scaled_error(E2M1, rows, scales), rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """Codes and block scales of rows of this shape; the scale of all is the codec's own.

        >>> NVFP4(1.0).parts((8, 1, 64))
        (Part(name='codes', shape=(8, 1, 32), dtype='u1'), Part(name='scales', shape=(8, 1, 4), dtype='u1'))
        """
        full = shaped(shape, BLOCK)
        return Part("codes", (*full[:-1], full[-1] // 2), "u1"), Part("scales", _SHARING.shape(full), "u1")

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """Six FLOPs a number, three a block: two divisions and the product of both scales.

        >>> NVFP4(1.0).encode_cost((1, 1, 16))
        Tally(arithmetic=99)
        """
        return Tally(arithmetic=6 * prod(shape) + 3 * prod(_SHARING.shape(shape)))

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """One product a number, one a block.

        >>> NVFP4(1.0).decode_cost((1, 1, 16))
        Tally(arithmetic=17)
        """
        return Tally(arithmetic=prod(shape) + prod(_SHARING.shape(shape)))

    def _blocks(self, rows: Array) -> NDArray[np.uint8]:
        """E4M3 codes of the block scales."""
        with np.errstate(over="ignore"):
            wanted = _SHARING.reduce(np.maximum, np.abs(rows)) / E2M1.largest / self.scale
        return E4M3FN.encode(wanted)

    def _wide(self, blocks: NDArray[Any], shape: Sequence[int]) -> Array:
        """Product of both scales, for every number; exact."""
        return _SHARING.spread(E4M3FN.decode(blocks) * self.scale, shape)
