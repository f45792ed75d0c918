"""One growing buffer for each sequence: what most engines began with, as a value.

A buffer has room for ``room · 2^k`` tokens.  When the next ones do not fit it is doubled, as often as needed, and
the rows are copied once:

    capacity = room · 2^k,  the least that holds all;      rows copied in all  <  2 · rows appended

Nothing is written over.  Tokens go behind the end of a buffer that nobody else has extended; where somebody has,
or where a rollback has left rows behind the end, the whole buffer is copied first: that is what a table of pages
saves (`kvattn.caches.paged`, which copies one page).  `Contiguous.truncate`, `Contiguous.branch` and
`Contiguous.select` copy nothing and give no memory back.

Bytes: `Contiguous.nbytes` is what is allocated, ``capacity`` rows whether filled or not; `Contiguous.padded` is the
part of it that holds no row of this value: less than half once a buffer has been doubled, more behind a rollback.

Source: doubling and its amortised cost are textbook (Cormen et al., Introduction to Algorithms, dynamic tables).
Where libraries differ: mlx-lm's KVCache grows by the least multiple of 256 tokens that fits and copies all rows
then, so that its cost is quadratic in the end; transformers' DynamicCache concatenates at every token, its
StaticCache has a buffer that never grows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.caches._apart import Used, apart, together
from kvattn.caches.accounting import live_bytes
from kvattn.caches.batches import one_length, per_sequence, picked
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer, described
from kvattn.caches.pages import Page
from kvattn.caches.rows import R, Schema, coming, read_counts, read_places
from kvattn.caches.tables import RawBlock, key_blocks, raw_blocks
from kvattn.caches.vectors import Vector
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.typing import Array, Positions


@dataclass(frozen=True, slots=True, eq=False)
class Contiguous(Generic[R]):
    """A batch of sequences, each in a buffer of its own; make one with `Contiguous.start`.

    Attributes
    ----------
    schema
        What a token stores.
    room
        Tokens that the first buffer of a sequence has room for.
    lengths
        Tokens of each sequence.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> cache = Contiguous.start(latent(2), room=4).append([np.ones((1, 1, 4, 2))])
    >>> longer = cache.append([np.ones((1, 1, 1, 2))])
    >>> cache.capacities, longer.capacities, longer
    ((4,), (8,), Contiguous(Latent, room=4, lengths=(5,)))
    """

    schema: Schema[R]
    room: int
    lengths: tuple[int, ...]
    _buffers: tuple[Page | None, ...] = field(repr=False)

    @classmethod
    def start(cls, schema: Schema[R], batch: int = 1, room: int = BLOCK) -> "Contiguous[R]":
        """The empty cache; nothing is allocated before tokens come.

        Raises
        ------
        ArgumentError
            Batch or room below 1, or a placed schema.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(3), batch=2, room=8)
        Contiguous(Latent, room=8, lengths=(0, 0))
        """
        batch, room = integer("batch", batch, 1), integer("room", room, 1)
        if schema.placed:
            raise ArgumentError(
                f"schema must not be placed, since slots are positions here, got a placed {schema.name}"
            )
        return cls(schema, room, (0,) * batch, (None,) * batch)

    def __repr__(self) -> str:
        return f"Contiguous({self.schema.name}, room={self.room}, lengths={self.lengths})"

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(3), batch=2).batch
        2
        """
        return len(self.lengths)

    @property
    def length(self) -> int:
        """Tokens of every sequence.

        Raises
        ------
        ArgumentError
            The sequences differ in length.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(3)).length
        0
        """
        return one_length(self.lengths)

    @property
    def capacities(self) -> tuple[int, ...]:
        """Tokens that each sequence's buffer has room for.

        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(3), room=3).append([np.ones((1, 1, 7, 3))]).capacities
        (12,)
        """
        return tuple(0 if buffer is None else buffer.size for buffer in self._buffers)

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token, which is its length: slots are positions here.

        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2)).ends
        (0,)
        """
        return self.lengths

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2)).coming(2)
        array([[0, 1]])
        """
        return coming(self.lengths, new)

    def append(
        self,
        rows: R | Sequence[Any],
        positions: Positions | None = None,
        counts: Sequence[int] | Positions | None = None,
    ) -> "Contiguous[R]":
        """Add tokens to every sequence.

        Parameters
        ----------
        rows
            One array ``[B, heads, T, width]`` per field, T >= 0; copied, never cast.
        positions
            ``[B, T]``, those of `coming`; a layer says them, and they are checked.
        counts
            ``[B]``, how many of the T tokens of each sequence are real; those behind them are not kept.

        Raises
        ------
        ShapeError, DtypeError, PositionError
            As `kvattn.caches.paged.Paged.append`.
        ArgumentError
            A count outside ``0 .. T``.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Contiguous.start(latent(2), batch=2)
        >>> cache.append([np.ones((2, 1, 3, 2))], counts=[3, 1]).lengths
        (3, 1)
        """
        arrays, new = self.schema.check(rows, self.batch)
        real = (new,) * self.batch if counts is None else read_counts(counts, self.batch, new)
        read_places(positions, self.ends, real, new, False)
        if not any(real):
            return self
        buffers, copied = [], 0
        for b, (buffer, length, n) in enumerate(zip(self._buffers, self.lengths, real, strict=True)):
            longer, more = self._extended(buffer, length, [x[b, :, :n] for x in arrays]) if n else (buffer, 0)
            buffers.append(longer)
            copied += more
        charge(Tally(kv_written=sum(real) * self.schema.nbytes, kv_copied=copied * self.schema.nbytes))
        lengths = tuple(length + n for length, n in zip(self.lengths, real, strict=True))
        return replace(self, lengths=lengths, _buffers=tuple(buffers))

    def _extended(self, buffer: Page | None, length: int, rows: Sequence[Array]) -> tuple[Page, int]:
        """A buffer with rows behind slot ``length - 1``, and how many rows had to be copied."""
        stop, copied = length + rows[0].shape[1], 0
        size = self.room if buffer is None else buffer.size
        if buffer is None or stop > size or not buffer.claim(length, stop):
            size = _doubled(size, stop)
            twin = Page(self.schema, size)
            twin.claim(0, stop)
            if buffer is not None:
                twin.write(0, buffer.read(0, length))
                copied = length
            buffer = twin
        buffer.write(length, rows)
        return buffer, copied

    def append_cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What appending writes, copies and allocates, in closed form, for buffers that have only grown.

        Parameters
        ----------
        past, new
            Tokens already held and tokens appended, per sequence.
        batch
            Number of sequences.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2), room=4).append_cost(past=4, new=1)
        Tally(kv_written=16, kv_copied=64, cache_live=128, cache_peak=128)
        """
        nbytes = batch * self.schema.nbytes
        held = _doubled(self.room, past) if past else 0
        if not new or past + new <= held:
            return Tally(kv_written=new * nbytes)
        opened = _doubled(self.room, past + new) * nbytes
        return Tally(kv_written=new * nbytes, kv_copied=past * nbytes, cache_live=opened, cache_peak=opened)

    def truncate(self, length: int | Sequence[int]) -> "Contiguous[R]":
        """Forget everything from slot ``length`` on; one number, or one for each sequence.  Buffers stay as they are.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache holds.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Contiguous.start(latent(2), batch=2).append([np.zeros((2, 1, 3, 2))])
        >>> cache.truncate(1).lengths, cache.truncate([0, 2]).lengths
        ((1, 1), (0, 2))
        """
        return replace(self, lengths=per_sequence("length", length, self.lengths))

    def branch(self) -> "Contiguous[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import latent
        >>> cache = Contiguous.start(latent(2))
        >>> cache.branch() is cache
        True
        """
        return self

    def select(self, indices: Sequence[int] | Positions) -> "Contiguous[R]":
        """Reorder, repeat or drop sequences; buffers are shared until one of them grows.

        Raises
        ------
        ArgumentError
            No index, or one that is not a sequence's number.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2), batch=2).append([np.zeros((2, 1, 5, 2))]).truncate([1, 2]).select([1, 1, 0])
        Contiguous(Latent, room=256, lengths=(2, 2, 1))
        """
        chosen = picked(indices, self.batch)
        lengths = tuple(self.lengths[i] for i in chosen)
        return replace(self, lengths=lengths, _buffers=tuple(self._buffers[i] for i in chosen))

    def rows(self, *, sequence: int | None = None) -> R:
        """The rows, ``[B, heads, length, width]``, copied and read-only.

        Parameters
        ----------
        sequence
            Only this sequence, as a batch of one: needed where lengths differ.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2)).append([np.zeros((1, 1, 5, 2))]).rows().latent.shape
        (1, 1, 5, 2)
        """
        chosen = range(self.batch) if sequence is None else [integer("sequence", sequence, 0, self.batch - 1)]
        length = self.length if sequence is None else self.lengths[sequence]
        out = [np.empty((len(chosen), f.heads, length, f.width), f.dtype) for f in self.schema.fields]
        for n, b in enumerate(chosen):
            buffer = self._buffers[b]
            if buffer is not None:
                for target, held in zip(out, buffer.read(0, length), strict=True):
                    target[n] = held
        for target in out:
            target.flags.writeable = False
        return self.schema.row(*out)

    def raw_blocks(self, sequence: int) -> tuple[RawBlock, ...]:
        """The blocks of 256 slots that hold anything, in storage layout, read-only; each is copied out of the buffer.

        >>> from kvattn.caches.rows import latent
        >>> cache = Contiguous.start(latent(2)).append([np.ones((1, 1, 300, 2))])
        >>> [(block.start, block.key_count) for block in cache.raw_blocks(0)]
        [(0, 256), (256, 44)]
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        buffer, length = self._buffers[sequence], self.lengths[sequence]
        return () if buffer is None else raw_blocks(self.schema, buffer.size, Vector.of([buffer]), length)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence as the streaming softmax takes them; the schema needs fields k and v.

        Raises
        ------
        ArgumentError
            A schema without keys ``k`` and values ``v``, or a sequence that does not exist.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> cache = Contiguous.start(key_value(1, 2)).append([np.ones((1, 1, 300, 2))] * 2)
        >>> [(block.start, block.key_count) for block in cache.blocks(0)]
        [(0, 256), (256, 44)]
        """
        return key_blocks(self.schema, self.raw_blocks(sequence))

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: buffers, how large they are and how many rows count.

        >>> from kvattn.caches.rows import latent
        >>> cache = Contiguous.start(latent(2), room=4).append([np.ones((1, 1, 5, 2))]).select([0, 0])
        >>> header = cache.flatten_into(Writer("cache", {}))
        >>> header["buffers"], header["capacities"], header["counts"]
        ([0, 0], [8], [5])
        """
        pairs = zip(self._buffers, self.lengths, strict=True)
        found = apart([Used(buffer, 0, length)] for buffer, length in pairs)
        writer.rows(self.schema, found.rows())
        return {
            "schema": described(self.schema),
            "room": self.room,
            "lengths": [*self.lengths],
            "buffers": [number for (number,) in found.tables],
            "capacities": [buffer.size for buffer, _, _ in found.pages if buffer is not None],
            "counts": [high for _, _, high in found.pages],
        }

    def rebuild_from(self, reader: Reader) -> "Contiguous[R]":
        """Another cache of this schema, in buffers of its own, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import latent
        >>> empty, writer = Contiguous.start(latent(2), room=4), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays))
        Contiguous(Latent, room=4, lengths=(0,))
        """
        reader.fits(self.schema)
        header = reader.header
        room, lengths = integer("room", header["room"], 1), integers("lengths", header["lengths"], 0)
        capacities, counts = ([integer(name, n, 0) for n in header[name]] for name in ("capacities", "counts"))
        numbers = [integer("buffers", number, -1, len(capacities) - 1) for number in header["buffers"]]
        if len(numbers) != len(lengths) or len(counts) != len(capacities):
            raise ArgumentError(
                f"header must hold a buffer for each of {len(lengths)} sequences, and a count for each of "
                f"{len(capacities)} buffers, got {len(numbers)} and {len(counts)}"
            )
        for b, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
            held, size = (counts[number], capacities[number]) if number >= 0 else (0, 0)
            if not length <= held <= size or (size and size != _doubled(room, size)):
                raise ArgumentError(
                    f"buffers[{b}] must be one with {length} rows, of {room} doubled, got {held} in a room of {size}"
                )
        rows = reader.rows(self.schema, counts)
        made = [together(self.schema, size, 0, piece) for size, piece in zip(capacities, rows, strict=True)]
        return replace(self, room=room, lengths=lengths, _buffers=tuple(made[n] if n >= 0 else None for n in numbers))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every buffer held, each once.

        >>> from kvattn.caches.rows import latent
        >>> list(Contiguous.start(latent(2), room=4).append([np.ones((1, 1, 5, 2))]).footprint().values())
        [128]
        """
        return {buffer.serial: buffer.nbytes for buffer in self._buffers if buffer is not None}

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared buffers once.

        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2), room=4).append([np.ones((1, 1, 5, 2))]).nbytes
        128
        """
        return live_bytes(self)

    @property
    def padded(self) -> int:
        """Bytes allocated that hold no row of this value.

        >>> from kvattn.caches.rows import latent
        >>> Contiguous.start(latent(2), room=4).append([np.ones((1, 1, 5, 2))]).padded
        48
        """
        used: dict[int, int] = {}
        for buffer, length in zip(self._buffers, self.lengths, strict=True):
            if buffer is not None:
                used[buffer.serial] = max(length, used.get(buffer.serial, 0))
        return self.nbytes - sum(used.values()) * self.schema.nbytes


def _doubled(size: int, least: int) -> int:
    """The size doubled until it holds ``least`` tokens."""
    return size << max(0, (-(-least // size) - 1).bit_length())
