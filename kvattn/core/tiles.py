"""How a call's work is cut into tiles; nothing of it shows in the result.

A tile is some key/value heads of one sequence and up to 256 of their score rows, where score row
``t·G + g`` is query head ``g`` of the group at token ``t``: the rows that read one key/value head
meet its keys in one product.  A tile lists the blocks of keys that any of its rows may see.
"""

from collections.abc import Sequence
import os
from typing import NamedTuple

import numpy as np

from kvattn.blas import ROWS
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.typing import Answer, Array, Mask, Positions, Span

ROW_LIMIT = 256
"""Score rows that are worked on together."""

SPAN = 4 * BLOCK
"""Slots whose scores share one step of the running softmax; spans are aligned to slot 0, as blocks are."""


class Tile(NamedTuple):
    """One worker's share.

    Attributes
    ----------
    batch
        Number of the sequence.
    heads
        Its key/value heads.
    rows
        Their score rows, of G·T: the whole groups of some tokens.
    blocks
        The blocks that some row may see, each with whether the mask must be looked at.
    """

    batch: int
    heads: slice
    rows: slice
    blocks: tuple[tuple[KeyBlock, bool], ...]


def cut(
    q_positions: Positions,
    blocks: Sequence[Sequence[KeyBlock]],
    kv_heads: int,
    group: int,
    length: int,
    mask: Mask | None,
) -> list[Tile]:
    """Cut the work: row tiles of about `ROW_LIMIT` rows, and heads together where rows are few.

    Parameters
    ----------
    q_positions
        ``[B, T]``.
    blocks
        For each sequence its blocks of keys.
    kv_heads, group, length
        Hkv, G, T.
    mask
        Decides which blocks a tile sees at all.

    Examples
    --------
    >>> from kvattn.caches.blocks import blocks_of
    >>> from kvattn.masks import Causal
    >>> at = np.arange(600)
    >>> held = blocks_of(np.zeros((1, 600, 2)), np.zeros((1, 600, 2)), at)
    >>> [(tile.rows.stop, len(tile.blocks)) for tile in cut(at[None], [held], 1, 1, 600, Causal())]
    [(256, 1), (512, 2), (600, 3)]
    """
    rows, step = group * length, row_step(group)
    together = max(1, min(-(-kv_heads // 2), ROW_LIMIT // (-(-rows // ROWS) * ROWS)))
    tiles = []
    for b, held in enumerate(blocks):
        spans = (
            [Span(int(block.positions.min()), int(block.positions.max())) for block in held] if mask is not None else []
        )
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            at = q_positions[b, part.start // group : part.stop // group]
            span = Span(int(at.min()), int(at.max()))
            seen = []
            for number, block in enumerate(held):
                answer = Answer.ALL if mask is None else mask.block(b, span, spans[number])
                if answer is not Answer.NONE:
                    seen.append((block, answer is Answer.LOOK))
            tiles += [
                Tile(b, slice(head, min(head + together, kv_heads)), part, tuple(seen))
                for head in range(0, kv_heads, together)
            ]
    return tiles


def row_step(group: int) -> int:
    """Rows of a tile: about `ROW_LIMIT`, and the whole groups of some tokens.

    >>> row_step(1), row_step(5), row_step(1000)
    (256, 255, 1000)
    """
    return max(1, ROW_LIMIT // group) * group


def score_rows(some: Array, part: slice) -> Array:
    """Rows ``t·G + g`` of ``[h, G, T, D]``, padded with zero rows to a multiple of 8: ``[h, R, D]``.

    >>> score_rows(np.arange(4.0).reshape(1, 2, 2, 1), slice(0, 4))[0, :, 0]
    array([0., 2., 1., 3., 0., 0., 0., 0.])
    """
    heads, group, _, width = some.shape
    count = part.stop - part.start
    rows = np.zeros((heads, -(-count // ROWS) * ROWS, width), some.dtype)
    rows[:, :count].reshape(heads, -1, group, width)[...] = some[
        :, :, part.start // group : part.stop // group
    ].swapaxes(1, 2)
    return rows


def workers(tiles: Sequence[Tile], width: int) -> int:
    """How many threads are worth their start: one below a few million multiply-adds.

    At most the cores that this process may use, and what ``OMP_NUM_THREADS`` or
    ``OPENBLAS_NUM_THREADS`` allow.

    >>> workers([], width=64)
    1
    """
    work = sum((t.rows.stop - t.rows.start) * (t.heads.stop - t.heads.start) * len(t.blocks) for t in tiles)
    if len(tiles) < 2 or work * BLOCK * width < 4_000_000:
        return 1
    limits = (os.environ.get("OMP_NUM_THREADS", ""), os.environ.get("OPENBLAS_NUM_THREADS", ""))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(len(tiles), cores, *(max(1, int(limit)) for limit in limits if limit.isdigit()))
