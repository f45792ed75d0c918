"""Chunked local attention: a cache that holds the present chunk and begins anew at its border.

    first slot held  =  c · floor(n / c),      n tokens seen

A token sees its own chunk of c positions, so nothing of an earlier chunk is needed once a chunk is full: a query
that stands at a border sees itself alone.  What is older goes when the next tokens come, before they are added;
so T tokens that cross borders come together safely, and stay together until the next ones come.  ``rollback`` keeps
more: what the queries of the last ``rollback`` positions would need, which is nothing unless a border lies there.

How far `ChunkedLocal.truncate` goes back, exactly: to every length whose chunk is held, and to every border, where
nothing is needed at all.  Any other length is refused, never approximated.

Held per sequence: at most ``c + T - 1`` rows without rollback, T being the tokens of a step, and
``c + rollback + T - 1`` with it; whole pages, which need not end where chunks do.

Source: Llama 4 (Meta 2025, model card and released code: ``attention_chunk_size``); the mask is
`kvattn.masks.chunked`.
Where libraries differ: mlx-lm's ChunkedKVCache was trimmed by the length of its padded buffer and lost tokens
(mlx-lm #1673); with left padding some count chunks from the first real token, here from position 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from kvattn.arguments import integer
from kvattn.caches._tail import Tail
from kvattn.caches.accounting import live_bytes
from kvattn.caches.batches import one_length, per_sequence
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.rows import R, Schema, coming, read_places
from kvattn.caches.tables import RawBlock
from kvattn.errors import RollbackError
from kvattn.typing import Positions


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedLocal(Generic[R]):
    """A batch of sequences of which the present chunk is held; make one with `ChunkedLocal.start`.

    Attributes
    ----------
    size
        c, positions in a chunk.
    rollback
        How far `truncate` may always go back behind the start of an append.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> cache = ChunkedLocal.start(latent(1), size=4, page=2)
    >>> for token in range(7):
    ...     cache = cache.append([np.full((1, 1, 1, 1), float(token))])
    >>> cache, cache.rows().latent.ravel()
    (ChunkedLocal(Latent, size=4, rollback=0, lengths=(7,)), array([4., 5., 6.]))
    >>> cache.truncate(5).remembered(0), cache.truncate(4).remembered(0)
    (array([4]), array([], dtype=int64))
    >>> cache.truncate(3)
    Traceback (most recent call last):
    kvattn.errors.RollbackError: length of sequence 0 must be at least 4, or a border of chunks of 4, got 3: \
slots 0 .. 3 have been forgotten
    """

    size: int
    rollback: int
    _tail: Tail[R] = field(repr=False)

    @classmethod
    def start(
        cls, schema: Schema[R], *, size: int, rollback: int = 0, batch: int = 1, page: int = BLOCK
    ) -> "ChunkedLocal[R]":
        """The empty cache.

        Raises
        ------
        ArgumentError
            ``rollback`` below 0; ``size``, ``batch`` or ``page`` below 1; a placed schema.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=8192)
        ChunkedLocal(Latent, size=8192, rollback=0, lengths=(0,))
        """
        size, rollback = integer("size", size, 1), integer("rollback", rollback, 0)
        return cls(size, rollback, Tail.start(schema, batch, page))

    def __repr__(self) -> str:
        return f"ChunkedLocal({self.schema.name}, size={self.size}, rollback={self.rollback}, lengths={self.lengths})"

    @property
    def schema(self) -> Schema[R]:
        """What a token stores.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=4).schema.name
        'Latent'
        """
        return self._tail.schema

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each sequence has seen, forgotten ones included.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2, batch=2).append([np.zeros((2, 1, 9, 2))]).lengths
        (9, 9)
        """
        return self._tail.lengths

    @property
    def length(self) -> int:
        """Tokens that every sequence has seen.

        Raises
        ------
        ArgumentError
            The sequences differ in length.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2).length
        0
        """
        return one_length(self.lengths)

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2, batch=3).batch
        3
        """
        return len(self.lengths)

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token, which is its length: slots are positions here.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2).ends
        (0,)
        """
        return self.lengths

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2).coming(2)
        array([[0, 1]])
        """
        return coming(self.lengths, new)

    def append(self, rows: R | Sequence[Any], positions: Positions | None = None) -> "ChunkedLocal[R]":
        """Forget the chunks that no query from here on can see, then add T >= 0 tokens to every sequence.

        Parameters
        ----------
        rows
            ``[B, heads, T, width]`` per field.
        positions
            ``[B, T]``, those of `coming`; a layer says them, and they are checked.

        Raises
        ------
        ShapeError, DtypeError, PositionError
            As `kvattn.caches.paged.Paged.append`.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = ChunkedLocal.start(latent(2), size=4).append([np.zeros((1, 1, 6, 2))])
        >>> cache.append([np.zeros((1, 1, 3, 2))]).remembered(0)  # tokens 6 and 7 see 4 and 5, token 8 sees itself
        array([4, 5, 6, 7, 8])
        """
        _, new = self.schema.check(rows, self.batch)
        read_places(positions, self.ends, (new,) * self.batch, new, False)
        if not new:
            return self
        starts = [
            max(start, max(0, n - self.rollback) // self.size * self.size)
            for start, n in zip(self._tail.starts, self.lengths, strict=True)
        ]
        return replace(self, _tail=self._tail.append(rows, starts))

    def truncate(self, length: int | Sequence[int]) -> "ChunkedLocal[R]":
        """Go back to ``length`` tokens, exactly; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache has seen.
        RollbackError
            A length inside a chunk that has been forgotten.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = ChunkedLocal.start(latent(2), size=4, rollback=2).append([np.zeros((1, 1, 4, 2))])
        >>> cache.append([np.zeros((1, 1, 1, 2))]).truncate(3).remembered(0)
        array([0, 1, 2])
        """
        lengths = per_sequence("length", length, self.lengths)
        for b, (n, start) in enumerate(zip(lengths, self._tail.starts, strict=True)):
            if n < start and n % self.size:
                raise RollbackError(
                    f"length of sequence {b} must be at least {start}, or a border of chunks of {self.size}, got {n}: "
                    f"slots 0 .. {start - 1} have been forgotten"
                )
        return replace(self, _tail=self._tail.truncate(lengths))

    def select(self, indices: Sequence[int] | Positions) -> "ChunkedLocal[R]":
        """Reorder, repeat or drop sequences by reference.

        Raises
        ------
        ArgumentError
            No index, or one that is not a sequence's number.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2, batch=2).select([1, 0, 0]).lengths
        (0, 0, 0)
        """
        return replace(self, _tail=self._tail.select(indices))

    def branch(self) -> "ChunkedLocal[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import latent
        >>> cache = ChunkedLocal.start(latent(2), size=2)
        >>> cache.branch() is cache
        True
        """
        return self

    def remembered(self, sequence: int) -> Positions:
        """The slots that are held, in order; here they are also the positions.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2).append([np.zeros((1, 1, 3, 2))]).remembered(0)
        array([0, 1, 2])
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        return np.arange(self._tail.starts[sequence], self.lengths[sequence])

    def rows(self, *, sequence: int = 0) -> R:
        """The rows of `remembered`, ``[1, heads, rows, width]``, read-only.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2).append([np.zeros((1, 1, 3, 2))]).rows().latent.shape
        (1, 1, 3, 2)
        """
        return self._tail.rows(integer("sequence", sequence, 0, self.batch - 1))

    def raw_blocks(self, sequence: int) -> tuple[RawBlock, ...]:
        """The blocks of 256 slots that hold anything, in storage layout, read-only.

        >>> from kvattn.caches.rows import latent
        >>> cache = ChunkedLocal.start(latent(2), size=2).append([np.ones((1, 1, 300, 2))])
        >>> [block.key_count for block in cache.raw_blocks(0)]
        [256, 44]
        """
        return self._tail.raw_blocks(integer("sequence", sequence, 0, self.batch - 1))

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence as the streaming softmax takes them: what `remembered` names and nothing else.

        Raises
        ------
        ArgumentError
            A schema without keys ``k`` and values ``v``, or a sequence that does not exist.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> cache = ChunkedLocal.start(key_value(1, 2), size=2).append([np.ones((1, 1, 600, 2))] * 2)
        >>> [(b.start, b.key_count) for b in cache.append([np.ones((1, 1, 1, 2))] * 2).blocks(0)]
        [(512, 1)]
        """
        return self._tail.blocks(integer("sequence", sequence, 0, self.batch - 1))

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: the rows of `remembered` and nothing else.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=4).flatten_into(Writer("cache", {}))["size"]
        4
        """
        return {"size": self.size, "rollback": self.rollback, "tail": writer.inner(self._tail)}

    def rebuild_from(self, reader: Reader) -> "ChunkedLocal[R]":
        """Another cache of these sizes and this schema, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import latent
        >>> empty, writer = ChunkedLocal.start(latent(2), size=4), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays))
        ChunkedLocal(Latent, size=4, rollback=0, lengths=(0,))
        """
        reader.agree(size=self.size, rollback=self.rollback)
        return replace(self, _tail=reader.inner(reader.header["tail"], self._tail))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> from kvattn.caches.rows import latent
        >>> list(ChunkedLocal.start(latent(2), size=2, page=4).append([np.ones((1, 1, 3, 2))]).footprint().values())
        [64]
        """
        return self._tail.footprint()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.rows import latent
        >>> ChunkedLocal.start(latent(2), size=2, page=4).append([np.ones((1, 1, 5, 2))]).nbytes
        128
        """
        return live_bytes(self)
