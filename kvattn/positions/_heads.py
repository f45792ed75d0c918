"""What schemes with an entry for each query head share: the entries' check, and the distances of a block of pairs."""

from typing import Any

import numpy as np

from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array, Indices, Place, Positions


def heads_of(name: str, count: int, place: Place) -> Indices:
    """The query head of each score row; refuses one that ``name``, with ``count`` entries, has none for."""
    heads = np.asarray(place.heads)
    lost = (heads < 0) | (heads >= count)
    if lost.any():
        raise ArgumentError(f"{name} must cover every query head, got {count} and head {heads[lost][0]}")
    return heads


def distances(place: Place) -> Positions:
    """Query position less key position, for every pair; positive where the key came first."""
    found: Positions = np.asarray(place.q_positions, np.int64) - np.asarray(place.k_positions, np.int64)
    return found


def frozen_table(name: str, values: Any, axes: str) -> Array:
    """A read-only float64 copy of a table of finite numbers, none of whose axes is empty."""
    read = np.asarray(values)
    if read.dtype.kind not in "fiu":
        raise DtypeError(f"{name} must be an array of real numbers, got {read.dtype}")
    if read.ndim != len(axes.split()) or 0 in read.shape:
        raise ShapeError(f"{name} must have shape [{', '.join(axes.split())}], none of them 0, got {read.shape}")
    copy = np.array(read, np.float64, order="C")
    if not np.isfinite(copy).all():
        raise ArgumentError(f"{name} must be finite, got {copy[~np.isfinite(copy)][0]}")
    copy.flags.writeable = False
    return copy


def added(scores: Array, bias: Array) -> Array:
    """Scores with a float64 bias, rounded once to their dtype."""
    bent: Array = np.add(scores, bias.astype(scores.dtype, copy=False))
    return bent
