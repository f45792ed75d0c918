"""A tile of query rows meets one block of keys: raw products are bent and hidden, weights are mixed.

    s  =  mods(softcap(scale · q kᵀ)),      o  =  w v

Shapes: score rows ``[h, R, 256]`` over the block's columns, values ``[h, 256, Dv]``; ``R`` is a multiple of
8.  `kvattn.core.streaming` and `kvattn.core.scored` are made of these pieces: the first takes a softmax
on the way, the second holds the scores of all blocks at once.
"""

import numpy as np

from kvattn.blas import ROWS, tile_product
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.core.pipeline import Pipeline
from kvattn.mods.softcap import softcap as softcap_scores
from kvattn.typing import Array, Mask, Place, Visible


def bend(scores: Array, pipeline: Pipeline, place: Place) -> None:
    """Softcap and mods on one block's scores ``[h, R, 256]``, in place.

    >>> scores = np.full((1, 8, 256), 100.0)
    >>> at = np.zeros((1, 1, 1), np.int64)
    >>> bend(scores, Pipeline(None, (), 1.0, 2.0, None), Place(0, at, None, at, at))
    >>> float(scores.max())
    2.0
    """
    if pipeline.softcap is not None:
        scores[...] = softcap_scores(scores, pipeline.softcap)
    for mod in pipeline.mods:
        scores[...] = mod(scores, place)


def seen_pairs(block: KeyBlock, mask: Mask | None, place: Place) -> Visible | None:
    """Which pairs are visible, broadcasting against the scores; None when all are.

    Parameters
    ----------
    block
        Says which columns hold a key.
    mask
        None where it need not be looked at.
    place
        Where the scores stand, with the block's positions.

    Examples
    --------
    >>> from kvattn.caches.blocks import blocks_of
    >>> (block,) = blocks_of(np.ones((1, 3, 2)), np.ones((1, 3, 2)), np.arange(3))
    >>> at = np.zeros((1, 1, 1), np.int64)
    >>> seen_pairs(block, None, Place(0, at, None, at, block.positions[None, None])).sum()
    np.int64(3)
    """
    keep = None if block.held is None else block.held[None, None, :]
    if mask is None:
        return keep
    seen = mask(place.batch, place.heads, place.q_positions, place.k_positions)
    return seen if keep is None else seen & keep


def bytes_of(block: KeyBlock) -> int:
    """Bytes of the keys, values and notes that a block holds, or of the form in which they are stored.

    Values that lie inside the keys are read with them.

    >>> from kvattn.caches.blocks import blocks_of
    >>> bytes_of(blocks_of(np.ones((1, 3, 2)), np.ones((1, 3, 4)), np.arange(3))[0]) == 3 * (2 + 4) * 8
    True
    """
    if block.stored is not None:
        return block.stored
    heads, width, _ = block.k.shape
    numbers = heads * (width + (0 if block.inside else block.v.shape[2])) * block.k.dtype.itemsize
    notes = 0 if block.notes is None else block.notes.shape[0] * block.notes.dtype.itemsize
    return int(block.key_count * (numbers + notes))


def widened(values: Array) -> Array:
    """Values with zero columns up to a multiple of 8, which the product's shape needs.

    >>> widened(np.ones((1, 1, 3)))
    array([[[1., 1., 1., 0., 0., 0., 0., 0.]]])
    """
    wide = -(-values.shape[2] // ROWS) * ROWS
    if values.shape[2] == wide:
        return values
    whole = np.zeros((*values.shape[:2], wide), values.dtype)
    whole[:, :, : values.shape[2]] = values
    return whole


def mix(weights: Array, values: Array, keep: Visible | None, careful: bool, out: Array) -> None:
    """Weights ``[h, R, 256]`` times padded values ``[h, 256, Dv]``, to ``out [h, R, Dv]``.

    A hidden weight is exactly 0, and 0 times NaN is NaN: the careful way multiplies with non-finite
    values taken out, then adds them back to the rows that see them.

    >>> values = np.zeros((1, 256, 8))
    >>> values[0, :2] = [[3.0], [np.nan]]
    >>> out = np.empty((1, 8, 8))
    >>> mix(np.broadcast_to(np.arange(256) < 1, (1, 8, 256)) * 0.5, values, np.arange(256) < 1, True, out)
    >>> out[0, 0, :2]
    array([1.5, 1.5])
    """
    heads = weights.shape[0]
    bad = ~np.isfinite(values) if careful else None
    clean = values if bad is None else np.where(bad, 0.0, values).astype(values.dtype, copy=False)
    stacked = weights.reshape(heads, -1, ROWS, BLOCK)
    tile_product(stacked, clean[:, None], out=out.reshape(heads, -1, ROWS, out.shape[2]))
    if bad is None:
        return
    for head, column in np.argwhere(bad.any(axis=2)):
        term = weights[head, :, column, None] * np.where(bad[head, column], values[head, column], 0.0)
        if keep is not None:
            sees = np.broadcast_to(keep, weights.shape)[head, :, column, None]
            term = np.where(sees, term, 0.0)
        out[head] += term.astype(out.dtype, copy=False)
