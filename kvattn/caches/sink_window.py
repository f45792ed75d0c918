"""The first tokens and the last ones: a paged cache that forgets what lies between.

A query of a window of W sees W keys, itself included, so the next query needs the last W - 1 rows;
with sinks it needs the first few as well (Xiao et al. 2023, StreamingLLM, section 3.2).  `SinkWindow`
keeps both, and ``rollback`` rows more, so that many tokens can be taken back exactly.

What is forgotten, and when: `append` first forgets the rows that no query from the present length on,
nor from ``rollback`` tokens before it, can see; then it adds the new ones.  So while the tokens just
appended are computed, the first of them still finds everything in its window, however many came at
once.  Whole pages are released; rows that are forgotten but share a page with a row that is not stay
in `blocks`, where the mask hides them.  `remembered` and `truncate` do not depend on the page size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from kvattn.arguments import integer
from kvattn.caches.batches import per_sequence
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.paged import Paged
from kvattn.caches.rows import R, Schema, coming, read_places
from kvattn.errors import ArgumentError, RollbackError
from kvattn.typing import Positions


@dataclass(frozen=True, slots=True, eq=False)
class SinkWindow(Generic[R]):
    """A batch of sequences of which the first ``sinks`` and the last ``window - 1 + rollback`` tokens stay.

    Attributes
    ----------
    sinks
        Tokens at the start that are never forgotten; 0 for a plain sliding window.
    window
        Keys that a query sees, itself included.
    rollback
        How far `truncate` may go back behind the start of an append: once n tokens are there and
        more are added, every length from ``n - rollback`` on can be returned to.
    memory
        The rows, with holes.
    forgotten
        For each sequence the first slot behind the sinks that is remembered.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> cache = SinkWindow.start(latent(2), sinks=1, window=3, page=1)
    >>> for _ in range(6):
    ...     cache = cache.append([np.zeros((1, 1, 1, 2))])
    >>> cache.remembered(0), cache.nbytes == 4 * 16
    (array([0, 3, 4, 5]), True)
    """

    sinks: int
    window: int
    rollback: int
    memory: Paged[R]
    forgotten: tuple[int, ...]

    @classmethod
    def start(
        cls,
        schema: Schema[R],
        *,
        sinks: int,
        window: int,
        rollback: int = 0,
        batch: int = 1,
        page: int = BLOCK,
    ) -> "SinkWindow[R]":
        """The empty cache.

        Raises
        ------
        ArgumentError
            ``sinks`` or ``rollback`` below 0; ``window``, ``batch`` or ``page`` below 1.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=4, window=64, rollback=8).lengths
        (0,)
        """
        sinks, window, rollback = (
            integer("sinks", sinks, 0),
            integer("window", window, 1),
            integer("rollback", rollback, 0),
        )
        memory = Paged.start(schema, batch, page)
        return cls(sinks, window, rollback, memory, (sinks,) * memory.batch)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each sequence has seen, forgotten ones included.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2, batch=2).lengths
        (0, 0)
        """
        return self.memory.lengths

    @property
    def length(self) -> int:
        """Tokens that every sequence has seen.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2).length
        0
        """
        return self.memory.length

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2, batch=3).batch
        3
        """
        return self.memory.batch

    @property
    def earliest(self) -> tuple[int, ...]:
        """For each sequence the length down to which every `truncate` is possible.

        >>> from kvattn.caches.rows import latent
        >>> cache = SinkWindow.start(latent(2), sinks=0, window=3, rollback=2)
        >>> cache.append([np.zeros((1, 1, 8, 2))]).append([np.zeros((1, 1, 1, 2))]).earliest
        (6,)
        """
        return tuple(f + self.window - 1 if f > self.sinks else 0 for f in self.forgotten)

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token, which is its length: slots are positions here.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2).ends
        (0,)
        """
        return self.lengths

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2).coming(2)
        array([[0, 1]])
        """
        return coming(self.lengths, new)

    def append(self, rows: R | Sequence[Any], positions: Positions | None = None) -> "SinkWindow[R]":
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
            As `Paged.append`.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = SinkWindow.start(latent(2), sinks=0, window=2, page=1).append([np.zeros((1, 1, 5, 2))])
        >>> cache.append([np.zeros((1, 1, 2, 2))]).remembered(0)  # token 5 sees tokens 4 and 5
        array([4, 5, 6])
        """
        _, new = self.memory.schema.check(rows, self.batch)
        read_places(positions, self.ends, (new,) * self.batch, new, False)
        if not new:
            return self
        keep = self.window - 1 + self.rollback
        forgotten = tuple(max(f, n - keep) for f, n in zip(self.forgotten, self.lengths, strict=True))
        stops = [min(f, n) for f, n in zip(forgotten, self.lengths, strict=True)]
        return replace(self, memory=self.memory.release(self.sinks, stops).append(rows), forgotten=forgotten)

    def truncate(self, length: int | Sequence[int]) -> "SinkWindow[R]":
        """Go back to ``length`` tokens, exactly; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache has seen.
        RollbackError
            Below `earliest`: the next query would miss a row, or the length lies in a page that has been dropped.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = SinkWindow.start(latent(2), sinks=0, window=3, rollback=2)
        >>> cache = cache.append([np.zeros((1, 1, 8, 2))]).append([np.zeros((1, 1, 1, 2))])
        >>> cache.truncate(6).length
        6
        >>> cache.truncate(5)
        Traceback (most recent call last):
        kvattn.errors.RollbackError: length of sequence 0 must be at least 6, got 5: slots 0 .. 3 have been forgotten
        """
        lengths = per_sequence("length", length, self.lengths)
        for b, (n, least, f) in enumerate(zip(lengths, self.earliest, self.forgotten, strict=True)):
            if self.sinks < n < least:
                sinks = f" (or at most {self.sinks})" if self.sinks else ""
                raise RollbackError(
                    f"length of sequence {b} must be at least {least}{sinks}, got {n}: "
                    f"slots {self.sinks} .. {f - 1} have been forgotten"
                )
        forgotten = tuple(self.sinks if n <= self.sinks else f for n, f in zip(lengths, self.forgotten, strict=True))
        return replace(self, memory=self.memory.truncate(lengths), forgotten=forgotten)

    def select(self, indices: Sequence[int] | Positions) -> "SinkWindow[R]":
        """Reorder, repeat or drop sequences by reference.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2).select([0, 0]).lengths
        (0, 0)
        """
        memory = self.memory.select(indices)
        return replace(self, memory=memory, forgotten=tuple(self.forgotten[i] for i in indices))

    def branch(self) -> "SinkWindow[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import latent
        >>> cache = SinkWindow.start(latent(2), sinks=0, window=2)
        >>> cache.branch() is cache
        True
        """
        return self

    def remembered(self, sequence: int) -> Positions:
        """The slots of a sequence that are not forgotten, in order; the same for every page size.

        >>> from kvattn.caches.rows import latent
        >>> cache = SinkWindow.start(latent(2), sinks=1, window=2).append([np.zeros((1, 1, 6, 2))])
        >>> cache.append([np.zeros((1, 1, 1, 2))]).remembered(0)
        array([0, 5, 6])
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        slots = np.arange(self.lengths[sequence])
        return slots[(slots < self.sinks) | (slots >= self.forgotten[sequence])]

    def rows(self, sequence: int = 0) -> R:
        """The rows of `remembered`, ``[1, heads, rows, width]``, read-only.

        >>> from kvattn.caches.rows import latent
        >>> cache = SinkWindow.start(latent(1), sinks=1, window=2).append([np.arange(6.0).reshape(1, 1, 6, 1)])
        >>> cache.append([np.full((1, 1, 1, 1), 6.0)]).rows().latent.ravel()
        array([0., 5., 6.])
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        end = self.lengths[sequence]
        first = self.memory.rows(0, min(self.sinks, end), sequence=sequence)
        last = self.memory.rows(min(self.forgotten[sequence], end), end, sequence=sequence)
        joined = [np.concatenate(both, axis=2) for both in zip(first, last, strict=True)]
        for array in joined:
            array.flags.writeable = False
        return self.memory.schema.row(*joined)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks that hold anything, for the streaming softmax; the mask must be that of the sinks and window.

        >>> from kvattn.caches.rows import key_value
        >>> cache = SinkWindow.start(key_value(1, 2), sinks=1, window=2, page=1)
        >>> for _ in range(2):
        ...     cache = cache.append([np.ones((1, 1, 600, 2))] * 2)
        >>> [(block.start, block.key_count) for block in cache.blocks(0)]  # slots 0 and 599 .. 1199
        [(0, 1), (512, 169), (768, 256), (1024, 176)]
        """
        return self.memory.blocks(sequence)

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=1, window=2).flatten_into(Writer("cache", {}))["forgotten"]
        [1]
        """
        sizes = {"sinks": self.sinks, "window": self.window, "rollback": self.rollback}
        return {**sizes, "forgotten": [*self.forgotten], "memory": writer.inner(self.memory)}

    def rebuild_from(self, reader: Reader) -> "SinkWindow[R]":
        """Another cache of these sizes and this schema, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import latent
        >>> empty, writer = SinkWindow.start(latent(2), sinks=1, window=2), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays)).forgotten
        (1,)
        """
        reader.agree(sinks=self.sinks, window=self.window, rollback=self.rollback)
        memory: Paged[R] = reader.inner(reader.header["memory"], self.memory)
        forgotten, sinks = reader.each("forgotten", memory.batch), self.sinks
        for b, (first, length) in enumerate(zip(forgotten, memory.lengths, strict=True)):
            held = memory.held(b)
            if not sinks <= first <= max(sinks, length) or not (held[:sinks].all() and held[first:].all()):
                raise ArgumentError(f"forgotten[{b}] must lie before slots that are all held, got {first} of {length}")
        return replace(self, memory=memory, forgotten=forgotten)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2).footprint()
        {}
        """
        return self.memory.footprint()

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.rows import latent
        >>> SinkWindow.start(latent(2), sinks=0, window=2).nbytes
        0
        """
        return self.memory.nbytes
