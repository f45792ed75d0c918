"""Attention whose weights are not a running softmax: the scores of all keys of some queries at once, then the mix.

    s[h, i, :]  =  mods(softcap(scale · q_i K_{h // G}ᵀ)),      out[h, i]  =  Σ_j weigh(s)[h, i, j] v_{h // G, j}

Shapes: ``q [B, Hq, T, D]``; keys and values as `kvattn.caches.blocks.KeyBlock`; a
`kvattn.core.weights.Weighing` and each `kvattn.core.weights.Beside` get all heads of about 256 / G queries
together, ``[Hq, t, S]``.  Memory is that of their scores, so O(Hq · S · 256 / G) and not O(T · D): what
`kvattn.core.streaming` avoids is what these variants need.

**Bits do not depend on the cut.**  Products have 8 rows; a weighing gives hidden keys exactly 0 and feels no
hidden column (`kvattn.core.weights`); the mix adds one block of 256 keys after the other, in slot order,
from 0.  A block that no query of a tile sees is skipped.  A weight of exactly 0 takes no value with it,
not even NaN, which is how values behind a mask cannot matter.

Cost: ``2 · (D + Dv)`` FLOPs per computed pair, D per row for the scale, and what the weighing says.

Source: Vaswani et al. 2017 (1706.03762) §3.2.1 with another function in the softmax's place.
"""

from collections.abc import Sequence
import math
from typing import Any, Protocol, TypeAlias

import numpy as np

from kvattn.blas import ROWS, tile_product
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.meeting import bend, bytes_of, mix, seen_pairs, widened
from kvattn.core.pipeline import Pipeline, mods_cost
from kvattn.core.tiles import Tile, cut, score_rows
from kvattn.core.weights import Beside, Weighing
from kvattn.counting import Tally, charge
from kvattn.typing import Array, Attended, Mask, Mod, Place, Positions, Visible

AnyArray: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"


class Scoring(Protocol):
    """How raw products of queries and keys come about; one that has ``cost(pairs, width)`` is counted, as mods are."""

    def __call__(self, rows: Array, blocks: Sequence[KeyBlock], place: Place, /) -> Sequence[Array]:
        """One ``[Hkv, R, 256]`` for each block from scaled rows ``[Hkv, R, D]`` at ``place``, in slot order."""


def products(rows: Array, blocks: Sequence[KeyBlock], _place: Place, /) -> list[Array]:
    """Plain scalar products, ``q · k``.

    >>> from kvattn.caches.blocks import blocks_of
    >>> at = np.zeros((1, 1, 1), np.int64)
    >>> held = blocks_of(np.full((1, 3, 2), 0.5), np.ones((1, 3, 2)), np.arange(3))
    >>> products(np.ones((1, 8, 2)), held, Place(0, at, None, at, at))[0][0, 0, :4]
    array([1., 1., 1., 0.])
    """
    heads, _, width = rows.shape
    stacked = rows.reshape(heads, -1, ROWS, width)
    return [tile_product(stacked, block.k[:, None]).reshape(heads, -1, BLOCK) for block in blocks]


def attend(
    q: Array,
    q_positions: Positions,
    blocks: Sequence[Sequence[KeyBlock]],
    *,
    value_width: int,
    weighing: Weighing,
    scoring: Scoring = products,
    beside: Sequence[Beside] = (),
    mask: Mask | None = None,
    mods: Sequence[Mod] = (),
    scale: float | None = None,
    softcap: float | None = None,
) -> Attended:
    """Attend to blocks of keys, with weights of any making.

    Parameters
    ----------
    q, q_positions, blocks, value_width, mask, mods, scale, softcap
        As in `kvattn.core.streaming.attend`.
    weighing
        Makes weights of scores.
    scoring
        Makes raw products of scaled queries and keys.
    beside
        What else is mixed with the weights.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``, which is the weighing's.

    Examples
    --------
    >>> from kvattn.caches.blocks import blocks_of
    >>> from kvattn.core.weights import Softmax
    >>> x = np.eye(2)[None]
    >>> attend(
    ...     x[None],
    ...     np.arange(2)[None],
    ...     [blocks_of(x, x, np.arange(2))],
    ...     value_width=2,
    ...     weighing=Softmax(),
    ...     scale=math.log(3),
    ... ).out[0, 0]
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """
    batch, q_heads, length, width = q.shape
    scale = 1.0 / math.sqrt(width) if scale is None else scale
    pipeline = Pipeline(mask, tuple(mods), scale, softcap, None)
    out = np.zeros((batch, q_heads, length, value_width), q.dtype)
    lse = np.zeros((batch, q_heads, length), q.dtype)
    if out.size == 0:
        return Attended(out, lse)
    kv_heads = next((held[0].k.shape[0] for held in blocks if len(held)), 1)
    group = q_heads // kv_heads
    tiles = cut(q_positions, blocks, 1, group, length, mask)
    pairs = visible = 0
    for tile in tiles:
        tokens = slice(tile.rows.start // group, tile.rows.stop // group)
        with np.errstate(all="ignore"):
            scores, seen, place = _scores(q, q_positions, tile, kv_heads, pipeline, scoring)
            weights, lse[tile.batch, :, tokens] = weighing.weigh(scores, seen, place)
            mixed = _mixed(weights, tile, kv_heads, value_width)
            for further in beside:
                mixed = mixed + further.mix(weights, place)
        out[tile.batch, :, tokens] = mixed + 0.0  # + 0.0: a zero has no sign
        pairs += q_heads * (tokens.stop - tokens.start) * sum(block.key_count for block, _ in tile.blocks)
        visible += int(np.count_nonzero(seen))
    read = {(tile.batch, block.start): block for tile in tiles for block, _ in tile.blocks}
    base = Tally(
        matmul=2 * pairs * (width + value_width),
        pairs_computed=pairs,
        pairs_visible=visible,
        kv_read=sum(bytes_of(block) for block in read.values()),
    )
    rows = batch * q_heads * length
    charge(base + _bent(pairs, rows, width, value_width, weighing, scoring, beside, mods, softcap is not None))
    return Attended(out, lse)


def scored_cost(
    shape: Shape,
    weighing: Weighing,
    mask: Mask | None = None,
    *,
    scoring: Scoring = products,
    beside: Sequence[Beside] = (),
    mods: Sequence[Mod] = (),
    softcap: bool = False,
    notes: int = 0,
) -> Tally:
    """The cost of `attend` for the last tokens of a sequence, in closed form.

    The pairs are those of the running softmax, whose tiles these are; what is done to them is not.

    Parameters
    ----------
    shape, mask, mods, softcap, notes
        As in `kvattn.core.accounting.attend_cost`.
    weighing, scoring, beside
        As in `attend`.

    Examples
    --------
    >>> from kvattn.core.weights import Softmax
    >>> scored_cost(Shape(2, 1, 4, 4, 8, past=2, new=1), Softmax()).matmul == 2 * 2 * 3 * (4 + 4)
    True
    """
    met = attend_cost(shape, mask, notes=notes)
    rows = shape.batch * shape.heads * shape.new
    base = Tally(
        matmul=met.matmul, pairs_computed=met.pairs_computed, pairs_visible=met.pairs_visible, kv_read=met.kv_read
    )
    sizes = met.pairs_computed, rows, shape.width, shape.value_width
    return base + _bent(*sizes, weighing, scoring, beside, mods, softcap)


def _bent(
    pairs: int,
    rows: int,
    width: int,
    value_width: int,
    weighing: Weighing,
    scoring: Scoring,
    beside: Sequence[Beside],
    mods: Sequence[Mod],
    softcap: bool,
) -> Tally:
    """What scaling, bending, weighing and mixing further things count."""
    total = Tally(arithmetic=rows * width + 2 * pairs * softcap, transcendental=pairs * softcap)
    total += mods_cost(mods, pairs=pairs, width=width)
    total += scoring.cost(pairs=pairs, width=width) if hasattr(scoring, "cost") else Tally()
    total += weighing.cost(pairs=pairs, rows=rows, width=width)
    return sum((further.mix_cost(pairs=pairs, rows=rows, value_width=value_width) for further in beside), total)


def _scores(
    q: Array, q_positions: Positions, tile: Tile, kv_heads: int, pipeline: Pipeline, scoring: Scoring
) -> tuple[Array, Visible, Place]:
    """Scores and visibility ``[Hq, t, S]`` of a tile's queries with the keys of its blocks, and where they stand."""
    _, q_heads, length, width = q.shape
    group, count = q_heads // kv_heads, tile.rows.stop - tile.rows.start
    rows = score_rows(q[tile.batch].reshape(kv_heads, group, length, width), tile.rows)  # [Hkv, R, D]
    row = np.minimum(np.arange(tile.rows.start, tile.rows.start + rows.shape[1]), tile.rows.stop - 1)
    here = Place(
        tile.batch,
        (np.arange(kv_heads)[:, None] * group + row % group)[:, :, None],
        rows,
        q_positions[tile.batch][row // group][None, :, None],
        np.empty((1, 1, 0), np.int64),
    )
    wide = max(1, len(tile.blocks)) * BLOCK  # a query that meets no key sees one block of nothing
    scores = np.zeros((q_heads, count // group, wide), q.dtype)
    seen = np.zeros(scores.shape, np.bool_)
    columns = np.zeros(wide, np.int64)
    raw = scoring(rows * pipeline.scale, [block for block, _ in tile.blocks], here)
    for n, (part, (block, look)) in enumerate(zip(raw, tile.blocks, strict=True)):
        slots = slice(n * BLOCK, (n + 1) * BLOCK)
        at = here._replace(k_positions=block.positions[None, None, :], keys=block.k, key_notes=block.notes)
        bend(part, pipeline, at)
        keep = seen_pairs(block, pipeline.mask if look else None, at)
        scores[:, :, slots] = by_query(part, group, count)
        seen[:, :, slots] = True if keep is None else by_query(np.broadcast_to(keep, part.shape), group, count)
        columns[slots] = block.positions
    tokens = slice(tile.rows.start // group, tile.rows.stop // group)
    place = Place(
        tile.batch,
        np.arange(q_heads)[:, None, None],
        q[tile.batch, :, tokens],
        q_positions[tile.batch, tokens][None, :, None],
        columns[None, None, :],
    )
    return scores, seen, place


def _mixed(weights: Array, tile: Tile, kv_heads: int, value_width: int) -> Array:
    """Weights ``[Hq, t, S]`` times values, one block after the other: ``[Hq, t, Dv]``."""
    q_heads, tokens, _ = weights.shape
    group = q_heads // kv_heads
    count = tokens * group
    rows = np.zeros((kv_heads, -(-count // ROWS) * ROWS, BLOCK), weights.dtype)
    mixed = np.zeros((*rows.shape[:2], -(-value_width // ROWS) * ROWS), weights.dtype)
    part = np.empty_like(mixed)
    for n, (block, _) in enumerate(tile.blocks):
        shares = weights[:, :, n * BLOCK : (n + 1) * BLOCK].reshape(kv_heads, group, tokens, BLOCK)
        rows[:, :count].reshape(kv_heads, tokens, group, BLOCK)[...] = shares.swapaxes(1, 2)
        values = widened(block.v)
        careful = not np.isfinite(values).all()
        mix(rows, values, rows != 0 if careful else None, careful, part)
        mixed += part
    return by_query(mixed, group, count)[..., :value_width]


def by_query(rows: AnyArray, group: int, count: int) -> AnyArray:
    """Score rows ``t·G + g`` back to heads and queries: ``[Hkv, R, N]`` to ``[Hq, count / G, N]``.

    >>> by_query(np.arange(8.0).reshape(1, 8, 1), group=2, count=6)[:, :, 0]
    array([[0., 2., 4.],
           [1., 3., 5.]])
    """
    kv_heads, _, wide = rows.shape
    found: AnyArray = (
        rows[:, :count].reshape(kv_heads, -1, group, wide).swapaxes(1, 2).reshape(kv_heads * group, -1, wide)
    )
    return found
