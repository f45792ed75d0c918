"""Pages of the last slots of each sequence, and of nothing before them: what caches that forget are made of.

A `Tail` begins at a slot of its own in each sequence.  Its table holds the pages from that slot's on and no hole
for those before, so neither memory nor time grows with what has been forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from kvattn.arguments import integer
from kvattn.caches.blocks import KeyBlock
from kvattn.caches.pages import Page
from kvattn.caches.rows import R, Schema
from kvattn.caches.tables import RawBlock, Table, extend, gather, raw_blocks
from kvattn.caches.vectors import Vector
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.typing import Positions


@dataclass(frozen=True, slots=True, eq=False)
class Tail(Generic[R]):
    """Slots ``starts[b] .. lengths[b] - 1`` of each sequence; ``_tables[b]`` begins with the page of ``starts[b]``."""

    schema: Schema[R]
    page: int
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    _tables: tuple[Table, ...] = field(repr=False)

    @classmethod
    def start(cls, schema: Schema[R], batch: int, page: int) -> "Tail[R]":
        """Nothing, from slot 0 on."""
        if schema.placed:
            raise ArgumentError(
                f"schema must not be placed, since slots are positions here, got a placed {schema.name}"
            )
        batch, page = integer("batch", batch, 1), integer("page", page, 1)
        return cls(schema, page, (0,) * batch, (0,) * batch, (Vector(),) * batch)

    def append(self, rows: R | Sequence[Any], starts: Sequence[int]) -> "Tail[R]":
        """Begin at later slots, ``starts[b] <= lengths[b]``, and add T > 0 tokens to every sequence."""
        arrays, new = self.schema.check(rows, len(self.lengths))
        tables, copied = [], 0
        for b, (table, start, length) in enumerate(zip(self._tables, starts, self.lengths, strict=True)):
            gone = start // self.page - self.starts[b] // self.page
            kept: Table = Vector.of(table.between(gone, len(table))) if gone else table
            longer, more = extend(self.schema, self.page, kept, length, [x[b] for x in arrays])
            tables.append(longer)
            copied += more
        nbytes = self.schema.nbytes
        charge(Tally(kv_written=len(tables) * new * nbytes, kv_copied=copied * nbytes))
        lengths = tuple(n + new for n in self.lengths)
        return replace(self, starts=tuple(starts), lengths=lengths, _tables=tuple(tables))

    def truncate(self, lengths: Sequence[int]) -> "Tail[R]":
        """End earlier; before the first slot there is, begin there too."""
        starts = tuple(map(min, self.starts, lengths))
        tables = []
        for table, start, now, length in zip(self._tables, self.starts, starts, lengths, strict=True):
            if length >= start:
                tables.append(table.take(-(-length // self.page) - now // self.page))
                continue
            opened: list[Page | None] = []
            if length % self.page:  # the room in front of the next slot is never read
                opened.append(Page(self.schema, self.page))
                opened[0].claim(0, length % self.page)  # type: ignore[union-attr]
            tables.append(Vector.of(opened))
        return replace(self, starts=starts, lengths=tuple(lengths), _tables=tuple(tables))

    def select(self, indices: Sequence[int] | Positions) -> "Tail[R]":
        """Reorder, repeat or drop sequences; pages are shared."""
        if np.ndim(indices) != 1 or not len(indices):
            raise ArgumentError(f"indices must be a row of at least one sequence number, got {indices!r}")
        chosen = [integer("each of indices", i, 0, len(self.lengths) - 1) for i in indices]
        starts, lengths = (tuple(n[i] for i in chosen) for n in (self.starts, self.lengths))
        return replace(self, starts=starts, lengths=lengths, _tables=tuple(self._tables[i] for i in chosen))

    def rows(self, sequence: int) -> R:
        """All rows of a sequence, ``[1, heads, length - start, width]``, read-only."""
        start, stop = self.starts[sequence], self.lengths[sequence]
        origin = start // self.page * self.page
        out = [np.empty((1, f.heads, stop - start, f.width), f.dtype) for f in self.schema.fields]
        gather(self.page, self._tables[sequence], start - origin, stop - origin, [target[0] for target in out])
        for target in out:
            target.flags.writeable = False
        return self.schema.row(*out)

    def raw_blocks(self, sequence: int) -> tuple[RawBlock, ...]:
        """The blocks of 256 slots that hold anything, by absolute slot."""
        start, length = self.starts[sequence], self.lengths[sequence]
        return raw_blocks(self.schema, self.page, self._tables[sequence], length, start) if length > start else ()

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The same, as the streaming softmax takes them."""
        return key_blocks(self.schema, self.raw_blocks(sequence))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once."""
        return {page.serial: page.nbytes for table in self._tables for page in table if page is not None}


def key_blocks(schema: Schema[Any], raw: Sequence[RawBlock]) -> tuple[KeyBlock, ...]:
    """Blocks of a schema with keys ``k`` and values ``v``."""
    place = {f.name: (n, f.keys) for n, f in enumerate(schema.fields)}
    (k, turned), (v, flat) = place.get("k", (0, False)), place.get("v", (0, True))
    if not turned or flat:
        raise ArgumentError(f"schema must have keys k and values v to make blocks of them, got {schema.name}")
    return tuple(KeyBlock(b.start, b.arrays[k], b.arrays[v], b.positions, b.held) for b in raw)
