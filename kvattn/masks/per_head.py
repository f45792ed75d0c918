"""Per head: every query head has a mask of its own.

    visible(h, q, k)  =  masks[h](q, k)

So are written the patterns that give heads different work:

- Sparse Transformer, strided: ``PerHead((Causal() & Window(l + 1), Strided(l)))``;
- Sparse Transformer, fixed: ``PerHead((Causal() & Chunked(l), Causal() & Columns(l, l - c, c)))``;
- DuoAttention: ``Causal()`` for retrieval heads, ``Causal() & (Sink(n) | Window(w))`` for streaming heads.

Shapes: one mask for each of the Hq query heads, or one for all.  Cached per token: nothing of its own;
a key/value head needs what the query heads that read it may see.

Source: Child et al. 2019 (arXiv 1904.10509) §4.3, §5.1; Xiao et al. 2024, DuoAttention (2410.10819) §2.
Where libraries differ: DuoAttention's pattern is one decision per key/value head, so all G masks of a
group are equal there; Sparse Transformer may also give one head the union of the patterns, ``|`` here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kvattn.arguments import shown
from kvattn.errors import ArgumentError
from kvattn.masks._table import select
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Mask, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class PerHead:
    """A mask for each query head.

    Parameters
    ----------
    masks
        One for each query head, in order; a single one serves every head.

    Raises
    ------
    ArgumentError
        When masks is no sequence of masks, or empty.
    ShapeError
        Later, when asked for a head that it does not have.

    Examples
    --------
    >>> from kvattn.masks import Causal, Window
    >>> at = np.arange(3)
    >>> PerHead((Causal(), Window(1)))(0, np.arange(2)[:, None, None], at[:, None], at).astype(int)
    array([[[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]],
    <BLANKLINE>
           [[1, 0, 0],
            [0, 1, 0],
            [0, 0, 1]]])
    """

    masks: Sequence[Mask]
    _kinds: tuple[Mask, ...] = field(init=False, compare=False)
    _of_head: Indices = field(init=False, compare=False)

    def __post_init__(self) -> None:
        held = tuple(self.masks) if isinstance(self.masks, (tuple, list)) else ()
        if not held or not all(map(_is_mask, held)):
            raise ArgumentError(f"masks must be a non-empty sequence of masks, got {shown(self.masks)}")
        kinds: list[Mask] = []
        for mask in held:
            if mask not in kinds:
                kinds.append(mask)
        of_head = np.array([kinds.index(mask) for mask in held])
        of_head.flags.writeable = False
        for name, value in (("masks", held), ("_kinds", tuple(kinds)), ("_of_head", of_head)):
            object.__setattr__(self, name, value)

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        kind = self._of_head[select(h, len(self.masks), "h")]
        visible = np.zeros(np.broadcast_shapes(*map(np.shape, (b, kind, q_positions, k_positions))), np.bool_)
        for number, mask in enumerate(self._kinds):
            asked = kind == number
            if asked.any():
                visible |= mask(b, h, q_positions, k_positions) & asked
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Certain where the masks agree.

        >>> from kvattn.masks import Causal, Window
        >>> PerHead((Causal(), Window(2))).block(0, Span(8, 9), Span(0, 3))
        <Answer.LOOK: 'look'>
        """
        answers = {mask.block(b, q, k) for mask in self._kinds}
        return answers.pop() if len(answers) == 1 else Answer.LOOK

    def __repr__(self) -> str:
        return f"PerHead({self.masks!r})"

    __and__ = both
    __or__ = either
    __invert__ = inverse


def _is_mask(value: object) -> bool:
    return callable(value) and callable(getattr(value, "block", None)) and not isinstance(value, type)
