"""A cache as engines have it, physical blocks and a table of their numbers for each sequence, and back.

    row of slot s of sequence b  =  blocks[table[b, s // page], s % page]

Shapes: one array ``[N, page, heads, width]`` per field, as vLLM and FlashAttention lay pages out; ``table
[B, columns]`` of int32, -1 behind a sequence's last block and where a page was released; ``lengths [B]`` of int32.
A page that several sequences share is one block.  Slots of a block that no sequence owns hold NaN (in integer fields
the lowest value of a signed, the highest of an unsigned dtype), so that a read of them shows.

`kvattn.execution.block_table.BlockTable` attends over these arrays; the result equals attention over the cache to the
bit.
Source: Kwon et al. 2023, PagedAttention (arXiv 2309.06180) §4.1.
"""

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple

import numpy as np

from kvattn.arguments import integer
from kvattn.arrays import anything
from kvattn.caches.paged import Paged
from kvattn.caches.paged_parts import PagedParts
from kvattn.caches.pages import unwritten
from kvattn.caches.rows import R, Schema
from kvattn.errors import ArgumentError, DtypeError, ShapeError


class BlockArrays(NamedTuple, Generic[R]):
    """What an engine's kernel takes.

    Attributes
    ----------
    blocks
        The row of the schema, with one array ``[N, page, heads, width]`` for each field.
    table
        ``[B, columns]``, int32; -1 where there is no block.
    lengths
        ``[B]``, int32.
    """

    blocks: R
    table: np.ndarray[Any, np.dtype[np.int32]]
    lengths: np.ndarray[Any, np.dtype[np.int32]]


def export_block_table(cache: Paged[R]) -> BlockArrays[R]:
    """The pages of a cache as blocks, copied, and the tables of its sequences.

    Raises
    ------
    ArgumentError
        A cache whose tokens have positions of their own: blocks and tables cannot say them.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> cache = Paged.start(latent(1), page=2).append([np.arange(3.0).reshape(1, 1, 3, 1)]).select([0, 0])
    >>> blocks, table, lengths = export_block_table(cache.truncate([3, 2]))
    >>> table, lengths
    (array([[ 0,  1],
           [ 0, -1]], dtype=int32), array([3, 2], dtype=int32))
    >>> blocks.latent[..., 0, 0]
    array([[ 0.,  1.],
           [ 2., nan]])
    """
    if cache.schema.placed:
        raise ArgumentError(f"cache must have slots for positions, got the placed schema {cache.schema.name}")
    parts = cache.parts()
    table = np.full((cache.batch, max(map(len, parts.tables))), -1, np.int32)
    for row, numbers in zip(table, parts.tables, strict=True):
        row[: len(numbers)] = numbers
    blocks = []
    for n, field in enumerate(cache.schema.fields):
        dtype = np.dtype(field.dtype)
        whole = np.full((len(parts.rows), parts.page, field.heads, field.width), unwritten(dtype), dtype)
        for block, rows in zip(whole, parts.rows, strict=True):
            block[: rows[n].shape[1]] = rows[n].swapaxes(0, 1)
        blocks.append(whole)
    return BlockArrays(cache.schema.row(*blocks), table, np.array(cache.lengths, np.int32))


def import_block_table(schema: Schema[R], blocks: Sequence[Any], table: Any, lengths: Any) -> Paged[R]:
    """The cache that an engine's arrays hold, on pages of its own; blocks that nobody names are left out.

    Parameters
    ----------
    schema
        What a token stores; not placed.
    blocks
        ``[N, page, heads, width]`` for each field, in the order of the schema.
    table
        ``[B, columns]``, integers; -1 is a released page, entries behind a sequence's last block are not read.
    lengths
        ``[B]``, integers.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        Arrays that do not fit the schema or each other, a length beyond the table, a number that is no block's, or no
        block where the next token would be written.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> pool = np.arange(6.0).reshape(3, 2, 1, 1)
    >>> import_block_table(latent(1), [pool], [[2, 0], [1, -1]], [3, 2]).rows(sequence=0).latent.ravel()
    array([4., 5., 0.])
    """
    if schema.placed:
        raise ArgumentError(f"schema must not be placed, since tables say no positions, got {schema.name}")
    arrays, columns, ends = [np.asarray(x) for x in blocks], anything("table", table), anything("lengths", lengths)
    if len(arrays) != len(schema.fields):
        names = ", ".join(f.name for f in schema.fields)
        raise ShapeError(f"blocks must have {len(schema.fields)} entries ({names}), got {len(arrays)}")
    count, page = arrays[0].shape[:2] if arrays[0].ndim == 4 else (0, 0)
    for field, array in zip(schema.fields, arrays, strict=True):
        if array.shape != (count, page, field.heads, field.width) or not page:
            raise ShapeError(
                f"{field.name} must have shape [N, page, heads={field.heads}, width={field.width}] with one N and one "
                f"page >= 1 for all fields, got {array.shape}"
            )
        if array.dtype != field.dtype:
            raise DtypeError(f"{field.name} must have dtype {field.dtype}, got {array.dtype}")
    if columns.ndim != 2 or ends.shape != columns.shape[:1] or not ends.size:
        raise ShapeError(f"table and lengths must be [B, columns] and [B], got {columns.shape} and {ends.shape}")
    for name, given in (("table", columns), ("lengths", ends)):
        if given.dtype.kind not in "iu" and given.size:
            raise ArgumentError(f"{name} must hold integers, got dtype {given.dtype}")
    sizes = tuple(integer(f"lengths[{b}]", n, 0, columns.shape[1] * page) for b, n in enumerate(ends.tolist()))
    # a page stands at one place of all tables, an engine's block may stand at several
    numbers: dict[tuple[int, int], int] = {}
    used: list[int] = []
    tables = []
    for b, length in enumerate(sizes):
        row = []
        for column in range(-(-length // page)):
            taken = min(page, length - column * page)
            block = integer(f"table[{b}, {column}]", int(columns[b, column]), -1 if taken == page else 0, count - 1)
            if block < 0:
                row.append(-1)
                continue
            number = numbers.setdefault((block, column), len(used))
            if number == len(used):
                used.append(0)
            used[number] = max(used[number], taken)
            row.append(number)
        tables.append(tuple(row))
    rows = [tuple(x[block, :n].swapaxes(0, 1) for x in arrays) for (block, _), n in zip(numbers, used, strict=True)]
    marks = ((0, 0),) * len(sizes)
    return Paged.of_parts(schema, PagedParts(page, sizes, sizes, marks, tuple(tables), tuple(rows)))
