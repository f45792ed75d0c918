"""What codecs share: reading rows and codes, rounding to what is stored, and the rounding of what is given back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kvattn.arrays import compute_dtype
from kvattn.codecs.codec import Part
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array


def read(x: Any, least: int = 1) -> Array:
    """Finite rows ``[*, heads, tokens, width]`` as float64, which holds float32 exactly."""
    array = np.asarray(x)
    if array.dtype not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise DtypeError(f"x must be an array of float64 or float32, got dtype {array.dtype}")
    shaped(array.shape, least)
    if not np.isfinite(array).all():
        raise ArgumentError(f"x must be finite, got {array[~np.isfinite(array)][0]}")
    return array.astype(np.float64, copy=False)


def shaped(shape: Sequence[int], multiple: int = 1) -> tuple[int, ...]:
    """A shape ``[*, heads, tokens, width]`` whose width comes in whole groups."""
    found = tuple(int(n) for n in shape)
    if len(found) < 3 or found[-1] < 1 or found[-3] < 1:
        raise ShapeError(f"x must have shape [*, heads >= 1, tokens, width >= 1], got {found}")
    if found[-1] % multiple:
        raise ShapeError(f"x must have a width that is a multiple of {multiple}, got {found[-1]}")
    return found


def stored(name: str, values: Array, dtype: np.dtype[Any]) -> Array:
    """Values rounded to the dtype they are kept in; refuses what it cannot hold."""
    with np.errstate(over="ignore"):
        kept: Array = values.astype(dtype)
    if not np.isfinite(kept).all():
        raise ArgumentError(f"x must have {name} in the range of {dtype}, got {values[~np.isfinite(kept)].flat[0]:.3g}")
    return kept


def scale_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype that scales are kept in, float32 or float16."""
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted not in (np.dtype(np.float32), np.dtype(np.float16)):
        raise DtypeError(f"scales must be kept in float32 or float16, got {dtype!r}")
    return wanted


def unpacked(codes: Sequence[Any], each: int = 1) -> tuple[int, ...]:
    """The shape of the rows whose codes, ``each`` to an entry, these are."""
    shape = tuple(np.shape(codes[0])) if len(codes) else ()
    if len(shape) < 3 or not shape[-1]:
        raise ShapeError(f"codes must have shape [*, heads, tokens, width >= 1], got {shape}")
    return (*shape[:-1], shape[-1] * each)


def fitted(parts: Sequence[Part], codes: Sequence[Any]) -> list[NDArray[Any]]:
    """The stored arrays, of the dtypes and shapes that decoding needs."""
    if len(codes) != len(parts):
        raise ShapeError(f"codes must be {', '.join(part.name for part in parts)}, got {len(codes)} arrays")
    arrays = [np.asarray(array) for array in codes]
    for (name, shape, dtype), found in zip(parts, arrays, strict=True):
        if found.dtype != np.dtype(dtype):
            raise DtypeError(f"{name} must have dtype {np.dtype(dtype)}, got {found.dtype}")
        if found.shape != shape:
            raise ShapeError(f"{name} must have shape {shape}, got {found.shape}")
    return arrays


def given_back(values: Array, dtype: DTypeLike) -> Array:
    """Float64 values rounded once to ``dtype``, at most its largest finite number; NaN stays NaN."""
    wanted = compute_dtype(dtype)
    most = float(np.finfo(wanted).max)
    return np.clip(values, -most, most).astype(wanted, copy=False)


def with_rounding(bound: Array, x: Array, dtype: DTypeLike) -> Array:
    """A bound on float64 values, widened by their rounding to ``dtype`` and by what computing the bound rounds off."""
    kind = np.finfo(np.dtype(dtype))
    half = float(kind.eps) / 2
    wider: Array = bound * (1 + 2.0**-48) + half * (np.abs(x) + bound) + float(kind.smallest_subnormal)
    return wider


def kept_error(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Relative and absolute rounding error of a number kept in ``dtype``: half a unit, half the smallest number."""
    kind = np.finfo(dtype)
    return float(kind.eps) / 2, float(kind.smallest_subnormal) / 2


def in_units(x: Array, scales: Array) -> Array:
    """Float64 numbers in units of their scale; 0 where that is 0."""
    units: Array = np.divide(x, scales, out=np.zeros_like(x), where=scales > 0)
    return units
