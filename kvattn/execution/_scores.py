"""Scores of some queries and keys, and their mix: for forms that run a softmax of their own."""

import math

import numpy as np

from kvattn import ops
from kvattn.counting import Tally, charge
from kvattn.execution.question import Question
from kvattn.mods.softcap import softcap
from kvattn.typing import Array, Place, Visible


def scores(part: Question, b: int, look: bool = True) -> tuple[Array, Visible]:
    """Bent and masked scores ``[Hq, T, S]`` of sequence ``b``, -inf where not seen, and who sees whom."""
    heads, length, width = part.q.shape[1:]
    kv_heads, count = part.k.shape[1:3]
    scale = 1.0 / math.sqrt(width) if part.scale is None else part.scale
    rows = (part.q[b] * scale).reshape(kv_heads, -1, width)
    with np.errstate(invalid="ignore", over="ignore"):
        found: Array = ops.contract(rows, part.k[b].swapaxes(1, 2)).reshape(heads, length, count)
        if part.softcap is not None:
            found = softcap(found, part.softcap)
        every = np.arange(heads)[:, None, None]
        place = Place(b, every, part.q[b], part.q_positions[b][None, :, None], part.k_positions[b][None, None, :])
        for mod in part.mods:
            found = mod(found, place)
    keep = np.ones(found.shape, np.bool_)
    if look and part.mask is not None:
        keep &= part.mask(b, every, place.q_positions, place.k_positions)
    charge(Tally(pairs_computed=keep.size, pairs_visible=int(keep.sum())))
    return np.where(keep, found, -np.inf).astype(found.dtype, copy=False), keep


def mix(weights: Array, part: Question, b: int, keep: Visible) -> Array:
    """Weights ``[Hq, T, S]`` times the values; what a query does not see is not added, not even as 0 · NaN."""
    heads, length, count = weights.shape
    values = part.v[b]
    with np.errstate(invalid="ignore", over="ignore"):
        kv_heads, width = values.shape[0], values.shape[2]
        found = ops.contract(weights.reshape(kv_heads, -1, count), values).reshape(heads, length, width)
        if np.isfinite(found).all():
            return found
        each = np.repeat(values, heads // kv_heads, axis=0)[:, None]  # [Hq, 1, S, Dv]
        terms = np.where(keep[..., None], weights[..., None] * each, 0.0)
        mixed: Array = terms.sum(axis=2)
        return mixed
