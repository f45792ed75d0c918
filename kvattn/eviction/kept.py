"""Kept: a mask that hides what a policy evicted; the oracle of every policy is masked attention with the kept set.

    visible(b, h, q, k)  =  keep[b, h // G, slot of k];   a key at a position that is not known came later: True

To the bit the same as rows that are gone but left their slots (pages with holes,
`kvattn.caches.blocks.KeyBlock.held`), since a hidden key adds exactly 0 in its place.

Shapes: ``keep [B, Hkv, S]``; query head h follows key/value head ``h // G``.
Cached per token: nothing of its own.
Source: none of its own; it follows from the softmax, Vaswani et al. 2017 (arXiv 1706.03762) §3.2.1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integer
from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.errors import DtypeError, PositionError, ShapeError
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


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


def _within(name: str, index: Indices | int, count: int) -> Indices:
    found = np.asarray(index)
    if found.size and (found.min() < 0 or found.max() >= count):
        raise ShapeError(f"{name} must be of the {count} sequences or key/value heads that keep tells of, got {index}")
    return found
