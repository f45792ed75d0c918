"""kvattn's own `Paged` through the five methods: a small adapter, for caches that are values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvattn.caches.paged import Paged
from kvattn.caches.rows import key_value
from kvattn.testing.conformance.adapter import Capabilities, Seen
from kvattn.testing.conformance.rows import WIDTH
from kvattn.typing import Array


@dataclass(frozen=True)
class PagedAdapter:
    """Pages of so many tokens.

    >>> cache = PagedAdapter(page=3).start(2)
    >>> PagedAdapter().select(cache, [1, 1, 0]).batch
    3
    """

    page: int = 4

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PagedAdapter().capabilities.rollback is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """An empty cache.

        >>> PagedAdapter().start(2).lengths
        (0, 0)
        """
        return Paged.start(key_value(2, WIDTH, dtype="float32"), batch, self.page)

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """The longer cache, and all its rows.

        >>> import numpy as np
        >>> rows = np.zeros((1, 2, 3, 64), np.float32)
        >>> PagedAdapter().append(PagedAdapter().start(1), rows, rows)[1][0].length
        3
        """
        cache = cache.append((k, v))
        rows = cache.rows()
        return cache, [Seen(rows.k, rows.v, length=cache.length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """The shorter cache.

        >>> PagedAdapter().rollback(PagedAdapter().start(1), 0).length
        0
        """
        return cache.truncate(cache.length - tokens)

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """The cache of those sequences.

        >>> PagedAdapter().select(PagedAdapter().start(2), [0]).batch
        1
        """
        return cache.select(list(indices))

    def branch(self, cache: Any) -> Any:
        """The cache itself: it never changes.

        >>> PagedAdapter().branch(PagedAdapter().start(1)).length
        0
        """
        return cache.branch()
