"""Masks and mods asked by row number, where positions repeat or several sequences share a call."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.counting import Tally
from kvattn.typing import Answer, Array, Indices, Mask, Mod, Place, Positions, Span, Visible


@dataclass(frozen=True, eq=False)
class Numbers:
    """What stands behind the numbers that a call uses for positions.

    Attributes
    ----------
    q_positions, k_positions
        Positions by query number and by key number; None: the number is the position.
    sequences
        Sequence by query number; None: the call's own.
    """

    q_positions: Positions
    k_positions: Positions | None = None
    sequences: Indices | None = None

    def keys(self, k: Any) -> Any:
        return k if self.k_positions is None else self.k_positions[k]


@dataclass(frozen=True, eq=False)
class NumberedMask:
    """A mask on positions, asked by number."""

    mask: Mask
    numbers: Numbers

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        n = self.numbers
        whose = b if n.sequences is None else n.sequences[q_positions]
        return self.mask(whose, h, n.q_positions[q_positions], n.keys(k_positions))

    def block(self, b: int, q: Span, k: Span) -> Answer:
        n = self.numbers
        rows = slice(q.low, q.high + 1)
        keys = Span(*k) if n.k_positions is None else _span(n.k_positions[k.low : k.high + 1])
        if n.sequences is None:
            return self.mask.block(b, _span(n.q_positions[rows]), keys)
        here, at = n.sequences[rows], n.q_positions[rows]
        answers = {self.mask.block(int(s), _span(at[here == s]), keys) for s in np.unique(here)}
        return answers.pop() if len(answers) == 1 else Answer.LOOK


@dataclass(frozen=True, eq=False)
class NumberedMod:
    """A mod on positions, asked by number."""

    mod: Mod
    numbers: Numbers

    def __call__(self, scores: Array, place: Place) -> Array:
        n = self.numbers
        at = place._replace(q_positions=n.q_positions[place.q_positions], k_positions=n.keys(place.k_positions))
        if n.sequences is None:
            return self.mod(scores, at)
        whose, bent = n.sequences[place.q_positions], scores
        for s in np.unique(whose):
            bent = np.where(whose == s, self.mod(scores.copy(), at._replace(batch=int(s))), bent)
        return bent.astype(scores.dtype, copy=False)

    def cost(self, *, pairs: int, width: int) -> Tally:
        stated = getattr(self.mod, "cost", None)
        return Tally() if stated is None else stated(pairs=pairs, width=width)


def numbered(mask: Mask | None, mods: tuple[Mod, ...], numbers: Numbers) -> tuple[Mask | None, tuple[Mod, ...]]:
    """The same mask and mods, asked by number."""
    return (
        None if mask is None else NumberedMask(mask, numbers),
        tuple(NumberedMod(mod, numbers) for mod in mods),
    )


def _span(positions: Positions) -> Span:
    return Span(int(positions.min()), int(positions.max()))
