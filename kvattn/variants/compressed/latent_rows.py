"""One stored row per token that is the key of all heads, and whose first numbers are their value.

    row_s = [c_s ; R_s k_r],   k_s = row_s,   v_s = row_s[:r],   q = [q_n W_uk,hᵀ ; R_t q_r]

Keys and values overlap in memory, so a reader fetches the row once: ``w`` numbers per token, not ``w + r``.

Shapes: rows as the cache stores them, ``[1, 256, w]`` a block, w = r + Dr; one key/value head;
queries ``[B, Hq, T, w]``, mixes ``[B, Hq, T, r]``.

Source: DeepSeek-V2 (2405.04434) §2.1.2, "absorbed"; FlashMLA's kernel takes the same two views of one row.
"""

from collections.abc import Sequence

import numpy as np

from kvattn.caches.blocks import KeyBlock
from kvattn.caches.tables import RawBlock
from kvattn.counting import Tally
from kvattn.errors import ShapeError
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions
from kvattn.variants.compressed.latent_projections import LatentProjections


def check_rotation(w: LatentProjections, rotation: Rotary | None) -> None:
    """Refuse a rotation that does not fit into the Dr features of the rope parts.

    >>> one = np.ones((1, 1))
    >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
    >>> check_rotation(w, Rotary.of(4))
    Traceback (most recent call last):
    kvattn.errors.ShapeError: rotation must turn features of 1 in key_rope, got 4 features
    """
    if rotation is not None and rotation.width > w.rope_width:
        raise ShapeError(f"rotation must turn features of {w.rope_width} in key_rope, got {rotation.width} features")


def turned(rotation: Rotary | None, x: Array, positions: Positions) -> Array:
    """``x`` turned to its positions, or as it is without a rotation.

    >>> turned(None, np.ones((1, 2)), np.zeros(1, int))
    array([[1., 1.]])
    """
    return x if rotation is None else rotation.rotate(x, positions)


def turned_cost(rotation: Rotary | None, tokens: int, heads: int) -> Tally:
    """What `turned` counts for so many tokens of so many heads, in closed form.

    >>> turned_cost(Rotary.of(2), 3, 4).transcendental
    6
    """
    return Tally() if rotation is None else rotation.cost(rows=tokens * heads, positions=tokens)


def query_and_row(
    w: LatentProjections, rotation: Rotary | None, x: Array, a: Array, positions: Positions
) -> tuple[Array, Array]:
    """Queries to rows ``[B, Hq, T, w]`` and the new tokens' rows ``[B, 1, T, w]``.

    Parameters
    ----------
    w, rotation
        The weights, and what turns the rope parts.
    x, a
        ``[B, T, M]``, and what `LatentProjections.query_latents` made of it.
    positions
        ``[B, T]``.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
    >>> x = np.full((1, 1, 1), 5.0)
    >>> query_and_row(w, None, x, x, np.zeros((1, 1), int))
    (array([[[[5., 5.]]]]), array([[[[1., 5.]]]]))
    """
    nope, rope = w.queries(a)
    q = np.concatenate([w.absorb(nope), turned(rotation, rope, positions[:, None, :])], axis=-1)
    row = np.concatenate([w.latents(x), turned(rotation, w.rope_keys(x), positions)], axis=-1)
    return q, row[:, None]


def query_and_row_cost(w: LatentProjections, rotation: Rotary | None, tokens: int) -> Tally:
    """What `query_and_row` counts, in closed form.

    >>> one = np.ones((1, 1))
    >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
    >>> query_and_row_cost(w, None, 1).matmul  # 1·2 for both query parts, 1·1 for each of absorb, c and k_r
    10
    """
    turning = turned_cost(rotation, tokens, w.heads) + turned_cost(rotation, tokens, 1)
    return turning + w.cost(tokens, "queries", "absorb", "latents", "rope_keys")


def latent_blocks(raw: Sequence[RawBlock], value_width: int) -> tuple[KeyBlock, ...]:
    """Both views of stored rows, as the streaming softmax takes them; the rows are a block's first array.

    Parameters
    ----------
    raw
        What `Paged.raw_blocks` gave for a schema whose first field is the row.
    value_width
        r.

    Examples
    --------
    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> cache = Paged.start(latent(3)).append([np.ones((1, 1, 5, 3))])
    >>> (block,) = latent_blocks(cache.raw_blocks(0), value_width=2)
    >>> block.k.shape, block.v.shape, block.key_count
    ((1, 3, 256), (1, 256, 2), 5)
    """
    return tuple(
        KeyBlock(
            block.start,
            np.ascontiguousarray(block.arrays[0].swapaxes(1, 2)),
            np.ascontiguousarray(block.arrays[0][:, :, :value_width]),
            block.positions,
            block.held,
            inside=True,
        )
        for block in raw
    )
