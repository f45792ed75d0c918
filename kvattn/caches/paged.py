"""The persistent paged cache: an immutable value, a table of shared pages for each sequence.

No operation changes a cache; each returns another one that shares its pages, and old values stay
valid for ever.  `Paged.append` writes into free room behind the end of a page as long as nobody
else has extended it, and copies that one page otherwise (copy-on-write).  `Paged.truncate`,
`Paged.branch`, `Paged.select` and `Paged.release` copy no row: they only pick pages.

Slots count from 0 in order of arrival and here a token's slot is its position.  Writing is charged
as ``kv_written`` and ``kv_copied``, a page as ``cache_live`` while anybody holds it; reading is
charged by whoever reads.  Two threads may extend the same value: one gets the room, one a copy.

Source: the table of pages is Kwon et al. 2023 (PagedAttention), section 4; sharing between
immutable values is Driscoll et al. 1989 (persistent data structures), section 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, cast

import numpy as np

from kvattn.arguments import integer
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.rows import R, Schema
from kvattn.caches.tables import RawBlock, Table, extend, gather, raw_blocks
from kvattn.counting import Tally, charge, is_counting
from kvattn.errors import ArgumentError, RollbackError
from kvattn.typing import Positions, Visible


class Holder(Protocol):
    """Anything that keeps pages: it can list them with their bytes."""

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once."""


def live_bytes(*caches: Holder) -> int:
    """Bytes that several caches hold together; a shared page counts once.

    >>> from kvattn.caches.rows import latent
    >>> cache = Paged.start(latent(2), page=4).append([np.ones((1, 1, 3, 2))])
    >>> cache.nbytes, live_bytes(cache, cache.branch(), cache.truncate(1))
    (64, 64)
    """
    pages: dict[int, int] = {}
    for cache in caches:
        pages.update(cache.footprint())
    return sum(pages.values())


def per_sequence(name: str, value: object, most: Sequence[int]) -> tuple[int, ...]:
    """Read one integer for the whole batch, or one for each sequence, in ``0 .. most[b]``.

    >>> per_sequence("length", 2, most=(3, 4)), per_sequence("length", [1, 4], most=(3, 4))
    ((2, 2), (1, 4))
    """
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and np.ndim(cast(Any, value)) == 1:
        values = list(value)
        if len(values) != len(most):
            raise ArgumentError(f"{name} must be one integer or one for each of {len(most)} sequences, got {value!r}")
        return tuple(integer(f"{name} of sequence {b}", v, 0, most[b]) for b, v in enumerate(values))
    return (integer(name, value, 0, min(most)),) * len(most)


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
        return cls(schema, page, (0,) * batch, ((),) * batch)

    def __repr__(self) -> str:
        return f"Paged({self.schema.name}, page={self.page}, lengths={self.lengths})"

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
        if len(set(self.lengths)) > 1:
            raise ArgumentError(f"length must be the same for all sequences, got {self.lengths}")
        return self.lengths[0]

    def append(self, rows: R | Sequence[Any]) -> "Paged[R]":
        """Add the same number of tokens to every sequence.

        Parameters
        ----------
        rows
            One array ``[B, heads, T, width]`` per field, T >= 0; copied, never cast.

        Raises
        ------
        ShapeError
            Missing fields, wrong rank, or sizes other than the schema's and the batch's.
        DtypeError
            A dtype other than the field's.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), batch=2)
        >>> cache.append([np.zeros((2, 1, 3, 2))]).append([np.zeros((2, 1, 1, 2))]).lengths
        (4, 4)
        """
        arrays, new = self.schema.check(rows, self.batch)
        if not new:
            return self
        extended = [
            extend(self.schema, self.page, table, length, [x[b] for x in arrays])
            for b, (table, length) in enumerate(zip(self._tables, self.lengths, strict=True))
        ]
        if is_counting():
            nbytes = self.schema.nbytes
            copied = sum(rows for _, rows in extended)
            charge(Tally(kv_written=self.batch * new * nbytes, kv_copied=copied * nbytes))
        lengths = tuple(n + new for n in self.lengths)
        return type(self)(self.schema, self.page, lengths, tuple(table for table, _ in extended))

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
        lengths = per_sequence("length", length, self.lengths)
        tables = tuple(t[: -(-n // self.page)] for t, n in zip(self._tables, lengths, strict=True))
        for table, n in zip(tables, lengths, strict=True):
            if n % self.page and table[-1] is None:
                raise RollbackError(f"length must lie in or at the edge of a page that is held, got {n}")
        return type(self)(self.schema, self.page, lengths, tables)

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
        if np.ndim(indices) != 1 or not len(indices):
            raise ArgumentError(f"indices must be a row of at least one sequence number, got {indices!r}")
        chosen = [integer("each of indices", i, 0, self.batch - 1) for i in indices]
        lengths = tuple(self.lengths[i] for i in chosen)
        return type(self)(self.schema, self.page, lengths, tuple(self._tables[i] for i in chosen))

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
            first, last = -(-start // self.page), end // self.page
            hole = last - first
            tables.append((*table[:first], *(None,) * hole, *table[last:]) if hole > 0 else table)
        return type(self)(self.schema, self.page, self.lengths, tuple(tables))

    def held(self, sequence: int) -> Visible:
        """Which slots of a sequence are still there, ``[length]``.

        >>> from kvattn.caches.rows import latent
        >>> Paged.start(latent(2)).append([np.zeros((1, 1, 2, 2))]).held(0)
        array([ True,  True])
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        pages = np.array([page is not None for page in self._tables[sequence]], np.bool_)
        return pages.repeat(self.page)[: self.lengths[sequence]]

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
        place = {f.name: (n, f.keys) for n, f in enumerate(self.schema.fields)}
        (k, turned), (v, flat) = place.get("k", (0, False)), place.get("v", (0, True))
        if not turned or flat:
            raise ArgumentError(f"schema must have keys k and values v to make blocks of them, got {self.schema.name}")
        return tuple(
            KeyBlock(block.start, block.arrays[k], block.arrays[v], block.positions, block.held)
            for block in self.raw_blocks(sequence)
        )

    def pages(self, sequence: int) -> tuple[int | None, ...]:
        """Serial numbers of a sequence's pages, None where one was released.

        >>> from kvattn.caches.rows import latent
        >>> cache = Paged.start(latent(2), batch=2).append([np.ones((2, 1, 3, 2))]).select([0, 0])
        >>> cache.pages(0) == cache.pages(1)
        True
        """
        sequence = integer("sequence", sequence, 0, self.batch - 1)
        return tuple(None if page is None else page.serial for page in self._tables[sequence])

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
