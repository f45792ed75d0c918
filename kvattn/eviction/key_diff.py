"""KeyDiff: keys that point elsewhere than most stay.

    anchor  =  mean_j( k_j / |k_j| ),     score(j)  =  -cos(k_j, anchor)

Shapes: ``keys [B, Hkv, S, D]`` to scores ``[B, Hkv, S]``.  Needs: keys alone, as cached.
Cached per token: nothing of its own.  Cost: about 7·D per key.
Source: KeyDiff (arXiv 2504.15364), as read in kvpress.

Where libraries differ: the paper decides block by block while a prompt comes in, so that the anchor is
the mean of what is left; kvpress does so in its BlockPress, and its KeyDiffPress decides once.  A key
of norm 0 has cosine 0 here; torch divides by ``max(norm, eps)``, which is the same unless a norm is tiny.
"""

import numpy as np

from kvattn.axes import sizes
from kvattn.typing import Array


def key_difference(keys: Array) -> Array:
    """Minus the cosine between each key and the mean direction of its head.

    Parameters
    ----------
    keys
        ``[B, Hkv, S, D]``.

    Returns
    -------
    array
        ``[B, Hkv, S]``, from -1 to 1.

    Raises
    ------
    ShapeError
        When keys have another rank.

    Examples
    --------
    >>> key_difference(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])[None, None]).round(3)
    array([[[-0.894, -0.894, -0.447]]])
    """
    sizes(("keys", keys, "B Hkv S D"))
    directions = _directions(np.ascontiguousarray(keys))
    anchor = directions.sum(axis=2, keepdims=True)  # the mean points the same way
    return np.asarray(-(directions * _directions(anchor)).sum(axis=3))


def _directions(rows: Array) -> Array:
    norms = np.sqrt((rows * rows).sum(axis=-1, keepdims=True))
    return np.asarray(rows / np.where(norms == 0, 1.0, norms))
