"""DeepSeek sparse attention (DSA): an indexer picks k keys for each query, latent attention mixes those.

    S_t = the k keys s with the largest I_ts among those that t may see; all of them where they are fewer
    o_t = softmax over s in S_t of the latent attention of t and s,       y = concat_h(o_h) W_o

I is `kvattn.variants.sparse.lightning_indexer`, the attention `kvattn.variants.compressed.latent.Absorbed`.
All query heads share one choice.  Of equal scores the lower position wins; a NaN comes last.

Shapes: as there.  A query's rows are gathered in the order of their slots and attended to as if they
were the whole sequence: where a query sees slots 0 .. n - 1 and n <= k, the result is that of `Absorbed`,
to the bit.
Cached per token: latent, turned rope key and index key, ``r + Dr + Di`` numbers; for DeepSeek-V3.2:

>>> indexed_latent(latent=512 + 64, index_key=128).nbytes // 8
704

Cost: index scores of every visible pair (in whole blocks of 256 keys), ``2·Hi·Di`` FLOPs each, and attention
``2·Hq·(2r + Dr)`` for at most k keys a query.  Each new token reads its own k rows, index keys are read
once a step.  Finding the k largest is not counted, and index pairs do not count as pairs.

Exactness: the choice is the same under any cut, to the bit, and so is everything after it.  Against the
definition it is bounded where no other key's score comes within rounding of the k-th: a choice jumps.

Source: DeepSeek-V3.2 (2512.02556) §2.1 eq. 1-2.
Where libraries differ: ``torch.topk`` leaves the order of ties open; some kernels pad the choice with
repeated or empty slots when there are fewer than k keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import integer
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, Schema
from kvattn.caches.tables import RawBlock
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import arguments_of, bends_of, settle
from kvattn.counting import Tally, charge
from kvattn.errors import DtypeError, ShapeError
from kvattn.masks.ahead import check_cut
from kvattn.masks.causal import Causal
from kvattn.positions.rotary import Rotary
from kvattn.typing import Answer, Array, Attended, Indices, Mask, Positions, Span, Visible
from kvattn.variants.compressed.latent import whole_heads, whole_query_latents
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.compressed.latent_rows import (
    check_rotation,
    query_and_row,
    query_and_row_cost,
)
from kvattn.variants.dense.projections import check_hidden
from kvattn.variants.sparse.lightning_indexer import LightningIndexer, block_scores, block_scores_cost

TOGETHER = 8
"""Tokens whose choice is worked out together; nothing of it shows in the result."""


class IndexedLatent(NamedTuple):
    """A token's latent with its rope key behind it, ``[B, 1, T, r + Dr]``, and its index key ``[B, 1, T, Di]``."""

    latent: Array
    index_key: Array


def indexed_latent(latent: int, index_key: int, dtype: DTypeLike = np.float64) -> Schema[IndexedLatent]:
    """Schema of the cache.

    >>> indexed_latent(10, 2, np.float32).nbytes
    48
    """
    return Schema(
        IndexedLatent, (Field("latent", 1, latent, dtype), Field("index_key", 1, index_key, dtype, keys=True))
    )


@dataclass(frozen=True, eq=False)
class Indexed:
    """Latent attention over the keys that an indexer picks.

    Parameters
    ----------
    projections, indexer
        The weights, of one dtype and one M.
    keep
        Keys that a query may keep, k.
    mask
        Who may be picked, asked for query head 0; None for every key held at the query's step.
    rotation
        Turns the rope parts, or None; the indexer has its own.
    scale, softcap, sinks
        As in `kvattn.variants.compressed.latent.Absorbed`.
    page
        Tokens per cache page; invisible in the result.

    Examples
    --------
    >>> one, unit = np.ones((1, 1)), np.ones(1)
    >>> projections = LatentProjections(one, unit, one, one, one, np.ones((1, 2)), one, heads=1)
    >>> layer = Indexed(projections, LightningIndexer(one, one, one, unit, unit, heads=1), keep=1)
    >>> x = np.array([[[1.0], [-3.0], [-2.0]]])
    >>> layer.step(layer.start(), x)[0].out.round(3).ravel()  # index keys tie, so all pick token 0
    array([1., 1., 1.])
    """

    projections: LatentProjections
    indexer: LightningIndexer
    keep: int
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    rotation: Rotary | None = None
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w, indexer = self.projections, self.indexer
        object.__setattr__(self, "keep", integer("keep", self.keep, 1))
        settle(self, w.heads, w.dtype)
        check_rotation(w, self.rotation)
        source = w.hidden if w.query_down is None else w.query_down.shape[1]
        reads = (indexer.key.shape[0], indexer.query.shape[0])
        if reads != (w.hidden, source):
            raise ShapeError(
                f"indexer must read M={w.hidden} and query latents of {source}, got {reads[0]} and {reads[1]}"
            )
        if indexer.query.dtype != w.dtype:
            raise DtypeError(f"indexer must have the dtype of projections, {w.dtype}, got {indexer.query.dtype}")

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equations on the whole sequence.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``.

        Examples
        --------
        >>> one, unit = np.ones((1, 1)), np.ones(1)
        >>> projections = LatentProjections(one, unit, one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
        >>> layer = Indexed(projections, LightningIndexer(one, one, one, unit, unit, heads=1), keep=1)
        >>> layer.definition(np.array([[[1.0], [-3.0]]]), np.arange(2)).out.ravel()
        array([1., 1.])
        """
        w = self.projections
        x = check_hidden("x", x, None, w.hidden, w.dtype)
        at = read_positions("positions", positions, x.shape[0], x.shape[1])
        q, k, v = whole_heads(w, self.rotation, x, at)
        scores = self.indexer.definition(x, whole_query_latents(w, x), at)
        kept = np.zeros(scores.shape, np.bool_)
        for b in range(len(x)):
            for t in range(x.shape[1]):
                seen = np.arange(x.shape[1])
                if self.mask is not None:
                    seen = np.flatnonzero(np.broadcast_to(self.mask(b, 0, at[b, t], at[b]), at[b].shape))
                best = sorted((-float(scores[b, t, s]), int(at[b, s]), int(s)) for s in seen)[: self.keep]
                kept[b, t, [s for _, _, s in best]] = True
        mixed, lse = definition(q, k, v, q_positions=at, k_positions=at, **self._pipeline(_Table(kept)))
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, lse)

    def start(self, batch: int = 1) -> Paged[IndexedLatent]:
        """The empty cache for ``batch`` sequences.

        >>> one, unit = np.ones((1, 1)), np.ones(1)
        >>> projections = LatentProjections(one, unit, one, one, one, np.ones((1, 2)), one, heads=1)
        >>> Indexed(projections, LightningIndexer(one, one, one, unit, unit, heads=1), keep=1).start(2)
        Paged(IndexedLatent, page=256, lengths=(0, 0))
        """
        return Paged.start(self._schema(), batch, self.page)

    def step(self, cache: Paged[IndexedLatent], x: Array) -> tuple[Attended, Paged[IndexedLatent]]:
        """Pick keys for any number of new tokens, attend to them, and remember the tokens.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> one, unit = np.ones((1, 1)), np.ones(1)
        >>> projections = LatentProjections(one, unit, one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
        >>> layer = Indexed(projections, LightningIndexer(one, one, one, unit, unit, heads=1), keep=1)
        >>> layer.step(layer.start(), np.array([[[1.0], [-3.0]]]))[0].out.ravel()
        array([1., 1.])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads)
        at = cache.coming(x.shape[1])
        a = w.query_latents(x)
        q, row = query_and_row(w, self.rotation, x, a, at)
        cache = cache.append(IndexedLatent(row, self.indexer.keys(x, at)), positions=at)
        index_queries, index_weights = self.indexer.queries(a, at), self.indexer.weights(x)
        mixed = np.zeros((*q.shape[:3], w.rank), w.dtype)
        lse = np.zeros(q.shape[:3], w.dtype)
        for b in range(cache.batch):
            blocks = cache.raw_blocks(b)
            met: dict[int, int] = {}
            for first in range(0, x.shape[1], TOGETHER):
                here = slice(first, first + TOGETHER)
                kept = self._pick(b, index_queries[b, :, here], index_weights[b, here], at[b, here], blocks, met)
                part = streaming.attend(
                    np.ascontiguousarray(q[b, :, here].swapaxes(0, 1)[:, :, None]),  # each token its own sequence
                    at[b, here, None],
                    [_gathered(blocks, slots, w.rank) for slots in kept],
                    value_width=w.rank,
                    **self._pipeline(),
                )
                mixed[b, :, here] = part.out[:, :, 0].swapaxes(0, 1)
                lse[b, :, here] = part.lse[:, :, 0].T
            charge(Tally(kv_read=sum(met.values()) * self.indexer.width * w.dtype.itemsize))
        return Attended(w.outputs(w.release(mixed)), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one, unit = np.ones((1, 1)), np.ones(1)
        >>> projections = LatentProjections(one, unit, one, one, one, np.ones((1, 2)), one, heads=1)
        >>> layer = Indexed(projections, LightningIndexer(one, one, one, unit, unit, heads=1), keep=4)
        >>> layer.cost(past=9, new=1).pairs_computed, layer.cost(past=9, new=1).kv_read == (10 * 1 + 4 * 2) * 8
        (4, True)
        """
        w = self.projections
        rows = batch * new
        total = query_and_row_cost(w, self.rotation, rows) + self.indexer.cost(rows)
        total += w.cost(rows, "query_latents", "release", "outputs")
        total += self._schema().append_cost(past=past, new=new, batch=batch, page=self.page)
        slots = np.arange(past + new)
        for b in range(batch):
            met: dict[int, int] = {}
            for first in range(past, past + new, TOGETHER):
                tokens = slots[first : first + TOGETHER]
                for start in range(0, past + new, BLOCK):
                    keys = slots[start : start + BLOCK]
                    if _answer(self.mask, b, tokens, keys) is not Answer.NONE:
                        met[start] = keys.size
                        pairs = tokens.size * keys.size
                        total += block_scores_cost(self.indexer.heads, self.indexer.width, pairs)
                for t in tokens:
                    seen = slots.size
                    if self.mask is not None:
                        seen = int(np.count_nonzero(np.broadcast_to(self.mask(b, 0, t, slots), slots.shape)))
                    total += self._attention_cost(min(seen, self.keep))
            total += Tally(kv_read=sum(met.values()) * self.indexer.width * w.dtype.itemsize)
        return total

    def _attention_cost(self, kept: int) -> Tally:
        """One token and the rows that it keeps."""
        w = self.projections
        sizes = (w.heads, 1, w.rank + w.rope_width, w.rank, w.dtype.itemsize)
        shape = Shape(*sizes, past=0, new=1, source=kept, inside=True)
        return attend_cost(shape, **bends_of(self))

    def _pick(
        self, b: int, queries: Array, weights: Array, at: Positions, blocks: Sequence[RawBlock], met: dict[int, int]
    ) -> list[Positions]:
        """For each token the slots that it keeps, in ascending order."""
        scores, seen, slots = [], [], []
        for block in blocks:
            if _answer(self.mask, b, at, block.positions) is Answer.NONE:
                continue
            met[block.start] = block.key_count
            charge(block_scores_cost(self.indexer.heads, self.indexer.width, at.size * block.key_count))
            scores.append(block_scores(queries, weights, block.arrays[1][0]))
            visible: Visible = np.ones((at.size, BLOCK), np.bool_)
            if self.mask is not None:
                visible = visible & self.mask(b, 0, at[:, None], block.positions[None, :])
            seen.append(visible if block.held is None else visible & block.held)
            slots.append(block.start + np.arange(BLOCK))
        if not slots:
            return [np.zeros(0, np.int64)] * at.size
        every = np.concatenate(slots)
        return [
            np.sort(every[may][top(row[may], self.keep)])
            for row, may in zip(np.concatenate(scores, axis=1), np.concatenate(seen, axis=1), strict=True)
        ]

    def _schema(self) -> Schema[IndexedLatent]:
        w = self.projections
        return indexed_latent(w.rank + w.rope_width, self.indexer.width, w.dtype)

    def _pipeline(self, mask: Mask | None = None) -> dict[str, Any]:
        """How the scores of kept keys are bent; which keys are kept is said by ``mask`` or by the rows themselves."""
        scale = 1.0 / math.sqrt(self.projections.width) if self.scale is None else self.scale
        return arguments_of(self, scale=scale, mask=mask)


def top(scores: Array, keep: int) -> Positions:
    """Places of the ``keep`` largest scores, best first; of equal ones the first, NaN last.

    >>> top(np.array([1.0, 3.0, np.nan, 3.0, -1.0]), keep=3)
    array([1, 3, 0])
    """
    return np.argsort(-scores, kind="stable")[:keep]


def _answer(mask: Mask | None, b: int, q: Positions, k: Positions) -> Answer:
    if mask is None:
        return Answer.ALL
    return mask.block(b, Span(int(q.min()), int(q.max())), Span(int(k.min()), int(k.max())))


def _gathered(blocks: Sequence[RawBlock], slots: Positions, value_width: int) -> tuple[KeyBlock, ...]:
    """The rows of some slots, packed as if nothing lay between them."""
    if not slots.size:
        return ()
    found = {block.start: block.arrays[0][0] for block in blocks}
    starts, first = np.unique(slots // BLOCK * BLOCK, return_index=True)
    parts = [found[int(s)][part % BLOCK] for s, part in zip(starts, np.split(slots, first[1:]), strict=True)]
    rows = np.concatenate(parts)[None]  # [1, n, w]
    return tuple(block._replace(inside=True) for block in blocks_of(rows, rows[:, :, :value_width], slots))


@dataclass(frozen=True, eq=False)
class _Table:
    """A mask that was worked out before, ``[B, T, S]``, by place."""

    kept: Visible

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        kept: Visible = self.kept[b][None]
        return kept

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.LOOK
