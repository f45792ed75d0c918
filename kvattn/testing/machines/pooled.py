"""A pool of blocks as values: what a persistent cache is can be had from mutable sequences, by forking before writing.

Every verb forks the sequences first and works on the forks, so that any earlier value may be used again; when the
last name of a value is dropped its sequences are freed.  So a machine for values drives the pool as well, and when
all values are gone every count must be zero.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
import weakref

import numpy as np

from kvattn.arguments import integers
from kvattn.caches.batches import per_sequence
from kvattn.caches.blocks import BLOCK
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.rows import KeyValue, Schema, read_counts
from kvattn.errors import ArgumentError

_TOKENS = 96
"""Tokens that a pool has room for: soon exhausted."""


class Pooled:
    """A batch of sequences of one pool, as a value.

    >>> from kvattn.caches.rows import key_value
    >>> cache = Pooled.start(key_value(1, 1), 1, page=4)
    >>> longer = cache.append([np.ones((1, 1, 5, 1))] * 2)
    >>> cache.lengths, longer.lengths, sum(longer.pool.references)
    ((0,), (5,), 2)
    >>> pool = longer.pool
    >>> del cache, longer
    >>> pool.handles, sum(pool.references)
    ((), 0)
    """

    def __init__(self, pool: BlockPool[KeyValue], handles: Sequence[Handle]) -> None:
        self.pool, self._handles = pool, tuple(handles)
        weakref.finalize(self, _free, pool, self._handles).atexit = False

    @classmethod
    def start(cls, schema: Schema[KeyValue], batch: int, page: int, pool: Any = None) -> "Pooled":
        """Empty sequences in a pool, a new one unless it is given.

        >>> from kvattn.caches.rows import key_value
        >>> Pooled.start(key_value(1, 1), 2, page=4).lengths
        (0, 0)
        """
        blocks = max(3, _TOKENS // page) if page < BLOCK else 5
        pool = BlockPool(schema, blocks, page) if pool is None else pool
        return cls(pool, [pool.allocate() for _ in range(batch)])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.rows import key_value
        >>> Pooled.start(key_value(1, 1), 1, page=4).lengths
        (0,)
        """
        return tuple(self.pool.length(handle) for handle in self._handles)

    def append(self, rows: Any, counts: Any = None) -> "Pooled":
        """Fork, and add tokens to the forks.

        >>> from kvattn.caches.rows import key_value
        >>> cache = Pooled.start(key_value(1, 1), 2, page=4)
        >>> cache.append([np.ones((2, 1, 5, 1))] * 2, counts=[5, 2]).lengths
        (5, 2)
        """
        arrays, new = self.pool.schema.check(rows, len(self._handles))
        real = [new] * len(self._handles) if counts is None else read_counts(counts, len(self._handles), new)

        def write(b: int, handle: Handle) -> None:
            self.pool.append(handle, [x[b : b + 1, :, : real[b]] for x in arrays])

        return self._forked(range(len(self._handles)), write)

    def truncate(self, length: Any) -> "Pooled":
        """Fork, and cut the forks.

        >>> from kvattn.caches.rows import key_value
        >>> Pooled.start(key_value(1, 1), 1, page=4).append([np.ones((1, 1, 5, 1))] * 2).truncate(2).lengths
        (2,)
        """
        lengths = per_sequence("length", length, self.lengths)
        return self._forked(range(len(lengths)), lambda b, handle: self.pool.truncate(handle, lengths[b]))

    def select(self, indices: Any) -> "Pooled":
        """Forks of some sequences.

        >>> from kvattn.caches.rows import key_value
        >>> Pooled.start(key_value(1, 1), 1, page=4).select([0, 0]).lengths
        (0, 0)
        """
        if np.ndim(indices) != 1 or not len(indices):
            raise ArgumentError(f"indices must be a row of at least one sequence number, got {indices!r}")
        chosen = integers("indices", indices, 0)
        if max(chosen) >= len(self._handles):
            raise ArgumentError(f"indices must be below {len(self._handles)}, got {chosen}")
        return self._forked(chosen, lambda b, handle: None)

    def rows(self, *, sequence: int) -> KeyValue:
        """The rows of a sequence, ``[1, heads, length, width]``, copied and read-only.

        >>> from kvattn.caches.rows import key_value
        >>> Pooled.start(key_value(1, 1), 1, page=4).rows(sequence=0).k.shape
        (1, 1, 0, 1)
        """
        found = [np.array(x) for x in self.pool.rows(self._handles[sequence])]
        for array in found:
            array.flags.writeable = False
        return KeyValue(*found)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of the pool.

        >>> from kvattn.caches.rows import key_value
        >>> list(Pooled.start(key_value(1, 1), 1, page=32).footprint().values())  # 3 blocks of 32 tokens of 16 bytes
        [1536]
        """
        return self.pool.footprint()

    def _forked(self, chosen: Sequence[int], change: Callable[[int, Handle], None]) -> "Pooled":
        forks = [self.pool.fork(self._handles[i]) for i in chosen]
        try:
            for b, handle in enumerate(forks):
                change(b, handle)
        except ValueError:
            _free(self.pool, forks)
            raise
        return type(self)(self.pool, forks)


def _free(pool: BlockPool[KeyValue], handles: Sequence[Handle]) -> None:
    for handle in handles:
        pool.free(handle)
