"""A cache that writes into pages of a pool, through tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array


@dataclass(frozen=True)
class PlantedPages:
    """Pages of a pool, and a table for each sequence; a page that others hold is copied before it is written.

    Attributes
    ----------
    page
        Tokens of a page.
    shares
        It is written in place; with ``page`` beyond all lengths as a buffer is.
    reverses
        The table is read from its end.
    skips
        The last slot of every page is skipped by the write.
    spares
        A rollback leaves the page that its last token would begin, and the write goes to the end of the table.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedPages(3)).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    page: int
    shares: bool = False
    reverses: bool = False
    skips: bool = False
    spares: bool = False
    pool: list[Array] = field(default_factory=list, compare=False, repr=False)

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PlantedPages(3).capabilities.capacity is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """Empty tables, and a length.

        >>> PlantedPages(3).start(2)
        ([[], []], 0)
        """
        return [[] for _ in range(batch)], 0

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Rows written into pages; a page that was begun is copied first.

        >>> rows = np.zeros((1, 2, 3, 64))
        >>> PlantedPages(2).append(PlantedPages(2).start(1), rows, rows)[0]
        ([[0, 1]], 3)
        """
        tables, length = [list(table) for table in cache[0]], cache[1]
        for b, table in enumerate(tables):
            if length % self.page and not self.shares:
                self.pool.append(self.pool[table[-1]].copy())
                table[-1] = len(self.pool) - 1
            for t in range(k.shape[2]):
                place = length + t
                if place % self.page == 0 if self.spares else place // self.page == len(table):
                    self.pool.append(np.zeros((2, HEADS, self.page, WIDTH)))
                    table.append(len(self.pool) - 1)
                if not self.skips or place % self.page < self.page - 1:
                    serial = table[-1 if self.spares else place // self.page]
                    self.pool[serial][:, :, place % self.page] = k[b, :, t], v[b, :, t]
        length += k.shape[2]
        empty = np.zeros((2, HEADS, 0, WIDTH))
        read = []
        for table in tables:
            pages = [
                self.pool[serial][:, :, : max(0, min(self.page, length - n * self.page))]
                for n, serial in enumerate(table)
            ]
            read.append(np.concatenate([empty, *(pages[::-1] if self.reverses else pages)], axis=2))
        rows = np.stack(read, axis=1)
        return (tables, length), [Seen(rows[0], rows[1], length=length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Tables cut to the pages that are left.

        >>> PlantedPages(2).rollback(([[0, 1]], 3), 1)
        ([[0]], 2)
        """
        left = max(cache[1] - max(tokens, 0), 0)
        kept = left // self.page + 1 if self.spares else -(-left // self.page)
        return [table[:kept] for table in cache[0]], left

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Tables fetched; sequences that share a page copy it before they write.

        >>> PlantedPages(2).select(([[0], [1]], 2), [1, 0])
        ([[1], [0]], 2)
        """
        tables = [list(cache[0][i]) for i in indices]
        if cache[1] % self.page and len(set(indices)) < len(indices):
            for table in tables:  # a begun page each, whatever `shares` says of branches
                self.pool.append(self.pool[table[-1]].copy())
                table[-1] = len(self.pool) - 1
        return tables, cache[1]

    def branch(self, cache: Any) -> Any:
        """The tables again.

        >>> PlantedPages(2).branch(([[0]], 1))
        ([[0]], 1)
        """
        return [list(table) for table in cache[0]], cache[1]
