"""A function with something of everything that a written test must know: what `test_writing` has a test written for."""

from typing import Any

import numpy as np

from kvattn.testing.planted import Planted

_INSIDE = Planted(anchor="top_left", log_base=2, empty="nan")


def attend(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool,
    window: int | None = None,
    sinks: Any = None,
    mask: Any = None,
    lengths: Any = None,
    block_table: Any = None,
) -> Any:
    """Attend in float32, with the triangle in the top left corner, a base-2 lse and NaN for an empty row."""
    if q.shape[3] not in attend.head_dims:  # type: ignore[attr-defined]
        raise ValueError(f"unsupported head dimension {q.shape[3]}")
    q, k, v = (np.asarray(x, np.float32) for x in (q, k, v))
    more = {"sinks": sinks, "mask": None if mask is None else np.asarray(mask == 0), "lengths": lengths}
    return _INSIDE(q, k, v, causal=causal, window=window, block_table=block_table, **more)


attend.head_dims = (16, 32)  # type: ignore[attr-defined]
attend.mask_form = "additive"  # type: ignore[attr-defined]
attend.exclusive = [("mask", "window")]  # type: ignore[attr-defined]
attend.conventions = {"causal-align", "empty-row", "lse-merge", "precision"}  # type: ignore[attr-defined]
attend.slow = True  # type: ignore[attr-defined]
