"""A paged cache taken apart: plain numbers and read-only arrays, from which an equal one can be made.

A page that several sequences have stands there once, with the rows that one of them has tokens in; what nobody holds
is not there.  `kvattn.caches.paged.Paged.parts` gives them and `kvattn.caches.paged.Paged.of_parts` takes them;
`kvattn.caches.flattened` carries them and `kvattn.caches.block_tables` speaks them as engines do.

Cost: taking apart copies nothing; putting together writes every row once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvattn.arguments import integer, integers
from kvattn.caches._apart import together
from kvattn.caches.flattened import Header, Reader, described
from kvattn.caches.rows import Schema
from kvattn.caches.tables import Table
from kvattn.caches.vectors import Vector
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.typing import Array


class PagedParts(NamedTuple):
    """A `kvattn.caches.paged.Paged` taken apart.

    Attributes
    ----------
    page
        Tokens per page.
    lengths, ends
        As in `Paged`.
    marks
        For each sequence a length, and the position behind it that `Paged.truncate` returns to there.
    tables
        For each sequence the numbers of its pages in ``rows``, in the order of its slots; -1 where one was released.
    rows
        For each page what is held of it, ``[heads, tokens, width]`` per stored field.
    """

    page: int
    lengths: tuple[int, ...]
    ends: tuple[int, ...]
    marks: tuple[tuple[int, int], ...]
    tables: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[Array, ...], ...]


def checked(schema: Schema[Any], parts: PagedParts) -> PagedParts:
    """Parts whose numbers fit each other and whose rows fit a schema.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError, PositionError
        Parts that do not fit.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> checked(latent(1), PagedParts(2, (3,), (3,), ((0, 0),), ((0,),), ()))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: tables[0] must name 2 pages for 3 tokens, got 1
    """
    page, lengths = integer("page", parts.page, 1), integers("lengths", parts.lengths, 0)
    ends = integers("ends", parts.ends, 0)
    sizes = (len(lengths), len(ends), len(parts.marks), len(parts.tables))
    if len(set(sizes)) > 1 or (not schema.placed and ends != lengths):
        raise ArgumentError(f"parts must hold lengths, ends, marks and tables that fit each other, got {parts!r}")
    marks = [
        (integer(f"marks[{b}]", at, 0, n), integer(f"marks[{b}]", end, 0))
        for b, ((at, end), n) in enumerate(zip(parts.marks, lengths, strict=True))
    ]
    held = [_held_rows(schema, page, number, rows) for number, rows in enumerate(parts.rows)]
    places: dict[int, int] = {}
    for b, (table, n) in enumerate(zip(parts.tables, lengths, strict=True)):
        if len(table) != -(-n // page):
            raise ArgumentError(f"tables[{b}] must name {-(-n // page)} pages for {n} tokens, got {len(table)}")
        for index, number in enumerate(table):
            needed = min(page, n - index * page)
            integer(f"tables[{b}]", number, -1 if needed == page else 0, len(held) - 1)
            if number >= 0 and (held[number] < needed or places.setdefault(number, index) != index):
                raise ArgumentError(
                    f"tables[{b}] must name pages of enough rows, each at one place of all tables, got {number} "
                    f"of {held[number]} rows at {index} for {needed}"
                )
    return PagedParts(page, lengths, ends, tuple(marks), parts.tables, parts.rows)


def tables_of(schema: Schema[Any], parts: PagedParts) -> tuple[Table, ...]:
    """Tables over pages of their own, for parts that are `checked`; every page is written once.

    >>> import numpy as np
    >>> from kvattn.caches.rows import latent
    >>> parts = PagedParts(2, (2, 1), (2, 1), ((0, 0), (0, 0)), ((0,), (0,)), ((np.ones((1, 2, 1)),),))
    >>> one, two = tables_of(latent(1), parts)
    >>> one[0] is two[0]
    True
    """
    pages = [together(schema, parts.page, 0, rows) for rows in parts.rows]
    return tuple(Vector.of(None if n < 0 else pages[n] for n in table) for table in parts.tables)


def header_of(schema: Schema[Any], parts: PagedParts) -> Header:
    """Everything but the rows, as `kvattn.caches.flattened` has it.

    >>> from kvattn.caches.rows import latent
    >>> header_of(latent(1), PagedParts(2, (0,), (0,), ((0, 0),), ((),), ()))["lengths"]
    [0]
    """
    return {
        "schema": described(schema),
        "page": parts.page,
        "lengths": [*parts.lengths],
        "ends": [*parts.ends],
        "marks": [[*mark] for mark in parts.marks],
        "tables": [[*table] for table in parts.tables],
        "counts": [rows[0].shape[1] for rows in parts.rows],
    }


def read(schema: Schema[Any], reader: Reader) -> PagedParts:
    """The parts that a header and its arrays tell of, not yet `checked`.

    >>> from kvattn.caches.rows import latent
    >>> import numpy as np
    >>> empty = PagedParts(2, (0,), (0,), ((0, 0),), ((),), ())
    >>> arrays = {"cache.latent": np.empty((1, 0, 1))}
    >>> read(latent(1), Reader("cache", header_of(latent(1), empty), arrays)).page
    2
    """
    reader.fits(schema)
    header = reader.header
    return PagedParts(
        header["page"],
        header["lengths"],
        header["ends"],
        tuple((at, end) for at, end in header["marks"]),
        tuple(map(tuple, header["tables"])),
        tuple(reader.rows(schema, [integer("counts", n, 1) for n in header["counts"]])),
    )


def _held_rows(schema: Schema[Any], page: int, number: int, rows: Sequence[Array]) -> int:
    """How many rows a page of `PagedParts` holds, once they are known to fit the schema."""
    if len(rows) != len(schema.stored):
        names = ", ".join(f.name for f in schema.stored)
        raise ShapeError(f"rows[{number}] must have {len(schema.stored)} entries ({names}), got {len(rows)}")
    count = integer(f"tokens of rows[{number}]", rows[0].shape[1] if rows[0].ndim == 3 else 0, 1, page)
    for f, array in zip(schema.stored, rows, strict=True):
        if array.shape != (f.heads, count, f.width):
            raise ShapeError(
                f"{f.name} of rows[{number}] must have shape [{f.heads}, {count}, {f.width}], got {array.shape}"
            )
        if array.dtype != f.dtype:
            raise DtypeError(f"{f.name} of rows[{number}] must have dtype {f.dtype}, got {array.dtype}")
    if schema.placed and rows[-1].min() < 0:
        raise PositionError(f"positions of rows[{number}] must be at least 0, got {rows[-1].min()}")
    return count
