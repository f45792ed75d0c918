"""Reindexed: kept keys are numbered 0, 1, 2, … again, and turned to where they then stand.

    k'_n  =  R(n - position_n) k_n        for the n-th kept key of a head

Cached keys are turned already, so they are moved by the difference; that equals turning the key as it
was projected to its new place.  Queries behind n kept keys then stand at n, n + 1, … .

Shapes: ``keys [B, Hkv, S, D]`` and ``keep [B, Hkv, S]``, as many in each head, to ``[B, Hkv, n, D]``.
Cached per token: a key, moved.  Cost: that of one rotation, whenever something was evicted.
Exactness: equal to keys turned there at first within the roundings of one more rotation (bound).
Source: Xiao et al. 2023 (arXiv 2309.17453) §3.2 for positions inside the cache; turning cached keys is that of
Finch and of transformers' removed SinkCache, as read in kvpress.

Where libraries differ: kvpress does this in KeyRerotationPress, with angles in float32.
A rotation whose frequencies change with length (dynamic NTK, LongRoPE) cannot be moved so.
"""

import numpy as np

from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.eviction.selection import kept_slots
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions, Visible


def reindex(keys: Array, keep: Visible, rotation: Rotary, positions: Positions | None = None) -> Array:
    """Kept keys at positions ``0 .. n-1``.

    Parameters
    ----------
    keys
        ``[B, Hkv, S, D]``, turned to their positions.
    keep
        ``[B, Hkv, S]``, as many in every head.
    rotation
        What turned them.
    positions
        ``[S]`` or ``[B, S]`` where they stand; ``0 .. S-1`` unless given.

    Returns
    -------
    array
        ``[B, Hkv, n, D]``.

    Raises
    ------
    ShapeError
        When shapes do not fit, or heads keep different numbers.

    Examples
    --------
    >>> rotary, at = Rotary.of(2), np.arange(4)
    >>> keys = rotary.rotate(np.ones((1, 1, 4, 2)), at)
    >>> moved = reindex(keys, np.array([[[True, False, False, True]]]), rotary)
    >>> bool(np.allclose(moved, keys[:, :, :2], rtol=0, atol=1e-15))
    True
    """
    bound = sizes(("keys", keys, "B Hkv S D"), ("keep", keep, "B Hkv S"))
    given = np.arange(bound["S"]) if positions is None else positions
    at = read_positions("positions", given, bound["B"], bound["S"])
    slots = kept_slots(keep)
    held = np.take_along_axis(keys, slots[..., None], axis=2)
    stands = np.take_along_axis(np.broadcast_to(at[:, None], keep.shape), slots, axis=2)
    return rotation.shift(held, np.arange(slots.shape[2]) - stands)
