"""Kept: attention to the keys that a policy left, and the mask that says the same of all keys.

    attend(q, k[kept], v[kept])  =  attend(q, k, v, mask = kept)

Every policy of this group is tested against the right side: the oracle of eviction is masked attention
with the kept set, never full attention.  How equal: to the bit where the rows that stay keep their slots
(pages with holes, `kvattn.caches.blocks.KeyBlock.held`), since a hidden key adds exactly 0 in its
place; within the bound where they are moved together, since then they are added in other blocks.

Positions go along with the rows: a kept key stays at the position where it was written and its rotation
is not touched.  `kvattn.eviction.reindexed` numbers them anew instead.

Shapes: ``keep [B, Hkv, S]``; query head h follows key/value head ``h // G``.
Cached per token: a key and a value for each head that keeps it.  Cost: attention to the kept keys.
Source: none of its own; the witness follows from the softmax, Vaswani et al. 2017 (arXiv 1706.03762) §3.2.1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integer
from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.execution.question import Question
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Array, Attended, Indices, Mask, Mod, Place, Positions, Span, Visible


@dataclass(frozen=True, repr=False, eq=False)
class Kept:
    """The keys that stay are visible, evicted ones are not; a key at a position it does not know came later and is.

    Parameters
    ----------
    keep
        ``[B, Hkv, S]`` boolean, copied.
    group
        G, query heads for each key/value head.
    positions
        ``[S]`` increasing: where the keys stand; ``0 .. S-1`` unless given.

    Raises
    ------
    DtypeError
        When keep is not boolean.
    ShapeError
        When it has another rank; later, when asked for a sequence or head that it does not have.
    PositionError
        When positions do not increase.

    Examples
    --------
    >>> mask = Kept(np.array([[[True, False, True]]]), group=2)
    >>> mask(0, 1, np.array([[4]]), np.arange(5)).astype(int)
    array([[1, 0, 1, 1, 1]])
    """

    keep: Visible
    group: int = 1
    positions: Any = None

    def __post_init__(self) -> None:
        held = np.array(self.keep)
        if held.dtype != np.bool_:
            raise DtypeError(f"keep must be boolean, True = stays, got {held.dtype}")
        length = sizes(("keep", held, "B Hkv S"))["S"]
        held.flags.writeable = False
        given = np.arange(length) if self.positions is None else self.positions
        at = read_positions("positions", given, 1, length)[0]
        if (np.diff(at) <= 0).any():
            raise PositionError("positions must increase from slot to slot, got some that do not")
        at.flags.writeable = False
        object.__setattr__(self, "group", integer("group", self.group, 1))
        object.__setattr__(self, "keep", held)
        object.__setattr__(self, "positions", at)

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(b), np.shape(h), np.shape(q_positions), np.shape(k_positions))
        batch, heads, length = self.keep.shape
        if not length:
            return np.ones(shape, np.bool_)
        slot = np.minimum(np.searchsorted(self.positions, k_positions), length - 1)
        later = self.positions[slot] != k_positions
        head = _within("h", np.floor_divide(h, self.group), heads)
        visible: Visible = self.keep[_within("b", b, batch), head, slot] | later
        return np.broadcast_to(visible, shape)

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the slots between the ends.

        >>> Kept(np.arange(600)[None, None] >= 300).block(0, Span(9, 9), Span(0, 255))
        <Answer.NONE: 'none'>
        """
        first, last = np.searchsorted(self.positions, (k.low, k.high + 1))
        part = self.keep[int(_within("b", b, len(self.keep))), :, first:last]
        if part.all():
            return Answer.ALL
        return Answer.LOOK if part.any() or last - first <= k.high - k.low else Answer.NONE

    def __repr__(self) -> str:
        batch, heads, length = self.keep.shape
        return f"Kept(<{int(self.keep.sum())} of [{batch}, {heads}, {length}]>, group={self.group})"

    __and__ = both
    __or__ = either
    __invert__ = inverse


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


def _within(name: str, index: Indices | int, count: int) -> Indices:
    found = np.asarray(index)
    if found.size and (found.min() < 0 or found.max() >= count):
        raise ShapeError(f"{name} must be of the {count} sequences or key/value heads that keep tells of, got {index}")
    return found


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
