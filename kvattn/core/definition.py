"""Attention as the papers write it: whole matrices, no blocks, no cache.

``out = softmax(mask(bend(cap(scale · q kᵀ)))) v`` in the order
scale → softcap → mods → mask → sinks → softmax → mix.

Shapes: ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``; query head ``h`` reads
key/value head ``h // G``.  Nothing is cached and every score is held at once, O(T·S) memory: this
is the witness that `kvattn.core.streaming` is tested against, and shares no arithmetic with it.

Source: Vaswani et al. 2017 (arXiv 1706.03762) §3.2.1; grouped heads: Ainslie et al. 2023
(2305.13245) §2; softcap: Gemma 2 (2408.00118) §2; sinks: gpt-oss model card (2508.10925) §2.

Where libraries differ: ONNX before 1.22 capped after the mask, which leaks weight to masked keys;
a row that sees no key is 0 here, in torch ≥ 2.5 and in ONNX 1.23, NaN in
``torch.nn.MultiheadAttention``, and the mean of v wherever the mask is a large negative number.
"""

from collections.abc import Sequence
import math
from typing import Any, TypeAlias

import numpy as np

from kvattn.typing import Array, Attended, Mask, Mod, Place, Positions, Visible

Scalar: TypeAlias = np.floating[Any]


def definition(
    q: Array,
    k: Array,
    v: Array,
    *,
    q_positions: Positions,
    k_positions: Positions,
    mask: Mask | None = None,
    mods: Sequence[Mod] = (),
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    query_notes: Array | None = None,
    key_notes: Array | None = None,
) -> Attended:
    """Attention in one piece.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``, one floating dtype, already validated.
    q_positions, k_positions
        ``[B, T]`` and ``[B, S]``.
    mask, mods, scale, softcap
        As in `kvattn.attend`.
    sinks
        ``[Hq]``, one logit in each row's denominator.
    query_notes, key_notes
        ``[B, Hq, T, E]`` and ``[B, F, S]``, further numbers of queries and keys that mods read.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Examples
    --------
    >>> import numpy as np
    >>> q = k = v = np.eye(2)[None, None]
    >>> at = np.arange(2)[None]
    >>> definition(q, k, v, q_positions=at, k_positions=at, scale=math.log(3)).out[0, 0]
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """
    batch, heads, length, width = q.shape
    group = heads // k.shape[1]
    scale = 1.0 / math.sqrt(width) if scale is None else scale
    out = np.zeros((batch, heads, length, v.shape[3]), q.dtype)
    lse = np.full((batch, heads, length), -np.inf, q.dtype)
    every = np.arange(heads)[:, None, None]
    with np.errstate(invalid="ignore"):
        for b in range(batch):
            keys = np.repeat(k[b], group, axis=0)  # [Hq, S, D]
            values = np.repeat(v[b], group, axis=0)  # [Hq, S, Dv]
            i, j = q_positions[b][None, :, None], k_positions[b][None, None, :]
            scores = np.einsum("htd,hsd->hts", q[b], keys) * scale
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            beside = query_notes[b] if query_notes is not None else None
            notes = key_notes[b] if key_notes is not None else None
            place = Place(b, every, q[b], i, j, keys.swapaxes(1, 2), beside, notes)
            for mod in mods:
                scores = mod(scores, place)
            keep = np.ones(scores.shape, np.bool_)
            if mask is not None:
                keep &= mask(b, every, i, j)
            for h in range(heads):
                sink = None if sinks is None else sinks[h]
                for t in range(length):
                    out[b, h, t], lse[b, h, t] = _row(scores[h, t], keep[h, t], values[h], sink)
    return Attended(out, lse)


def _row(scores: Array, keep: Visible, values: Array, sink: Scalar | None) -> tuple[Array, Scalar]:
    """Softmax and mix over the keys that one query sees, and no others."""
    seen = scores[keep] if sink is None else np.append(scores[keep], sink)
    if not seen.size:
        return np.zeros(values.shape[1], values.dtype), scores.dtype.type(-np.inf)
    top = seen.max()
    if top == -np.inf:
        return np.zeros(values.shape[1], values.dtype), top
    weights = np.exp(seen - top)
    total = weights.sum()
    mixed = weights[: keep.sum()] @ values[keep] / total
    return mixed, top + np.log(total)
