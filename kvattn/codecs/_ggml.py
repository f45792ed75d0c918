"""What GGUF's block formats share: float32 blocks, the scale's bytes, and the reciprocal."""

import numpy as np
from numpy.typing import NDArray

from kvattn.codecs._shared import read, stored
from kvattn.codecs.codec import Blocks
from kvattn.errors import DtypeError, ShapeError
from kvattn.typing import Array

Bytes = NDArray[np.uint8]


def blocks_of(x: Array, block: int) -> Array:
    """Rows as float32 blocks, ``[*, H, T, D / block, block]``."""
    rows = read(x, block)
    return stored("numbers", rows, np.dtype(np.float32)).reshape(*rows.shape[:-1], rows.shape[-1] // block, block)


def reciprocal(scales: Array) -> Array:
    """1 / scale in float32; 0 where the scale is 0 or its reciprocal beyond float32."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scales
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def joined(scales: Array, codes: Bytes) -> Bytes:
    """Float16 scales ``[..., blocks, 1]`` in front of their codes' bytes, blocks side by side."""
    whole = np.concatenate([np.ascontiguousarray(scales, "<f2").view(np.uint8), codes], -1)
    return whole.reshape(*whole.shape[:-2], whole.shape[-2] * whole.shape[-1])


def apart(codes: Blocks, block: int, nbytes: int) -> tuple[Array, Bytes, tuple[int, ...]]:
    """Scales ``[..., blocks, 1]``, code bytes ``[..., blocks, bytes]`` and the shape of the rows."""
    found = np.asarray(codes[0]) if len(codes) else np.empty(0, np.uint8)
    if found.dtype != np.uint8:
        raise DtypeError(f"blocks must have dtype uint8, got {found.dtype}")
    if found.ndim < 3 or not found.shape[-1] or found.shape[-1] % nbytes:
        raise ShapeError(f"blocks must have shape [*, heads, tokens, a multiple of {nbytes}], got {found.shape}")
    count = found.shape[-1] // nbytes
    whole = found.reshape(*found.shape[:-1], count, nbytes)
    scales: Array = np.ascontiguousarray(whole[..., :2]).view("<f2")
    return scales, np.ascontiguousarray(whole[..., 2:]), (*found.shape[:-1], count * block)
