"""What a layer that attends asks of a cache: who comes next, take these rows, show your blocks.

A step says where its tokens stand (`Cache.coming`), hands their rows over (`Cache.append`) and reads
every sequence in blocks of 256 slots (`Cache.blocks`); it gets back a cache of the kind it was given.
Which rows a storage keeps, in what form and where, is its own affair: a layer over any of them that
keeps what its mask lets a query see, as it came, computes the same bits.

`Paged`, `Contiguous`, `Ring`, `ChunkedLocal`, `SinkWindow`, `Summaries`, `Tiered`, `Coded` and `KiviCache`
are caches in this sense; nothing needs to inherit from it.

Source: none; the seam is ours.
"""

from collections.abc import Sequence
from typing import Any, Protocol, Self, TypeVar

from kvattn.caches.blocks import KeyBlock
from kvattn.caches.rows import KeyValue
from kvattn.typing import Positions


class Cache(Protocol):
    """Keys and values of a batch of sequences, a value that a step extends.

    >>> import numpy as np
    >>> from kvattn.caches import Contiguous, key_value
    >>> def with_a_token(cache: C) -> C:
    ...     rows = KeyValue(np.ones((cache.batch, 1, 1, 2)), np.ones((cache.batch, 1, 1, 2)))
    ...     return cache.append(rows, cache.coming(1))
    >>> with_a_token(Contiguous.start(key_value(1, 2)))
    Contiguous(KeyValue, room=256, lengths=(1,))
    """

    @property
    def batch(self) -> int:
        """Number of sequences."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token."""

    def coming(self, new: int, /) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``."""

    def append(self, rows: KeyValue | Sequence[Any], positions: Positions | None = None) -> Self:
        """Add tokens, ``[B, heads, T, width]`` per field, at their positions; the old value stays as it was."""

    def blocks(self, sequence: int, /) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence as the streaming softmax takes them."""


C = TypeVar("C", bound=Cache)
"""The kind of cache that a step was given, and gives back."""
