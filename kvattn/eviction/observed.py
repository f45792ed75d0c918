"""Observed: which share of its attention every query gives to every key.

    p[h, i, j]  =  exp(s[h, i, j] - lse[h, i])  where the key is visible, else exactly 0

What H2O, SnapKV and TOVA score keys by.  Scores are bent and masked as in the layer; a sink takes its
share and has no column, so a row of a layer with sinks sums to less than 1.

Shapes: ``[B, Hq, T, S]`` from a `kvattn.execution.question.Question`; the sums over a group give ``[B, Hkv, ...]``.
Cached per token: nothing.  Cost: one product of queries and keys, and T·S numbers per query head, which a
fused kernel never holds; asking for the last queries only (`kvattn.execution.question.Question.part`) keeps that
small.  Deciding what to keep is not counted by `kvattn.counting`.

Exactness: tiles are those of `kvattn.core.scored`, so a row of probabilities depends on its query and its
visible keys alone, to the bit, however many queries came with it.
Source: Vaswani et al. 2017 (arXiv 1706.03762) §3.2.1.
"""

import math

import numpy as np

from kvattn.arguments import integer
from kvattn.caches.blocks import BLOCK, blocks_of
from kvattn.core.meeting import bend, seen_pairs
from kvattn.core.pipeline import Pipeline
from kvattn.core.scored import by_query, products
from kvattn.core.tiles import Tile, cut, score_rows
from kvattn.core.weights import softmax
from kvattn.errors import ShapeError
from kvattn.execution.question import Question
from kvattn.typing import Array, Place, Visible


def probabilities(question: Question) -> Array:
    """The share of each key in each query's attention.

    Parameters
    ----------
    question
        Arrays, positions and pipeline; its values are not read.

    Returns
    -------
    array
        ``[B, Hq, T, S]``, 0 where the key is hidden and in a row that sees no key.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.zeros((1, 1, 3, 1))
    >>> probabilities(Question(x, x, x, mask=Causal()))[0, 0].round(3)
    array([[1.   , 0.   , 0.   ],
           [0.5  , 0.5  , 0.   ],
           [0.333, 0.333, 0.333]])
    """
    batch, heads, length, _ = question.q.shape
    kv_heads, held = question.k.shape[1:3]
    group = heads // kv_heads
    shares = np.zeros((batch, heads, length, -(-held // BLOCK) * BLOCK), question.q.dtype)
    if not shares.size:
        return shares[..., :held]
    nothing = np.empty((kv_heads, held, 0), question.k.dtype)
    blocks = [blocks_of(k, nothing, at) for k, at in zip(question.k, question.k_positions, strict=True)]
    for tile in cut(question.q_positions, blocks, 1, group, length, question.mask):
        tokens = slice(tile.rows.start // group, tile.rows.stop // group)
        columns = [slice(block.start, block.start + BLOCK) for block, _ in tile.blocks]
        if not columns:
            continue
        with np.errstate(all="ignore"):
            scores, seen = _scores(question, tile)
            weights = np.where(seen, softmax(scores, seen).weights, 0.0)
        for n, where in enumerate(columns):
            shares[tile.batch, :, tokens, where] = weights[:, :, n * BLOCK : (n + 1) * BLOCK]
    return np.ascontiguousarray(shares[..., :held])


def _scores(question: Question, tile: Tile) -> tuple[Array, Visible]:
    """Scores and visibility ``[Hq, t, 256 · blocks]`` of one tile, and behind them those of the sinks."""
    _, heads, length, width = question.q.shape
    kv_heads = question.k.shape[1]
    group, count = heads // kv_heads, tile.rows.stop - tile.rows.start
    scale = 1.0 / math.sqrt(width) if question.scale is None else question.scale
    pipeline = Pipeline(question.mask, question.mods, scale, question.softcap, None)
    rows = score_rows(question.q[tile.batch].reshape(kv_heads, group, length, width), tile.rows)
    row = np.minimum(np.arange(tile.rows.start, tile.rows.start + rows.shape[1]), tile.rows.stop - 1)
    place = Place(
        tile.batch,
        (np.arange(kv_heads)[:, None] * group + row % group)[:, :, None],
        rows,
        question.q_positions[tile.batch][row // group][None, :, None],
        np.empty((1, 1, 0), np.int64),
    )
    found, visible = [], []
    raw = products(rows * pipeline.scale, [block for block, _ in tile.blocks], place)
    for part, (block, look) in zip(raw, tile.blocks, strict=True):
        here = place._replace(k_positions=block.positions[None, None, :], keys=block.k)
        bend(part, pipeline, here)
        keep = seen_pairs(block, pipeline.mask if look else None, here)
        found.append(by_query(part, group, count))
        visible.append(by_query(np.broadcast_to(True if keep is None else keep, part.shape), group, count))
    if question.sinks is not None:  # a column of its own, which is nobody's key
        column = np.full((heads, found[0].shape[1], BLOCK), -np.inf, rows.dtype)
        column[:, :, 0] = question.sinks[:, None]
        found.append(column)
        visible.append(~np.isneginf(column))
    return np.concatenate(found, axis=2), np.concatenate(visible, axis=2)


def group_sum(numbers: Array, kv_heads: int) -> Array:
    """Add what the query heads of each key/value head say: ``[B, Hq, ...]`` to ``[B, Hkv, ...]``.

    Raises
    ------
    ArgumentError, ShapeError
        When the query heads are no multiple of ``kv_heads``.

    Examples
    --------
    >>> group_sum(np.array([[1.0, 2.0, 4.0, 8.0]]), kv_heads=2)
    array([[ 3., 12.]])
    """
    kv_heads = integer("kv_heads", kv_heads, 1)
    if numbers.ndim < 2 or not numbers.shape[1] or numbers.shape[1] % kv_heads:
        raise ShapeError(f"numbers must have a multiple of {kv_heads} heads on axis 1, got shape {numbers.shape}")
    group = numbers.shape[1] // kv_heads
    parted = numbers.reshape(numbers.shape[0], kv_heads, group, *numbers.shape[2:])
    total = parted[:, :, 0].copy()
    for g in range(1, group):
        total += parted[:, :, g]
    return total


def group_mean(numbers: Array, kv_heads: int) -> Array:
    """`group_sum` divided by the size of the group.

    >>> group_mean(np.array([[1.0, 2.0, 4.0, 8.0]]), kv_heads=2)
    array([[1.5, 6. ]])
    """
    mean: Array = group_sum(numbers, kv_heads) / (numbers.shape[1] // kv_heads)
    return mean


def query_sum(numbers: Array) -> Array:
    """Add over queries, one after the other: ``[B, H, T, S]`` to ``[B, H, S]``.

    >>> query_sum(np.ones((1, 1, 3, 2)))
    array([[[3., 3.]]])
    """
    total = np.zeros((*numbers.shape[:2], numbers.shape[3]), numbers.dtype)
    for t in range(numbers.shape[2]):
        total += numbers[:, :, t]
    return total
