"""Attention over blocks of keys with a running softmax: what every cached step is made of.

For each query row, over spans of four blocks of its keys in slot order, with running maximum *m*,
sum *l* and mix *o*::

    m' = max(m, max_j s_j)
    l' = l · exp(m - m') + Σ_blocks Σ_j exp(s_j - m')
    o' = o · exp(m - m') + Σ_blocks Σ_j exp(s_j - m') v_j

The sums over blocks go one block after the other.  In the end ``out = o / l``, ``lse = m + log l``; a
sink enters once, after the last block.

Shapes: ``q [B, Hq, T, D]``; keys and values as `kvattn.caches.blocks.KeyBlock`.  Memory O(T·D):
scores exist for one tile of about 256 rows and one span of 1,024 keys at a time.  A span of one block would
do; four make fewer and larger steps, which is what decoding time goes into.

**Bits do not depend on the cut.**  Blocks and spans are aligned to slot 0; a masked or missing key adds
exactly 0; a block that a tile does not see is skipped, which changes nothing since it would have
multiplied by 1 and added 0; products have 8 rows (`kvattn.blas`); everything else is elementwise
or along a row of 256.  So a row's result depends on its query and its visible keys alone.
Values behind a mask cannot matter either: should a mix come out non-finite, it is computed once
more with non-finite values taken out and added back only where they are seen.

Source: Milakov & Gimelshein 2018 (1805.02867) alg. 3; Dao et al. 2022 (2205.14135) alg. 1.
Where libraries differ: most kernels choose tiles by sequence length, so their last bits move.
"""

from collections.abc import Sequence
from itertools import groupby
import math

import numpy as np

from kvattn.blas import ROWS, tile_product
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.core.meeting import bend, bytes_of, mix, seen_pairs, widened
from kvattn.core.pipeline import Pipeline, mods_cost
from kvattn.core.tiles import SPAN, Tile, cut, score_rows, workers
from kvattn.counting import Tally, charge, is_counting
from kvattn.typing import Array, Attended, Mask, Mod, Place, Positions, Visible


def attend(
    q: Array,
    q_positions: Positions,
    blocks: Sequence[Sequence[KeyBlock]],
    *,
    value_width: int,
    mask: Mask | None = None,
    mods: Sequence[Mod] = (),
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    query_notes: Array | None = None,
) -> Attended:
    """Attend to blocks of keys.

    Parameters
    ----------
    q
        ``[B, Hq, T, D]``, already validated.
    q_positions
        ``[B, T]``.
    blocks
        For each sequence its blocks in slot order, of ``q``'s dtype.
    value_width
        Dv, which no block tells when there is none.
    mask, mods, scale, softcap, sinks
        As in `kvattn.attend`.
    query_notes
        ``[B, Hq, T, E]``, further numbers of each query, which mods read as ``place.query_notes``.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Examples
    --------
    >>> from kvattn.caches.blocks import blocks_of
    >>> x = np.eye(2)[None]
    >>> held = blocks_of(x, x, np.arange(2))
    >>> attend(x[None], np.arange(2)[None], [held], value_width=2, scale=math.log(3)).out[0, 0]
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """
    batch, q_heads, length, width = q.shape
    scale = 1.0 / math.sqrt(width) if scale is None else scale
    pipeline = Pipeline(mask, tuple(mods), scale, softcap, sinks)
    out = np.zeros((batch, q_heads, length, value_width), q.dtype)
    lse = np.full((batch, q_heads, length), -np.inf, q.dtype)
    if out.size == 0 and lse.size == 0:
        return Attended(out, lse)
    kv_heads = next((held[0].k.shape[0] for held in blocks if len(held)), 1)
    group = q_heads // kv_heads
    tiles = cut(q_positions, blocks, kv_heads, group, length, mask)

    counted = is_counting()

    def work(tile: Tile) -> Tally:
        kv = range(kv_heads)[tile.heads]
        count = tile.rows.stop - tile.rows.start
        mine = tile.batch, slice(kv.start * group, kv.stop * group)
        rows = score_rows(q[mine].reshape(len(kv), group, length, width), tile.rows)  # [h, R, D]
        row = np.minimum(np.arange(tile.rows.start, tile.rows.start + rows.shape[1]), tile.rows.stop - 1)
        notes = None
        if query_notes is not None:
            notes = score_rows(query_notes[mine].reshape(len(kv), group, length, -1), tile.rows)  # [h, R, E]
        place = Place(
            tile.batch,
            (np.arange(kv.start, kv.stop)[:, None] * group + row % group)[:, :, None],
            rows,
            q_positions[tile.batch][row // group][None, :, None],
            np.empty((1, 1, 0), np.int64),
            query_notes=notes,
        )
        mixed, total, done = _mix(rows, place, tile, pipeline, value_width, counted)
        if not np.isfinite(mixed[:, :count]).all():
            mixed, total, done = _mix(rows, place, tile, pipeline, value_width, counted, careful=True)
        tokens = slice(tile.rows.start // group, tile.rows.stop // group)
        by_token = mixed[:, :count].reshape(len(kv), -1, group, value_width)
        out[mine].reshape(len(kv), group, length, value_width)[:, :, tokens] = by_token.swapaxes(1, 2)
        lse[mine].reshape(len(kv), group, length)[:, :, tokens] = (
            total[:, :count].reshape(len(kv), -1, group).swapaxes(1, 2)
        )
        return done

    threads = workers(tiles, width)
    if threads > 1:
        from concurrent.futures import ThreadPoolExecutor  # costs an import that small calls can spare

        with ThreadPoolExecutor(threads) as pool:
            done = list(pool.map(work, tiles))
    else:
        done = [work(tile) for tile in tiles]
    if counted:
        read = {(t.batch, block.start): block for t in tiles for block, _ in t.blocks}
        whole = sum(done, Tally(kv_read=sum(bytes_of(block) for block in read.values())))
        charge(whole + mods_cost(mods, pairs=whole.pairs_computed, width=width))
    return Attended(out, lse)


def _mix(
    rows: Array,
    place: Place,
    tile: Tile,
    pipeline: Pipeline,
    value_width: int,
    counted: bool = False,
    careful: bool = False,
) -> tuple[Array, Array, Tally]:
    """Run the softmax over the tile's blocks: ``(out [h, R, Dv], lse [h, R], what was done)``."""
    heads, padded, _ = rows.shape
    scaled = (rows * pipeline.scale).reshape(heads, -1, ROWS, rows.shape[2])
    wide = -(-value_width // ROWS) * ROWS
    spans = [list(span) for _, span in groupby(tile.blocks, key=lambda seen: seen[0].start // SPAN)]
    room = np.empty((max(map(len, spans), default=0), heads, padded, BLOCK), rows.dtype)
    part = np.empty((heads, padded, wide), rows.dtype)
    mixed = np.zeros((heads, padded, wide), rows.dtype)
    top = np.full((heads, padded, 1), -np.inf, rows.dtype)
    total = np.zeros((heads, padded, 1), rows.dtype)
    lowest = float(np.finfo(rows.dtype).min)
    real = heads * (tile.rows.stop - tile.rows.start)
    pairs = visible = 0
    with np.errstate(invalid="ignore", over="ignore", divide="ignore", under="ignore"):
        for span in spans:
            weights = room[: len(span)]  # [n, h, R, 256]
            keeps = []
            for scores, (block, look) in zip(weights, span, strict=True):
                tile_product(scaled, block.k[tile.heads, None], out=scores.reshape(heads, -1, ROWS, BLOCK))
                keep = _bend(scores, block, look, pipeline, place, tile.heads)
                keeps.append(keep)
                pairs += real * block.key_count
                visible += _visible(keep, heads, tile) if counted else 0
            peak = np.maximum(top, weights.max(axis=-1, keepdims=True).max(axis=0))
            shift = np.maximum(peak, lowest)
            np.exp(np.subtract(weights, shift, out=weights), out=weights)
            fade = np.exp(top - shift)
            # one after the other: a sum over the span in one go could pair its terms
            sums = np.concatenate([(total * fade)[None], weights.sum(axis=-1, keepdims=True)])
            total = np.add.accumulate(sums, axis=0)[-1]
            mixed *= fade
            for scores, keep, (block, _) in zip(weights, keeps, span, strict=True):
                mix(scores, widened(block.v[tile.heads]), keep, careful, part)
                mixed += part
            top = peak
        if pipeline.sinks is not None:
            sink = pipeline.sinks[place.heads].astype(rows.dtype, copy=False)
            peak = np.maximum(top, sink)
            shift = np.maximum(peak, lowest)
            fade = np.exp(top - shift)
            total = total * fade + np.exp(sink - shift)
            mixed *= fade
            top = peak
        empty = total == 0.0
        divisor = np.where(empty, 1.0, total).astype(rows.dtype, copy=False)
        out = mixed / divisor + 0.0  # + 0.0: a zero has no sign
        lse = np.where(empty, -np.inf, top + np.log(divisor)).astype(rows.dtype, copy=False)
    bends = 0 if pipeline.softcap is None else 1
    ends = 0 if pipeline.sinks is None else 1
    spanned, visits = real * len(spans), real * len(tile.blocks)
    done = Tally(
        matmul=2 * pairs * (rows.shape[2] + value_width),
        arithmetic=pairs * (3 + 2 * bends)
        + (spanned + visits) * (1 + value_width)
        + real * ends * (2 + value_width)
        + real * (rows.shape[2] + value_width),
        transcendental=pairs * (1 + bends) + spanned + 2 * real * ends + real,
        pairs_computed=pairs,
        pairs_visible=visible,
    )
    return out[..., :value_width], lse[..., 0], done


def _bend(scores: Array, block: KeyBlock, look: bool, pipeline: Pipeline, place: Place, heads: slice) -> Visible | None:
    """Softcap, mods and mask on one block's scores ``[h, R, 256]``, in place; which pairs are visible, None for all."""
    here = place
    if pipeline.mods or look:
        here = place._replace(k_positions=block.positions[None, None, :], keys=block.k[heads], key_notes=block.notes)
    bend(scores, pipeline, here)
    keep = seen_pairs(block, pipeline.mask if look else None, here)
    if keep is not None:
        np.copyto(scores, -np.inf, where=~keep)
    return keep


def _visible(keep: Visible | None, heads: int, tile: Tile) -> int:
    """How many pairs of real rows are visible."""
    count = int(tile.rows.stop - tile.rows.start)
    if keep is None:
        return heads * count * BLOCK
    seen = np.broadcast_to(keep, (heads, max(keep.shape[1], count), BLOCK))
    return int(np.count_nonzero(seen[:, :count]))
