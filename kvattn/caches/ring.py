"""The sliding-window ring: room for the last tokens only, and a stated number of them can be taken back.

A query of a window of W sees W keys, itself included.  So T new tokens need the W - 1 rows before the first of
them, and T of their own; ``rollback`` rows more let `Ring.truncate` go back that far, exactly:

    held = W - 1 + rollback + T

What is older goes when the next tokens come, before they are added, and never after: a ring that keeps W rows in
all hides from the first of T tokens what it may still see.  Rows lie at their absolute slots, which are their
positions, so a layer with ``Causal() & Window(W)`` over a ring computes the same bits as over a cache that keeps
everything.

An engine writes the newest row over the oldest.  A value must not, since older values still read it: here the
ring moves on by whole pages, and the oldest lives as long as some value holds it.  Pages held stay below
``(held - 1) / page + 2`` however long the sequence, and so does the table of them: nothing marks what is gone
(`kvattn.caches.sink_window` keeps the first tokens too, and a hole for every page between).

Source: the rolling buffer is Jiang et al. 2023 (Mistral 7B, 2310.06825) section 2.
Where libraries differ: transformers' DynamicSlidingWindowLayer keeps W - 1 rows between steps; once it is full it
can be cropped only where past recording was switched on, and then keeps all rows until it is cropped.  mlx-lm's
RotatingKVCache keeps W, holds W + T - 1 after a step of T > 1, and can be trimmed only until it is full.
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
class Ring(Generic[R]):
    """A batch of sequences of which the last tokens are held; make one with `Ring.start`.

    Attributes
    ----------
    window
        Keys that a query sees, itself included.
    rollback
        How far `truncate` may go back behind the start of an append: once n tokens are there and more are added,
        every length from ``n - rollback`` on can be returned to.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> cache = Ring.start(latent(1), window=3, rollback=1, page=2)
    >>> for token in range(9):
    ...     cache = cache.append([np.full((1, 1, 1, 1), float(token))])
    >>> cache, cache.rows().latent.ravel()
    (Ring(Latent, window=3, rollback=1, lengths=(9,)), array([5., 6., 7., 8.]))
    >>> cache.truncate(7).remembered(0)  # the next query stands at 7 and sees 5, 6 and itself
    array([5, 6])
    >>> cache.truncate(6)
    Traceback (most recent call last):
    kvattn.errors.RollbackError: length of sequence 0 must be at least 7, or 0, got 6: slots 0 .. 4 have been forgotten
    """

    window: int
    rollback: int
    _tail: Tail[R] = field(repr=False)

    @classmethod
    def start(
        cls, schema: Schema[R], *, window: int, rollback: int = 0, batch: int = 1, page: int = BLOCK
    ) -> "Ring[R]":
        """The empty cache.

        Raises
        ------
        ArgumentError
            ``rollback`` below 0; ``window``, ``batch`` or ``page`` below 1; a placed schema.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=64, rollback=8)
        Ring(Latent, window=64, rollback=8, lengths=(0,))
        """
        window, rollback = integer("window", window, 1), integer("rollback", rollback, 0)
        return cls(window, rollback, Tail.start(schema, batch, page))

    def __repr__(self) -> str:
        return f"Ring({self.schema.name}, window={self.window}, rollback={self.rollback}, lengths={self.lengths})"

    @property
    def schema(self) -> Schema[R]:
        """What a token stores.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=4).schema.name
        'Latent'
        """
        return self._tail.schema

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each sequence has seen, forgotten ones included.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2, batch=2).append([np.zeros((2, 1, 9, 2))]).lengths
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
        >>> Ring.start(latent(2), window=2).length
        0
        """
        return one_length(self.lengths)

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2, batch=3).batch
        3
        """
        return len(self.lengths)

    @property
    def earliest(self) -> tuple[int, ...]:
        """For each sequence the length down to which every `truncate` is possible.

        >>> from kvattn.caches.rows import latent
        >>> cache = Ring.start(latent(2), window=3, rollback=2)
        >>> cache.append([np.zeros((1, 1, 8, 2))]).append([np.zeros((1, 1, 1, 2))]).earliest
        (6,)
        """
        return tuple(start + self.window - 1 if start and self.window > 1 else 0 for start in self._tail.starts)

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token, which is its length: slots are positions here.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2).ends
        (0,)
        """
        return self.lengths

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2).coming(2)
        array([[0, 1]])
        """
        return coming(self.lengths, new)

    def append(self, rows: R | Sequence[Any], positions: Positions | None = None) -> "Ring[R]":
        """Forget what no query from here on can see, then add T >= 0 tokens to every sequence.

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
        >>> cache = Ring.start(latent(2), window=2).append([np.zeros((1, 1, 5, 2))])
        >>> cache.append([np.zeros((1, 1, 2, 2))]).remembered(0)  # token 5 sees tokens 4 and 5
        array([4, 5, 6])
        """
        _, new = self.schema.check(rows, self.batch)
        read_places(positions, self.ends, (new,) * self.batch, new, False)
        if not new:
            return self
        keep = self.window - 1 + self.rollback
        starts = [max(start, n - keep) for start, n in zip(self._tail.starts, self.lengths, strict=True)]
        return replace(self, _tail=self._tail.append(rows, starts))

    def truncate(self, length: int | Sequence[int]) -> "Ring[R]":
        """Go back to ``length`` tokens, exactly; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache has seen.
        RollbackError
            The next query would miss a row that has been forgotten.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Ring.start(latent(2), window=3, rollback=2)
        >>> cache.append([np.zeros((1, 1, 8, 2))]).append([np.zeros((1, 1, 1, 2))]).truncate(6).length
        6
        """
        lengths = per_sequence("length", length, self.lengths)
        for b, (n, least) in enumerate(zip(lengths, self.earliest, strict=True)):
            if 0 < n < least:
                raise RollbackError(
                    f"length of sequence {b} must be at least {least}, or 0, got {n}: "
                    f"slots 0 .. {self._tail.starts[b] - 1} have been forgotten"
                )
        return replace(self, _tail=self._tail.truncate(lengths))

    def select(self, indices: Sequence[int] | Positions) -> "Ring[R]":
        """Reorder, repeat or drop sequences by reference.

        Raises
        ------
        ArgumentError
            No index, or one that is not a sequence's number.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2, batch=2).select([1, 0, 0]).lengths
        (0, 0, 0)
        """
        return replace(self, _tail=self._tail.select(indices))

    def branch(self) -> "Ring[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import latent
        >>> cache = Ring.start(latent(2), window=2)
        >>> cache.branch() is cache
        True
        """
        return self

    def remembered(self, sequence: int) -> Positions:
        """The slots that are held, in order; in a ring they are also the positions.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2).append([np.zeros((1, 1, 3, 2))]).remembered(0)
        array([0, 1, 2])
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        return np.arange(self._tail.starts[sequence], self.lengths[sequence])

    def rows(self, *, sequence: int = 0) -> R:
        """The rows of `remembered`, ``[1, heads, rows, width]``, read-only.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2).append([np.zeros((1, 1, 3, 2))]).rows().latent.shape
        (1, 1, 3, 2)
        """
        return self._tail.rows(integer("sequence", sequence, 0, self.batch - 1))

    def raw_blocks(self, sequence: int) -> tuple[RawBlock, ...]:
        """The blocks of 256 slots that hold anything, in storage layout, read-only.

        >>> from kvattn.caches.rows import latent
        >>> [
        ...     block.key_count
        ...     for block in Ring.start(latent(2), window=2).append([np.ones((1, 1, 300, 2))]).raw_blocks(0)
        ... ]
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
        >>> cache = Ring.start(key_value(1, 2), window=2).append([np.ones((1, 1, 600, 2))] * 2)
        >>> [(b.start, b.key_count) for b in cache.append([np.ones((1, 1, 1, 2))] * 2).blocks(0)]
        [(512, 2)]
        """
        return self._tail.blocks(integer("sequence", sequence, 0, self.batch - 1))

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: the rows of `remembered` and nothing else.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=4).flatten_into(Writer("cache", {}))["window"]
        4
        """
        return {"window": self.window, "rollback": self.rollback, "tail": writer.inner(self._tail)}

    def rebuild_from(self, reader: Reader) -> "Ring[R]":
        """Another cache of these sizes and this schema, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import latent
        >>> empty, writer = Ring.start(latent(2), window=4), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays))
        Ring(Latent, window=4, rollback=0, lengths=(0,))
        """
        reader.agree(window=self.window, rollback=self.rollback)
        return replace(self, _tail=reader.inner(reader.header["tail"], self._tail))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> from kvattn.caches.rows import latent
        >>> list(Ring.start(latent(2), window=2, page=4).append([np.ones((1, 1, 3, 2))]).footprint().values())
        [64]
        """
        return self._tail.footprint()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.rows import latent
        >>> Ring.start(latent(2), window=2, page=4).append([np.ones((1, 1, 5, 2))]).nbytes
        128
        """
        return live_bytes(self)
