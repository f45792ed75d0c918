"""Small codes in bytes: two of four bits or four of two, the first in the lowest bits.

    byte = c₀ + c₁ · 2^bits + c₂ · 2^(2 bits) + …,   c₀ the code of the lowest channel

Shapes: codes ``[..., width]`` to bytes ``[..., width · bits / 8]``, along the last axis.
Cached per token: width · bits / 8 bytes.  Cost: none, moving bits is not arithmetic.

Source: the low nibble first is the order of OCP MX v1.0's tools and of two int4 in one byte in ONNX.
Where libraries differ: KIVI and mlx-lm pack 32 bits at a time, in the same order, and on a little-endian machine
their bytes are these; KIVI packs keys along tokens; llama.cpp puts channel i beside channel i + 16
(`kvattn.codecs.q4_0`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.arguments import integer
from kvattn.errors import ArgumentError, ShapeError

Bytes = NDArray[np.uint8]


def pack(codes: NDArray[Any], bits: int) -> Bytes:
    """Codes of 2, 4 or 8 bits as bytes; what lies above the lowest ``bits`` is dropped (two's complement stays).

    Raises
    ------
    ArgumentError
        Bits other than 2, 4 or 8.
    ShapeError
        Codes that do not fill whole bytes.

    Examples
    --------
    >>> pack(np.array([1, 2, 15, -1]), 4)
    array([ 33, 255], dtype=uint8)
    """
    each = 8 // width_of(bits)
    if codes.shape[-1] % each:
        raise ShapeError(f"x must have a width that is a multiple of {each} for {bits} bits, got {codes.shape[-1]}")
    low = (codes.astype(np.uint8) & np.uint8(2**bits - 1)).reshape(*codes.shape[:-1], codes.shape[-1] // each, each)
    packed: Bytes = low[..., 0].copy()
    for place in range(1, each):
        packed |= low[..., place] << np.uint8(bits * place)
    return packed


def unpack(packed: Bytes, bits: int) -> Bytes:
    """Codes ``0 .. 2^bits - 1`` again.

    >>> unpack(np.array([33], np.uint8), 4)
    array([1, 2], dtype=uint8)
    """
    each = 8 // width_of(bits)
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    codes: Bytes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*packed.shape[:-1], packed.shape[-1] * each)


def unpack_signed(packed: Bytes, bits: int) -> NDArray[np.int8]:
    """Two's-complement codes ``-2^(bits-1) .. 2^(bits-1) - 1`` again.

    >>> unpack_signed(np.array([255, 33], np.uint8), 4)
    array([-1, -1,  1,  2], dtype=int8)
    """
    up = np.uint8(8 - width_of(bits))
    signed: NDArray[np.int8] = (unpack(packed, bits) << up).view(np.int8) >> up.astype(np.int8)
    return signed


def width_of(bits: int) -> int:
    """``bits``, where it is a width that codes may have.

    >>> width_of(3)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: bits must be 2, 4 or 8, got 3
    """
    found = integer("bits", bits, 1)
    if found not in (2, 4, 8):
        raise ArgumentError(f"bits must be 2, 4 or 8, got {found}")
    return found
