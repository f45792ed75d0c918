"""A cache that keeps the last rows, in a ring."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Part, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array


@dataclass(frozen=True)
class PlantedRing:
    """The last rows only: what a window of W needs, and what rollbacks of one append need.

    Attributes
    ----------
    window
        W.
    keeps
        Rows kept between appends, W - 1 if None.
    ignores
        A rollback does nothing, without a word.
    early
        Cut to W rows before the queries of an append have read.
    slots, only
        Read in the order of their slots, ``position % W``; and only these W, however many queries came.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedRing(3)).follow("start 2, append 5, append 1, select 1 0, append 2")
    """

    window: int
    keeps: int | None = None
    early: bool = False
    slots: bool = False
    only: bool = False
    ignores: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """A window, and no rollback.

        >>> PlantedRing(3).capabilities.rollback
        0
        """
        return Capabilities(parts=(Part(window=self.window),), rollback=0)

    def start(self, batch: int) -> Any:
        """No rows, at position 0.

        >>> PlantedRing(3).start(1)[2]
        0
        """
        empty = np.zeros((batch, HEADS, 0, WIDTH))
        return empty, empty, 0

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Kept rows and new ones, then only those to keep.

        >>> rows = np.zeros((1, 2, 5, 64))
        >>> PlantedRing(3).append(PlantedRing(3).start(1), rows, rows)[0][0].shape[2]
        2
        """
        count, length = k.shape[2], cache[2] + k.shape[2]
        both = [np.concatenate(pair, axis=2) for pair in ((cache[0], k), (cache[1], v))]
        if self.early and count > 1:
            both = [rows[:, :, -self.window :] for rows in both]
        shown = both
        if self.slots and length > self.window and both[0].shape[2] >= self.window:
            last = np.arange(length - self.window, length)
            order = last[np.argsort(last % self.window)] - length
            more = [rows[:, :, : -self.window if not self.only else 0] for rows in both]
            last_rows = [rows[:, :, order] for rows in both]
            shown = [np.concatenate(pair, axis=2) for pair in zip(more, last_rows, strict=True)]
        keep = self.window - 1 if self.keeps is None else self.keeps
        kept = (rows[:, :, max(0, rows.shape[2] - keep) :] for rows in both)
        return (*kept, length), [Seen(shown[0], shown[1], length=length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Refused, but for none.

        Raises
        ------
        RuntimeError
            Any other number.

        Examples
        --------
        >>> PlantedRing(3).rollback("cache", 0)
        'cache'
        """
        if tokens and not self.ignores:
            raise RuntimeError("a ring forgets")
        return cache

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched.

        >>> len(PlantedRing(3).select(PlantedRing(3).start(2), [0])[0])
        1
        """
        return cache[0][list(indices)], cache[1][list(indices)], cache[2]

    def branch(self, cache: Any) -> Any:
        """The same value.

        >>> PlantedRing(3).branch("cache")
        'cache'
        """
        return cache
