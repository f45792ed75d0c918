"""Gathered: attention to the rows that a policy left, moved together.

    attend(q, k[kept], v[kept])  =  attend(q, k, v, mask = kept)

Equal within the bound, not to the bit: rows that have moved are added in other blocks.  Positions go along: a
kept key stays at the position where it was written and its rotation is not touched;
`kvattn.eviction.reindexed` numbers keys anew instead.

Shapes: ``keep [B, Hkv, S]``; heads may keep different numbers of keys.
Cached per token: a key and a value for each head that keeps it.  Cost: attention to the kept keys.
Source: none of its own; it follows from the softmax, Vaswani et al. 2017 (arXiv 1706.03762) §3.2.1.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.axes import sizes
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.execution.question import Question
from kvattn.typing import Answer, Array, Attended, Indices, Mask, Mod, Place, Positions, Span, Visible


def attend_kept(question: Question, keep: Visible) -> Attended:
    """Attend to the kept rows alone, moved together, each head on its own.

    Parameters
    ----------
    question
        Arrays, positions and pipeline; masks and mods see the positions and heads of the whole.
    keep
        ``[B, Hkv, S]`` boolean; heads may keep different numbers.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Raises
    ------
    ShapeError
        When keep has another shape.

    Examples
    --------
    >>> q, v = np.zeros((1, 1, 1, 1)), np.array([1.0, 5.0, 3.0]).reshape(1, 1, 3, 1)
    >>> attend_kept(Question(q, 0 * v, v), np.array([[[True, False, True]]])).out.ravel()
    array([2.])
    """
    sizes(("k", question.k, "B Hkv S D"), ("keep", keep, "B Hkv S"))
    group = question.q.shape[1] // question.k.shape[1]
    out = np.zeros((*question.q.shape[:3], question.v.shape[3]), question.q.dtype)
    lse = np.zeros(question.q.shape[:3], question.q.dtype)
    for b, head in np.ndindex(*keep.shape[:2]):
        mine = slice(head * group, (head + 1) * group)
        slots = np.flatnonzero(keep[b, head])
        k, v = (rows[b, head, slots][None] for rows in (question.k, question.v))
        found = streaming.attend(
            question.q[b : b + 1, mine],
            question.q_positions[b : b + 1],
            [blocks_of(k, v, question.k_positions[b, slots])],
            value_width=v.shape[2],
            mask=None if question.mask is None else _PartMask(question.mask, b, mine.start),
            mods=tuple(_PartMod(mod, b, mine.start) for mod in question.mods),
            scale=question.scale,
            softcap=question.softcap,
            sinks=None if question.sinks is None else question.sinks[mine],
        )
        out[b, mine], lse[b, mine] = found.out[0], found.lse[0]
    return Attended(out, lse)


@dataclass(frozen=True)
class _PartMask:
    """What a mask says of the query heads of one key/value head."""

    whole: Mask
    batch: int
    first: int

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        return self.whole(self.batch, h + self.first, q_positions, k_positions)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return self.whole.block(self.batch, q, k)


@dataclass(frozen=True)
class _PartMod:
    """What a mod does to the scores of the query heads of one key/value head."""

    whole: Mod
    batch: int
    first: int

    def __call__(self, scores: Array, place: Place) -> Array:
        return self.whole(scores, place._replace(batch=self.batch, heads=place.heads + self.first))
