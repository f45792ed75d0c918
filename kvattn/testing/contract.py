"""`kvattn.attend` in the form that a check expects: the plain contract of `kvattn.testing.targets`, said in masks.

A second way to read the contract, and something that passes: ``kvattn check kvattn.testing.contract:attend``.
"""

from functools import reduce
from typing import Any

import numpy as np

from kvattn.masks import Causal, Explicit, Window, both
from kvattn.one_liners import attend as kvattn_attend
from kvattn.typing import Array, Attended, Mask, Visible


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    bias: Array | None = None,
    mask: Visible | None = None,
) -> Attended:
    """Attend, with the queries standing at the last T of S positions.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    causal, window, scale, softcap, sinks, bias, mask
        As in `kvattn.testing.targets`.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``, in float64 or, for float32 queries, in float32.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 2, 2))
    >>> attend(q, k, np.eye(2)[None, None], causal=True).out[0, 0]
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    batch, heads, queries, _ = np.shape(q)
    keys = np.shape(k)[2]
    # counted from T on, so that no position is negative where there are more queries than keys
    asked, held = np.broadcast_to(keys + np.arange(queries), (batch, queries)), queries + np.arange(keys)
    parts: list[Mask] = []
    if causal:
        parts.append(Causal())
    if window is not None:
        parts.append(Window(window))
    if mask is not None:
        seen = np.broadcast_to(mask, (batch, heads, queries, keys))
        parts.append(Explicit(seen, asked, held))
    more: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": sinks, "bias": bias}
    wide = np.float32 if np.asarray(q).dtype == np.float32 else np.float64
    return kvattn_attend(
        q,
        k,
        v,
        mask=reduce(both, parts) if parts else None,
        q_positions=asked,
        k_positions=held,
        dtype=wide,
        **more,
    )
