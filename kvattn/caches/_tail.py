"""Pages of the last slots of each sequence, and of nothing before them: what caches that forget are made of.

A `Tail` begins at a slot of its own in each sequence.  Its table holds the pages from that slot's on and no hole
for those before, so neither memory nor time grows with what has been forgotten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.caches._apart import Used, apart, together
from kvattn.caches.batches import picked
from kvattn.caches.blocks import KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer, described
from kvattn.caches.pages import Page
from kvattn.caches.rows import R, Schema
from kvattn.caches.tables import RawBlock, Table, extend, gather, key_blocks, raw_blocks
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
        chosen = picked(indices, len(self.lengths))
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

    def flatten_into(self, writer: Writer) -> Header:
        """Numbers of pages, and of each page the span of slots whose rows are somebody's."""
        uses = [
            [Used(page, *self._span(start, length, n)) for n, page in enumerate(table, start // self.page)]
            for table, start, length in zip(self._tables, self.starts, self.lengths, strict=True)
        ]
        found = apart(uses)
        writer.rows(self.schema, found.rows())
        return {
            "schema": described(self.schema),
            "page": self.page,
            "starts": [*self.starts],
            "lengths": [*self.lengths],
            "tables": [[*table] for table in found.tables],
            "spans": [[low, high] for _, low, high in found.pages],
        }

    def _span(self, start: int, length: int, index: int) -> tuple[int, int]:
        """The slots of a page, counted from its own first, that lie in ``start .. length - 1``."""
        base = index * self.page
        return max(0, start - base), min(self.page, length - base)

    def rebuild_from(self, reader: Reader) -> "Tail[R]":
        """Another one of this schema, on pages of its own; slots in front of a page's span are never read."""
        header = reader.header
        reader.fits(self.schema)
        size = integer("page", header["page"], 1)
        lengths = integers("lengths", header["lengths"], 0)
        starts, tables = reader.each("starts", len(lengths)), header["tables"]
        spans = [(integer("spans", low, 0), integer("spans", high, low, size)) for low, high in header["spans"]]
        empty = replace(self, page=size)
        places: dict[int, int] = {}
        if len(tables) != len(lengths):
            raise ArgumentError(f"tables must be given for each of {len(lengths)} sequences, got {len(tables)}")
        for b, (table, start, length) in enumerate(zip(tables, starts, lengths, strict=True)):
            integer(f"starts[{b}]", start, 0, length)
            first, stop = start // size, -(-length // size)
            if len(table) != stop - first:
                raise ArgumentError(f"tables[{b}] must name {stop - first} pages, got {len(table)}")
            for index, number in enumerate(table, first):
                low, high = spans[integer(f"tables[{b}]", number, 0, len(spans) - 1)]
                needed = empty._span(start, length, index)
                if low > needed[0] or high < needed[1] or places.setdefault(number, index) != index:
                    raise ArgumentError(
                        f"tables[{b}] must name pages of enough rows, each at one place of all tables, got {number} "
                        f"of slots {low} .. {high - 1} at {index} for {needed[0]} .. {needed[1] - 1}"
                    )
        rows = reader.rows(self.schema, [high - low for low, high in spans])
        pages = [together(self.schema, size, low, piece) for (low, _), piece in zip(spans, rows, strict=True)]
        again = tuple(Vector.of(pages[number] for number in table) for table in tables)
        return replace(empty, starts=starts, lengths=lengths, _tables=again)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once."""
        return {page.serial: page.nbytes for table in self._tables for page in table if page is not None}
