"""The mutable block pool of serving engines: one array for all sequences, block tables, reference counts.

This is what `kvattn.caches.paged` must agree with.  A sequence is a *handle*; its table lists block
numbers; a block that two tables list has a count of 2.  `BlockPool.fork` shares every block; the
first to append behind a partly filled shared block gets its own copy.  A slot that no live sequence
owns holds NaN, as a freed block does, and when every handle is freed every count is 0.

Every operation checks first and acts afterwards: one that is refused changes nothing.

Source: Kwon et al. 2023 (PagedAttention), sections 4.2 to 4.4.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, NamedTuple, cast

import numpy as np

from kvattn.arguments import integer
from kvattn.caches.pages import SERIALS, unwritten
from kvattn.caches.rows import R, Schema
from kvattn.counting import Tally, charge, charge_page
from kvattn.errors import ArgumentError
from kvattn.typing import Array


class Handle(NamedTuple):
    """The name of a sequence in one pool; a name is never used twice."""

    pool: int
    number: int


class BlockPool(Generic[R]):
    """A fixed number of blocks, lent to sequences.

    Parameters
    ----------
    schema
        What a token stores.
    blocks
        How many blocks there are.
    size
        Tokens per block.

    Raises
    ------
    ArgumentError
        ``blocks`` or ``size`` below 1, or a placed schema.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> pool = BlockPool(latent(2), blocks=4, size=4)
    >>> one = pool.allocate()
    >>> pool.append(one, [np.ones((1, 1, 6, 2))])
    >>> two = pool.fork(one)
    >>> pool.table(one), pool.table(two), pool.references
    ((0, 1), (0, 1), (2, 2, 0, 0))
    >>> pool.append(two, [np.zeros((1, 1, 1, 2))])  # block 1 is shared and partly filled
    >>> pool.table(two), pool.references
    ((0, 2), (2, 1, 1, 0))
    >>> pool.free(one), pool.free(two), pool.references
    (None, None, (0, 0, 0, 0))
    """

    def __init__(self, schema: Schema[R], blocks: int, size: int = 16) -> None:
        blocks, self.size = integer("blocks", blocks, 1), integer("size", size, 1)
        if schema.placed:
            raise ArgumentError(
                "schema must not be placed, since a block's place says the position, got a placed schema"
            )
        self.schema = schema
        self.nbytes = blocks * self.size * schema.nbytes
        self._serial = next(SERIALS)
        self._counts = [0] * blocks
        self._spare = list(range(blocks - 1, -1, -1))
        self._tables: dict[Handle, list[int]] = {}
        self._lengths: dict[Handle, int] = {}
        self._given = 0
        self._storage = [
            cast(Array, np.full((blocks, *f.layout(self.size)), unwritten(np.dtype(f.dtype)), f.dtype))
            for f in schema.fields
        ]
        charge_page(self, self.nbytes)

    @property
    def storage(self) -> tuple[Array, ...]:
        """The pool's arrays, ``[blocks, heads, width, size]`` for keys, else ``[blocks, heads, size, width]``.

        Read-only views of memory that later operations change.

        >>> from kvattn.caches.rows import latent
        >>> BlockPool(latent(2), blocks=4, size=3).storage[0].shape
        (4, 1, 3, 2)
        """
        views = tuple(x.view() for x in self._storage)
        for view in views:
            view.flags.writeable = False
        return views

    @property
    def references(self) -> tuple[int, ...]:
        """How many tables list each block.

        >>> from kvattn.caches.rows import latent
        >>> BlockPool(latent(2), blocks=3).references
        (0, 0, 0)
        """
        return tuple(self._counts)

    @property
    def free_blocks(self) -> int:
        """How many blocks nobody uses.

        >>> from kvattn.caches.rows import latent
        >>> BlockPool(latent(2), blocks=3).free_blocks
        3
        """
        return len(self._spare)

    @property
    def handles(self) -> tuple[Handle, ...]:
        """The live sequences, oldest first.

        >>> from kvattn.caches.rows import latent
        >>> BlockPool(latent(2), blocks=3).handles
        ()
        """
        return tuple(self._tables)

    def allocate(self) -> Handle:
        """Begin an empty sequence; it takes no block yet.

        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=3)
        >>> pool.length(pool.allocate())
        0
        """
        return self._name([], 0)

    def _name(self, table: list[int], length: int) -> Handle:
        handle = Handle(self._serial, self._given)
        self._given += 1
        self._tables[handle], self._lengths[handle] = table, length
        return handle

    def _live(self, handle: Handle) -> list[int]:
        try:
            return self._tables[handle]
        except (KeyError, TypeError):
            ours = tuple(Handle(self._serial, number) for number in range(self._given))
            what = "one that has been freed" if handle in ours else f"{handle!r}, which this pool never gave out"
            raise ArgumentError(f"handle must name a live sequence, got {what}") from None

    def append(self, handle: Handle, rows: R | Sequence[Any]) -> None:
        """Add T >= 0 tokens to one sequence.

        Parameters
        ----------
        handle
            A live sequence.
        rows
            ``[1, heads, T, width]`` per field.

        Raises
        ------
        ArgumentError
            A stale handle, or too few free blocks.
        ShapeError, DtypeError
            Rows that do not fit the schema.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=1, size=4)
        >>> pool.append(pool.allocate(), [np.ones((1, 1, 5, 2))])
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: rows must fit the free blocks, got 5 tokens that need 2 of 1 free
        """
        table, length = self._live(handle), self.length(handle)
        arrays, new = self.schema.check(rows, 1)
        if not new:
            return
        at = length % self.size
        shared = bool(at) and self._counts[table[-1]] > 1
        needed = -(-(length + new) // self.size) - len(table) + shared
        if needed > len(self._spare):
            raise ArgumentError(
                f"rows must fit the free blocks, got {new} tokens that need {needed} of {len(self._spare)} free"
            )
        if shared:
            own, other = self._spare.pop(), table[-1]
            self._counts[own], self._counts[other] = 1, self._counts[other] - 1
            for field, array in zip(self.schema.fields, self._storage, strict=True):
                kept = np.s_[:, :, :at] if field.keys else np.s_[:, :at]
                array[own][kept] = array[other][kept]
            table[-1] = own
            self._clean([other], len(table) - 1)  # the longest of those who shared it may be this one
        done = 0
        while done < new:
            at = (length + done) % self.size
            take = min(new - done, self.size - at)
            if not at:
                table.append(self._spare.pop())
                self._counts[table[-1]] = 1
            for field, array, x in zip(self.schema.fields, self._storage, arrays, strict=True):
                part = x[0, :, done : done + take]
                if field.keys:
                    array[table[-1], :, :, at : at + take] = part.swapaxes(1, 2)
                else:
                    array[table[-1], :, at : at + take] = part
            done += take
        self._lengths[handle] = length + new
        copied = length % self.size if shared else 0
        charge(Tally(kv_written=new * self.schema.nbytes, kv_copied=copied * self.schema.nbytes))

    def fork(self, handle: Handle) -> Handle:
        """Begin a sequence with the same tokens; every block is shared, none is copied.

        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=3)
        >>> first = pool.allocate()
        >>> pool.append(first, [np.ones((1, 1, 3, 2))])
        >>> pool.length(pool.fork(first)), pool.free_blocks
        (3, 2)
        """
        table = list(self._live(handle))
        for block in table:
            self._counts[block] += 1
        return self._name(table, self._lengths[handle])

    def truncate(self, handle: Handle, length: int) -> None:
        """Forget the tokens of one sequence from slot ``length`` on.

        Raises
        ------
        ArgumentError
            A stale handle, or a length that is negative or more than the sequence has.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=3, size=4)
        >>> first = pool.allocate()
        >>> pool.append(first, [np.ones((1, 1, 9, 2))])
        >>> pool.truncate(first, 3)
        >>> pool.table(first), pool.free_blocks
        ((0,), 2)
        """
        table = self._live(handle)
        length = integer("length", length, 0, self._lengths[handle])
        first = length // self.size
        touched = table[first:]
        kept = -(-length // self.size)
        dropped, table[kept:] = table[kept:], []
        self._lengths[handle] = length
        self._drop(dropped)
        self._clean(touched, first)

    def free(self, handle: Handle) -> None:
        """End a sequence; its name is never valid again.

        Raises
        ------
        ArgumentError
            A handle that has been freed before, or that another pool gave out.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=3)
        >>> first = pool.allocate()
        >>> pool.free(first)
        >>> pool.free(first)
        Traceback (most recent call last):
        kvattn.errors.ArgumentError: handle must name a live sequence, got one that has been freed
        """
        table = self._live(handle)
        del self._tables[handle], self._lengths[handle]
        self._drop(table)
        self._clean(table, 0)

    def _drop(self, blocks: Sequence[int]) -> None:
        for block in reversed(blocks):
            self._counts[block] -= 1
            if not self._counts[block]:
                self._spare.append(block)

    def _clean(self, blocks: Sequence[int], first: int) -> None:
        """Write NaN wherever no live sequence owns a slot of these blocks, which stand at ``first`` on."""
        for place, block in enumerate(blocks, first):
            ends = [
                self._lengths[other] - place * self.size
                for other, table in self._tables.items()
                if place < len(table) and table[place] == block
            ]
            owned = max(ends, default=0)
            for field, array in zip(self.schema.fields, self._storage, strict=True):
                gone = np.s_[:, :, owned:] if field.keys else np.s_[:, owned:]
                array[block][gone] = unwritten(array.dtype)

    def length(self, handle: Handle) -> int:
        """Tokens of a sequence.

        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=3)
        >>> pool.length(pool.allocate())
        0
        """
        self._live(handle)
        return self._lengths[handle]

    def table(self, handle: Handle) -> tuple[int, ...]:
        """Block numbers of a sequence, in the order of its slots.

        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(2), blocks=3)
        >>> pool.table(pool.allocate())
        ()
        """
        return tuple(self._live(handle))

    def rows(self, handle: Handle) -> R:
        """The tokens of a sequence, gathered by its table: ``[1, heads, length, width]``, a read-only copy.

        >>> from kvattn.caches.rows import latent
        >>> pool = BlockPool(latent(1), blocks=3, size=2)
        >>> first = pool.allocate()
        >>> pool.append(first, [np.arange(3.0).reshape(1, 1, 3, 1)])
        >>> pool.rows(first).latent.ravel()
        array([0., 1., 2.])
        """
        table, length = self._live(handle), self.length(handle)
        found = []
        for field, array in zip(self.schema.fields, self._storage, strict=True):
            blocks = array[table].swapaxes(2, 3) if field.keys else array[table]
            rows = blocks.transpose(1, 0, 2, 3).reshape(1, field.heads, len(table) * self.size, field.width)
            rows = rows[:, :, :length].copy()
            rows.flags.writeable = False
            found.append(rows)
        return self.schema.row(*found)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of the pool: it is allocated as one.

        >>> from kvattn.caches.rows import latent
        >>> list(BlockPool(latent(2), blocks=3, size=2).footprint().values())
        [96]
        """
        return {self._serial: self.nbytes}
