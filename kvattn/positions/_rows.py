"""What every scheme on rows asks of its arguments: rows that are floating, positions that fit them."""

from typing import Any

import numpy as np

from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.typing import Array


def rows_of(name: str, value: Any, width: str = "D") -> Array:
    """``value`` as an array ``[..., T, width]`` of floating numbers, not copied."""
    rows = np.asarray(value)
    if not np.issubdtype(rows.dtype, np.floating):
        raise DtypeError(f"{name} must be floating-point, got {rows.dtype}")
    if not rows.ndim:
        raise ShapeError(f"{name} must have shape [..., T, {width}], got ()")
    return rows


def places_of(name: str, value: Any, rows: Array, kinds: str = "iu") -> "np.ndarray[Any, np.dtype[Any]]":
    """Positions that broadcast to all axes of ``rows`` but the last: integers, or with ``kinds`` "iuf" any numbers."""
    places = np.asarray(value)
    if places.dtype.kind not in kinds and (places.size or places.dtype.kind == "b"):
        wanted = "numbers" if "f" in kinds else "integers"
        raise PositionError(f"positions must be {wanted}, got dtype {places.dtype}")
    try:
        fits = np.broadcast_shapes(places.shape, rows.shape[:-1]) == rows.shape[:-1]
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"positions must broadcast to {name}.shape[:-1], which is {rows.shape[:-1]}, got {places.shape}"
        )
    return places
