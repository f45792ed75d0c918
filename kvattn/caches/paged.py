"""The persistent paged cache: an immutable value, a table of shared pages for each sequence.

No operation changes a cache; each returns another one that shares its pages, and old values stay
valid for ever.  `Paged.append` writes into free room behind the end of a page as long as nobody
else has extended it, and copies that one page otherwise (copy-on-write).  `Paged.truncate`,
`Paged.branch`, `Paged.select`, `Paged.repeat`, `Paged.merge`, `Paged.split` and `Paged.release` copy
no row: they only pick pages.  `Paged.commit`, `Paged.evict` and `Paged.shift` move rows: they share
the pages before the first slot that changes and write the others again.

Slots count from 0 in order of arrival, and a token's slot is its position.  Where the schema is
`kvattn.caches.rows.placed` every token keeps a position of its own.  Writing is charged as
``kv_written``, copying and moving as ``kv_copied``, a page as ``cache_live`` while anybody holds it;
reading is charged by whoever reads.  An operation that is refused has written nothing.  Two threads
may extend the same value: one gets the room, one a copy.

Cost: with n tokens in pages of p, branch is free; append copies at most one page and one path of
pointers, ``32 · ceil(log32(n / p))``, for each sequence; truncate a path; select, repeat, merge and
split one reference for each sequence.

Source: the table of pages is Kwon et al. 2023 (PagedAttention), section 4; sharing between
immutable values is Driscoll et al. 1989 (persistent data structures), section 2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Generic, cast

import numpy as np

from kvattn.arguments import integer, integers, shown
from kvattn.caches import _cutting as cutting
from kvattn.caches import moving, shifting
from kvattn.caches._apart import Used, apart
from kvattn.caches.accounting import live_bytes
from kvattn.caches.batches import one_length, per_sequence, picked
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.paged_parts import PagedParts, checked, header_of, read, tables_of
from kvattn.caches.rows import R, Schema, coming, read_counts, read_places
from kvattn.caches.tables import RawBlock, Table, extend, gather, key_blocks, raw_blocks
from kvattn.caches.vectors import Vector
from kvattn.counting import Tally, charge, is_counting
from kvattn.errors import ArgumentError
from kvattn.typing import Array, Positions, Visible


@dataclass(frozen=True, slots=True, eq=False)
class Paged(Generic[R]):
    """A batch of sequences, each a table of pages; make one with `Paged.start`.

    Attributes
    ----------
    schema
        What a token stores.
    page
        Tokens per page; 256 lets full blocks be read without a copy.
    lengths
        Tokens of each sequence.
    ends
        The position behind each sequence's last token: where the next one stands unless it is told otherwise.
        Without a placed schema these are the lengths.

    Examples
    --------
    >>> from kvattn.caches.rows import KeyValue, key_value
    >>> empty = Paged.start(key_value(heads=2, width=4), page=16)
    >>> cache = empty.append(KeyValue(np.ones((1, 2, 5, 4)), np.ones((1, 2, 5, 4))))
    >>> cache
    Paged(KeyValue, page=16, lengths=(5,))
    >>> cache.truncate(3).length, cache.length, empty.length
    (3, 5, 0)
    """

    schema: Schema[R]
    page: int
    lengths: tuple[int, ...]
    ends: tuple[int, ...]
    _marks: tuple[tuple[int, int], ...] = field(repr=False)  # a length, and the end there where no token says it
    _tables: tuple[Table, ...] = field(repr=False)

    @classmethod
    def start(cls, schema: Schema[R], batch: int = 1, page: int = BLOCK) -> "Paged[R]":
        """The empty cache.

        Raises
        ------
        ArgumentError
            Batch or page size below 1.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(3), batch=2, page=8)
        Paged(Latent, page=8, lengths=(0, 0))
        """
        batch, page = integer("batch", batch, 1), integer("page", page, 1)
        return cls(schema, page, (0,) * batch, (0,) * batch, ((0, 0),) * batch, (Vector(),) * batch)

    def __repr__(self) -> str:
        ends = f", ends={self.ends}" if self.schema.placed else ""
        return f"Paged({self.schema.name}, page={self.page}, lengths={self.lengths}{ends})"

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(3), batch=2).batch
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
        >>> Paged.start(latent(3)).length
        0
        """
        return one_length(self.lengths)

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2), batch=2).append([np.zeros((2, 1, 3, 2))], counts=[3, 1]).coming(2)
        array([[3, 4],
               [1, 2]])
        """
        return coming(self.ends, new)

    def append(
        self,
        rows: R | Sequence[Any],
        positions: Positions | None = None,
        counts: Sequence[int] | Positions | None = None,
    ) -> "Paged[R]":
        """Add tokens to every sequence.

        Parameters
        ----------
        rows
            One array ``[B, heads, T, width]`` per field, T >= 0; copied, never cast.
        positions
            ``[B, T]``; those of `coming` unless given.  Others need a placed schema.
        counts
            ``[B]``, how many of the T tokens of each sequence are real, the others being padding behind them, which
            is not kept and may hold anything; all T unless given.  `kvattn.caches.rows.left_aligned` turns rows
            whose padding stands in front.

        Raises
        ------
        ShapeError
            Missing fields, wrong rank, or sizes other than the schema's and the batch's.
        DtypeError
            A dtype other than the field's, or positions that are no integers.
        ArgumentError
            A count outside ``0 .. T``.
        PositionError
            Positions below 0, or other than the slots where the schema is not placed.

        Examples
        --------
        >>> from kvattn.caches.rows import latent, placed
        >>> cache = Paged.start(latent(2), batch=2)
        >>> cache.append([np.zeros((2, 1, 3, 2))]).append([np.zeros((2, 1, 4, 2))], counts=[4, 0]).lengths
        (7, 3)
        >>> cache = Paged.start(placed(latent(2))).append([np.zeros((1, 1, 2, 2))], positions=np.array([[4, 9]]))
        >>> cache.positions(0), cache.ends
        (array([4, 9]), (10,))
        """
        arrays, new = self.schema.check(rows, self.batch)
        real = (new,) * self.batch if counts is None else read_counts(counts, self.batch, new)
        places = read_places(positions, self.ends, real, new, self.schema.placed)
        if not any(real):
            return self
        if self.schema.placed:
            arrays.append(cast(Array, places[:, None, :, None]))
        extended = [
            extend(self.schema, self.page, table, length, [x[b, :, :n] for x in arrays]) if n else (table, 0)
            for b, (table, length, n) in enumerate(zip(self._tables, self.lengths, real, strict=True))
        ]
        if is_counting():
            nbytes = self.schema.nbytes
            copied = sum(rows for _, rows in extended)
            charge(Tally(kv_written=sum(real) * nbytes, kv_copied=copied * nbytes))
        lengths = tuple(length + n for length, n in zip(self.lengths, real, strict=True))
        ends = lengths
        if self.schema.placed:
            ends = tuple(int(at[n - 1]) + 1 if n else end for at, n, end in zip(places, real, self.ends, strict=True))
        return replace(self, lengths=lengths, ends=ends, _tables=tuple(table for table, _ in extended))

    def truncate(self, length: int | Sequence[int]) -> "Paged[R]":
        """Forget everything from slot ``length`` on; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache holds.
        RollbackError
            The page that would be filled next has been released.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), batch=2).append([np.zeros((2, 1, 3, 2))])
        >>> cache.truncate(1).lengths, cache.truncate([0, 2]).lengths
        ((1, 1), (0, 2))
        >>> cache.truncate(4)
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: length must be an integer in 0 .. 3, got 4
        """
        return cutting.truncate(self, length)

    def branch(self) -> "Paged[R]":
        """A second name for this value: since a cache never changes, that is the value itself.

        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2))
        >>> cache.branch() is cache
        True
        """
        return self

    def select(self, indices: Sequence[int] | Positions) -> "Paged[R]":
        """Reorder, repeat or drop sequences; pages are shared, no row moves.

        Raises
        ------
        ArgumentError
            No index, or one that is not a sequence's number.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2), batch=3).append([np.zeros((3, 1, 5, 2))]).truncate([1, 2, 3]).select([2, 0, 0])
        Paged(Latent, page=256, lengths=(3, 1, 1))
        """
        return self._picked(picked(indices, self.batch))

    def _picked(self, chosen: Sequence[int]) -> "Paged[R]":
        return replace(
            self,
            lengths=tuple(self.lengths[i] for i in chosen),
            ends=tuple(self.ends[i] for i in chosen),
            _marks=tuple(self._marks[i] for i in chosen),
            _tables=tuple(self._tables[i] for i in chosen),
        )

    def repeat(self, n: int) -> "Paged[R]":
        """Every sequence n times, its copies side by side; pages are shared, no row moves.

        Raises
        ------
        ArgumentError
            ``n`` below 1.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2), batch=2).append([np.zeros((2, 1, 5, 2))], counts=[5, 1]).repeat(2).lengths
        (5, 5, 1, 1)
        """
        n = integer("n", n, 1)
        return self._picked([b for b in range(self.batch) for _ in range(n)])

    def merge(self, *others: "Paged[R]") -> "Paged[R]":
        """One batch of this cache's sequences and those of others behind them; pages are shared, no row moves.

        Raises
        ------
        ArgumentError
            Another kind of cache, another schema or another page size.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> one, two = Paged.start(latent(2)), Paged.start(latent(2), batch=2).append([np.zeros((2, 1, 5, 2))])
        >>> one.merge(two).lengths
        (0, 5, 5)
        >>> one.merge(Paged.start(latent(2), page=8))
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: others must be paged caches of the same schema and page, \
Paged(Latent, page=256, lengths=(0,)), got Paged(Latent, page=8, lengths=(0,))
        """
        for other in others:
            if not isinstance(cast(Any, other), Paged) or other.schema != self.schema or other.page != self.page:
                raise ArgumentError(
                    f"others must be paged caches of the same schema and page, {self!r}, got {shown(other)}"
                )
        parts = (self, *others)
        return replace(
            self,
            lengths=tuple(n for part in parts for n in part.lengths),
            ends=tuple(n for part in parts for n in part.ends),
            _marks=tuple(mark for part in parts for mark in part._marks),
            _tables=tuple(table for part in parts for table in part._tables),
        )

    def split(self, sizes: Sequence[int]) -> "tuple[Paged[R], ...]":
        """Several caches, of so many sequences each, in order; what `merge` puts together again.

        Raises
        ------
        ArgumentError
            Sizes below 1, or that do not sum to the batch.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> [part.batch for part in Paged.start(latent(2), batch=3).split([1, 2])]
        [1, 2]
        """
        each = integers("sizes", sizes, 1)
        if sum(each) != self.batch:
            raise ArgumentError(f"sizes must sum to {self.batch}, the batch, got {each}")
        stops = list(accumulate(each))
        return tuple(self._picked(range(stop - size, stop)) for size, stop in zip(each, stops, strict=True))

    def release(self, start: int, stop: int | Sequence[int]) -> "Paged[R]":
        """Forget the whole pages that lie inside slots ``start .. stop - 1``; their place stays, as a hole.

        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), page=4).append([np.zeros((1, 1, 16, 2))])
        >>> cache.release(3, 13).held(0).nonzero()[0]
        array([ 0,  1,  2,  3, 12, 13, 14, 15])
        """
        start = integer("start", start, 0)
        tables = []
        for table, end in zip(self._tables, per_sequence("stop", stop, self.lengths), strict=True):
            tables.append(table.fill(-(-start // self.page), end // self.page, None))
        return replace(self, _tables=tuple(tables))

    def commit(self, prefix: int | Sequence[int], path: Sequence[int] | Sequence[Sequence[int]]) -> "Paged[R]":
        """Keep one path of a tree that was appended behind ``prefix`` tokens, and forget its other nodes.

        Where the nodes' rows are those of their depths, this is what appending the path alone would have left, to
        the bit.  Nodes of the path that stand where they should already are not moved.

        Parameters
        ----------
        prefix
            Tokens in front of the tree; one number, or one for each sequence.
        path
            Numbers of the accepted nodes, increasing; node n stands in slot ``prefix + n``.  One path for all, or
            one for each sequence.

        Raises
        ------
        ArgumentError
            A prefix beyond the cache, or a path that is not one of increasing node numbers.
        PositionError, RollbackError
            What is to stay or to move has been released.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> held = Paged.start(latent(1)).append([np.arange(6.0).reshape(1, 1, 6, 1)])
        >>> held.commit(2, [1, 3]).rows().latent.ravel()
        array([0., 1., 3., 5.])
        """
        return moving.commit(self, prefix, path)

    def evict(self, keep: Sequence[Any] | Visible) -> "Paged[R]":
        """Forget all tokens but some, close the gaps, and let every token keep its position.

        Pages before that of the first change are shared, the rows behind it are written again.  `coming` and `ends`
        stay: time goes on, whatever is forgotten.

        Parameters
        ----------
        keep
            For each sequence the slots that stay, increasing, or a truth value for each slot.

        Raises
        ------
        ArgumentError
            A schema that is not placed; slots that are not there, repeated or out of order.
        PositionError
            A slot that has been released.

        Examples
        --------
        >>> from kvattn.caches.rows import latent, placed
        >>> cache = Paged.start(placed(latent(1))).append([np.arange(6.0).reshape(1, 1, 6, 1)])
        >>> less = cache.evict([[0, 4, 5]])
        >>> less.rows().latent.ravel(), less.positions(0), less.coming(1)
        (array([0., 4., 5.]), array([0, 4, 5]), array([[6]]))
        """
        return moving.evict(self, keep)

    def shift(
        self,
        by: int | Sequence[int],
        turn: shifting.Turn | None = None,
        *,
        start: int | Sequence[int] = 0,
        field: str = "k",
    ) -> "Paged[R]":
        """Move the positions of all tokens from slot ``start`` on, and of those to come.

        Pages before that of ``start`` are shared, the rows behind it are written again.

        Parameters
        ----------
        by
            How far, one number or one for each sequence; below 0 is back.
        turn
            Where keys were turned at their positions: what turns them on, such as `kvattn.positions.Rotary`.
            The result is that of turning at the new position up to rounding.
        start
            The first slot that moves, one number or one for each sequence.
        field
            Which field ``turn`` is for.

        Raises
        ------
        ArgumentError
            A schema that is not placed, a field that it does not have, a start beyond the cache.
        PositionError
            A position that would lie below 0.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value, placed
        >>> from kvattn.positions import Rotary
        >>> cache = Paged.start(placed(key_value(1, 2))).append([np.ones((1, 1, 6, 2))] * 2)
        >>> sinks_and_last = cache.evict([[0, 1, 4, 5]]).shift(-2, Rotary.of(2), start=2)
        >>> sinks_and_last.positions(0), sinks_and_last.ends
        (array([0, 1, 2, 3]), (4,))
        """
        return shifting.shift(self, by, turn, start=start, field=field)

    def held(self, sequence: int) -> Visible:
        """Which slots of a sequence are still there, ``[length]``.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2)).append([np.zeros((1, 1, 2, 2))]).held(0)
        array([ True,  True])
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        pages = np.array([page is not None for page in self._tables[sequence]], np.bool_)
        return pages.repeat(self.page)[: self.lengths[sequence]]

    def positions(self, sequence: int) -> Positions:
        """The position of every slot of a sequence, ``[length]``; -1 where it has been released.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2), page=2).append([np.ones((1, 1, 5, 2))]).release(2, 4).positions(0)
        array([ 0,  1, -1, -1,  4])
        """
        held = self.held(sequence)
        found = np.where(held, np.arange(len(held)), -1)
        if self.schema.placed:
            parts = [page.arrays[-1][0, :, 0] for page in self._tables[sequence] if page is not None]
            whole = np.concatenate(parts)[: int(held.sum())] if parts else np.empty(0, np.int64)
            found[held] = whole
        return found

    def rows(self, start: int = 0, stop: int | None = None, *, sequence: int | None = None) -> R:
        """The rows of slots ``start .. stop - 1``, gathered: ``[B, heads, stop - start, width]``, read-only.

        Parameters
        ----------
        start, stop
            Slots; all of them unless given.
        sequence
            Only this sequence, as a batch of one: needed where lengths differ.

        Raises
        ------
        ArgumentError
            Slots outside the cache, or sequences of different lengths and no ``stop``.
        PositionError
            A slot that has been released.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2)).append([np.arange(6.0).reshape(1, 1, 3, 2)])
        >>> cache.rows(1).latent
        array([[[[2., 3.],
                 [4., 5.]]]])
        """
        if sequence is None:
            chosen: Sequence[int] = range(self.batch)
        else:
            chosen = (integer("sequence", sequence, 0, self.batch - 1),)
        if stop is None:
            stop = self.length if sequence is None else self.lengths[chosen[0]]
        stop = integer("stop", stop, 0, min(self.lengths[b] for b in chosen))
        start = integer("start", start, 0, stop)
        out = [np.empty((len(chosen), f.heads, stop - start, f.width), f.dtype) for f in self.schema.fields]
        for n, b in enumerate(chosen):
            gather(self.page, self._tables[b], start, stop, [target[n] for target in out])
        for target in out:
            target.flags.writeable = False
        return self.schema.row(*out)

    def raw_blocks(self, sequence: int) -> tuple[RawBlock, ...]:
        """The blocks of 256 slots that hold anything, in storage layout, read-only.

        With 256 tokens to a page a full block is the page itself; any other is gathered into
        zeroed memory.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), page=64).append([np.ones((1, 1, 300, 2))])
        >>> [(block.start, block.key_count, block.arrays[0].shape) for block in cache.raw_blocks(0)]
        [(0, 256, (1, 256, 2)), (256, 44, (1, 256, 2))]
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        return raw_blocks(self.schema, self.page, self._tables[sequence], self.lengths[sequence])

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence as the streaming softmax takes them; the schema needs fields k and v.

        Raises
        ------
        ArgumentError
            A schema without keys ``k`` and values ``v``, or a sequence that does not exist.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> cache = Paged.start(key_value(1, 2)).append([np.ones((1, 1, 300, 2))] * 2)
        >>> [(block.start, block.key_count) for block in cache.blocks(0)]
        [(0, 256), (256, 44)]
        """
        return key_blocks(self.schema, self.raw_blocks(sequence))

    def pages(self, sequence: int) -> tuple[int | None, ...]:
        """Serial numbers of a sequence's pages, None where one was released.

        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), batch=2).append([np.ones((2, 1, 3, 2))]).select([0, 0])
        >>> cache.pages(0) == cache.pages(1)
        True
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        return tuple(None if page is None else page.serial for page in self._tables[sequence])

    def parts(self) -> PagedParts:
        """All that this value is, as plain numbers and read-only views; a shared page stands there once.

        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(1), page=2).append([np.arange(3.0).reshape(1, 1, 3, 1)]).select([0, 0])
        >>> parts = cache.truncate([3, 1]).parts()
        >>> parts.tables, [rows[0].ravel().tolist() for rows in parts.rows]
        (((0, 1), (0,)), [[0.0, 1.0], [2.0]])
        """
        uses = [
            [Used(page, 0, min(self.page, length - n * self.page)) for n, page in enumerate(table)]
            for table, length in zip(self._tables, self.lengths, strict=True)
        ]
        found = apart(uses)
        return PagedParts(self.page, self.lengths, self.ends, self._marks, found.tables, found.rows())

    @classmethod
    def of_parts(cls, schema: Schema[R], parts: PagedParts) -> "Paged[R]":
        """The cache that parts belong to, on pages of its own; rows are copied, once for each page.

        Raises
        ------
        ArgumentError, ShapeError, DtypeError
            Parts that do not fit the schema or each other.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(1), page=2).append([np.arange(5.0).reshape(1, 1, 5, 1)]).release(0, 2)
        >>> again = Paged.of_parts(latent(1), cache.parts())
        >>> again, again.rows(2).latent.ravel()
        (Paged(Latent, page=2, lengths=(5,)), array([2., 3., 4.]))
        """
        parts = checked(schema, parts)
        tables = tables_of(schema, parts)
        return cls(schema, parts.page, parts.lengths, parts.ends, parts.marks, tables)

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2), page=4).flatten_into(Writer("cache", {}))["page"]
        4
        """
        parts = self.parts()
        writer.rows(self.schema, parts.rows)
        return header_of(self.schema, parts)

    def rebuild_from(self, reader: Reader) -> "Paged[R]":
        """Another cache of this schema, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import latent
        >>> empty, writer = Paged.start(latent(2), page=4), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays))
        Paged(Latent, page=4, lengths=(0,))
        """
        return Paged.of_parts(self.schema, read(self.schema, reader))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> from kvattn.caches.rows import latent
        >>> list(Paged.start(latent(2), page=4).append([np.ones((1, 1, 3, 2))]).footprint().values())
        [64]
        """
        return {page.serial: page.nbytes for table in self._tables for page in table if page is not None}

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2), page=4).append([np.ones((1, 1, 5, 2))]).nbytes
        128
        """
        return live_bytes(self)
