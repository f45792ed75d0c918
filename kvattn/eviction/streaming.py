"""StreamingLLM: the first n keys and the most recent ones.

    score(j)  =  +inf for j < n,  else j

With `kvattn.eviction.top` and a budget of n + W that keeps the sinks and the last W keys.

Shapes: ``[B, Hkv, S]``, the same in every head.  Needs: nothing but the length.
Cached per token: a key and a value, for n + W tokens.  Cost: none.
Source: Xiao et al. 2023 (arXiv 2309.17453) §3.2.

Where libraries differ: the paper numbers positions inside the cache, kvpress keeps them unless its
KeyRerotationPress is wrapped around; `kvattn.variants.sparse.sinks` is a layer with either, and
`kvattn.caches.sink_window` its storage, which can be rolled back by a stated number of tokens.
"""

import numpy as np

from kvattn.arguments import integer
from kvattn.eviction.selection import protect
from kvattn.typing import Array


def recency(length: int, *, sinks: int, batch: int = 1, kv_heads: int = 1) -> Array:
    """Later keys are worth more, the first ones everything.

    Parameters
    ----------
    length
        S.
    sinks
        n >= 0: first keys that are always kept.
    batch, kv_heads
        B and Hkv.

    Returns
    -------
    array
        ``[B, Hkv, S]``.

    Raises
    ------
    ArgumentError
        When a number is no integer or too small.

    Examples
    --------
    >>> from kvattn.eviction.selection import kept_slots, top
    >>> kept_slots(top(recency(9, sinks=2), 5))
    array([[[0, 1, 6, 7, 8]]])
    """
    shape = integer("batch", batch, 1), integer("kv_heads", kv_heads, 1), integer("length", length, 0)
    scores = np.broadcast_to(np.arange(float(shape[2])), shape)
    return protect(scores, first=integer("sinks", sinks, 0))
