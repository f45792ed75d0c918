"""Key norm: keys of small norm stay.

    score(j)  =  -|k_j|

A key of small norm tends to be looked at by many queries.  Rotation keeps norms, so it does not matter
whether keys are cached turned.

Shapes: ``keys [B, Hkv, S, D]`` to scores ``[B, Hkv, S]``.  Needs: keys alone.
Cached per token: nothing of its own.  Cost: 2·D + 1 per key.
Source: Devoto et al. 2024 (arXiv 2406.11430).

Where libraries differ: kvpress takes the norm in at least float32, since in bfloat16 most of a head's norms are equal.
"""

import numpy as np

from kvattn.axes import sizes
from kvattn.typing import Array


def negative_norms(keys: Array) -> Array:
    """Minus the Euclidean norm of each key.

    Parameters
    ----------
    keys
        ``[B, Hkv, S, D]``.

    Returns
    -------
    array
        ``[B, Hkv, S]``.

    Raises
    ------
    ShapeError
        When keys have another rank.

    Examples
    --------
    >>> negative_norms(np.array([[3.0, 4.0], [0.0, 1.0]])[None, None])
    array([[[-5., -1.]]])
    """
    sizes(("keys", keys, "B Hkv S D"))
    held = np.ascontiguousarray(keys)
    return np.asarray(-np.sqrt((held * held).sum(axis=3)))
