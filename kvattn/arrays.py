"""Take arrays as they come: NumPy, lists, DLPack, torch, JAX, ml_dtypes; give float64 or float32.

Nothing is cast in silence: a type that the asked-for dtype cannot hold exactly is refused, except
that asking for float32 by name is asking for the rounding.  Optional packages are never imported
here: an array of one shows that its package is already loaded.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.typing import Array, Positions

_SMALL_FLOATS = ("bfloat16", "float8", "float6", "float4")


def floating(name: str, value: Any, dtype: DTypeLike = np.float64) -> Array:
    """Read ``value`` as a floating array of ``dtype``, which may be ``value`` itself.

    Parameters
    ----------
    name
        What the caller calls it.
    value
        Anything that NumPy or DLPack takes: numbers, nested lists, torch (detached), JAX,
        ml_dtypes bfloat16 and float8.
    dtype
        float64 or float32.

    Raises
    ------
    DtypeError
        Booleans, complex numbers, objects, strings, masked arrays; extended precision that float64 would
        cut; numbers beyond the range of float32 where that was asked for; a ``dtype`` that is neither.
    ShapeError
        What is no array at all: ragged lists, tensors without storage.

    Examples
    --------
    >>> floating("q", [[1, 2]])
    array([[1., 2.]])
    >>> floating("q", [None])
    Traceback (most recent call last):
    kvattn.errors.DtypeError: q must be an array of real numbers, got dtype object
    """
    wanted = compute_dtype(dtype)
    array = anything(name, value)
    kind = array.dtype.kind
    small = array.dtype.name.startswith(_SMALL_FLOATS)
    if not small and kind not in "fiu":
        raise DtypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    if array.dtype.itemsize > 8:
        raise DtypeError(f"{name} must have at most 64 bits per number, got dtype {array.dtype}")
    if kind in "iu" and array.dtype.itemsize == 8 and array.size and not _exact(array):
        raise DtypeError(f"{name} must hold integers that float64 represents, at most 2**53, got dtype {array.dtype}")
    try:
        with np.errstate(over="raise"):
            return array.astype(wanted, copy=False)
    except FloatingPointError:
        raise DtypeError(f"{name} must hold numbers in the range of {wanted}, got larger ones") from None


def compute_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype to compute in, float64 or float32.

    >>> compute_dtype("float32")
    dtype('float32')
    """
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        wanted = np.dtype(object)
    if wanted not in (np.dtype(np.float64), np.dtype(np.float32)):
        raise DtypeError(f"dtype must be float64 or float32, got {dtype!r}")
    return wanted


def positions(name: str, value: Any, batch: int | tuple[int, ...], length: int) -> Positions:
    """Read positions of shape ``[length]`` or ``[*batch, length]`` as ``[B, length]``, B sequences in all.

    Raises
    ------
    PositionError
        When they are not integers of 64 bits.
    ShapeError
        When the shape is neither.

    Examples
    --------
    >>> positions("q_positions", [3, 4], batch=2, length=2)
    array([[3, 4],
           [3, 4]])
    """
    array = anything(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise PositionError(f"{name} must be integers, got dtype {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise PositionError(f"{name} must be below 2**63, got {array.max()}")
    full = (*batch, length) if isinstance(batch, tuple) else (batch, length)
    if array.shape not in ((length,), full):
        raise ShapeError(f"{name} must have shape [{length}] or {list(full)}, got {array.shape}")
    spread = np.broadcast_to(array.astype(np.int64), full)
    return np.ascontiguousarray(spread.reshape(math.prod(full[:-1]), length))


def anything(name: str, value: Any) -> "np.ndarray[Any, np.dtype[Any]]":
    """Read an array and leave its dtype as it is; torch's small floats become float64.

    >>> anything("mask", [[True], [False]]).shape
    (2, 1)
    >>> anything("mask", [[True], [False, True]])
    Traceback (most recent call last):
    kvattn.errors.ShapeError: mask must be an array or evenly nested lists, got list
    """
    kind = type(value).__module__
    if kind.startswith("numpy.ma"):
        raise DtypeError(f"{name} must be an array without a mask of its own, got a NumPy masked array")
    problem: Exception | None = None
    try:
        if kind.split(".")[0] == "torch":
            value = value.detach().cpu()
            if value.is_floating_point() and value.itemsize < 4:
                value = value.double()  # exact: NumPy has no bfloat16 or float8 to receive it in
        array = np.asarray(value)
        if array.dtype != object or isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
            return array
    except (TypeError, ValueError, RuntimeError, BufferError) as refusal:
        problem = refusal
    try:
        return np.from_dlpack(value)
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError) as refusal:
        message = f"{name} must be an array or evenly nested lists, got {type(value).__name__}"
        raise ShapeError(message) from (problem or refusal)


def boolean_or_floating(name: str, value: Any, dtype: DTypeLike) -> "np.ndarray[Any, np.dtype[Any]]":
    """Read an array, leaving booleans as they are.

    >>> boolean_or_floating("mask", [True], np.float64).dtype
    dtype('bool')
    """
    array = anything(name, value)
    return array if array.dtype == np.bool_ else floating(name, array, dtype)


def _exact(array: "np.ndarray[Any, np.dtype[Any]]") -> bool:
    return bool(array.max() <= 2**53 and array.min() >= -(2**53))
