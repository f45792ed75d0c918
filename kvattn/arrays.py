"""Take arrays as they come: NumPy, lists, DLPack, torch, JAX, ml_dtypes; give float64 or float32.

Nothing is cast in silence: a type that the asked-for dtype cannot hold exactly is refused, except
that asking for float32 by name is asking for the rounding.  Optional packages are never imported
here: an array of one shows that its package is already loaded.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.typing import Array, Positions

_SMALL_FLOATS = ("bfloat16", "float8", "float6", "float4")


def floating(name: str, value: Any, dtype: DTypeLike = np.float64) -> Array:
    """Read ``value`` as a floating array of ``dtype``.

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
        Booleans, complex numbers, objects, strings; extended precision that float64 would cut;
        a ``dtype`` that is neither.

    Examples
    --------
    >>> floating("q", [[1, 2]])
    array([[1., 2.]])
    >>> floating("q", [None])
    Traceback (most recent call last):
    kvattn.errors.DtypeError: q must be an array of real numbers, got dtype object
    """
    wanted = compute_dtype(dtype)
    array = _read(name, value)
    kind = array.dtype.kind
    small = array.dtype.name.startswith(_SMALL_FLOATS)
    if not small and kind not in "fiu":
        raise DtypeError(f"{name} must be an array of real numbers, got dtype {array.dtype}")
    if array.dtype.itemsize > 8:
        raise DtypeError(f"{name} must have at most 64 bits per number, got dtype {array.dtype}")
    if kind in "iu" and array.dtype.itemsize == 8 and array.size and not _exact(array):
        raise DtypeError(f"{name} must hold integers that float64 represents, at most 2**53, got dtype {array.dtype}")
    return array.astype(wanted)


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


def positions(name: str, value: Any, batch: int, length: int) -> Positions:
    """Read positions of shape ``[length]`` or ``[batch, length]`` as ``[batch, length]``.

    Raises
    ------
    PositionError
        When they are not integers.
    ShapeError
        When the shape is neither.

    Examples
    --------
    >>> positions("q_positions", [3, 4], batch=2, length=2)
    array([[3, 4],
           [3, 4]])
    """
    array = _read(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise PositionError(f"{name} must be integers, got dtype {array.dtype}")
    if array.shape not in ((length,), (batch, length)):
        raise ShapeError(f"{name} must have shape [{length}] or [{batch}, {length}], got {array.shape}")
    return np.ascontiguousarray(np.broadcast_to(array.astype(np.int64), (batch, length)))


def boolean_or_floating(name: str, value: Any, dtype: DTypeLike) -> "np.ndarray[Any, np.dtype[Any]]":
    """Read an array, leaving booleans as they are.

    >>> boolean_or_floating("mask", [True], np.float64).dtype
    dtype('bool')
    """
    array = _read(name, value)
    return array if array.dtype == np.bool_ else floating(name, array, dtype)


def _read(name: str, value: Any) -> "np.ndarray[Any, np.dtype[Any]]":
    """An array of whatever dtype, by NumPy's own means where they suffice."""
    if type(value).__module__.split(".")[0] == "torch":
        value = value.detach().cpu()
        if not str(value.dtype).startswith(("torch.float16", "torch.float32", "torch.float64")) and (
            value.is_floating_point()
        ):
            value = value.double()  # exact: NumPy has no bfloat16 or float8 to receive it in
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as problem:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        raise ShapeError(f"{name} must be an array, got {type(value).__name__}: {problem}") from None


def _exact(array: "np.ndarray[Any, np.dtype[Any]]") -> bool:
    return bool(array.max() <= 2**53 and array.min() >= -(2**53))
