"""What one sequence keeps: a table of pages, read by slot and extended at its end.

A table is a `kvattn.caches.vectors.Vector` of pages in the order of their slots, with None where a page was
released.  These functions never change a table: `extend` returns one that shares every page but perhaps the last,
`alter` one that shares the pages before the first slot that changes.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.pages import Page
from kvattn.caches.rows import R, Schema
from kvattn.caches.vectors import Vector
from kvattn.errors import ArgumentError, PositionError
from kvattn.typing import Array, Positions, Visible

Table = Vector[Page | None]
"""Pages by slot; None is a hole."""


class RawBlock(NamedTuple):
    """Slots ``start .. start + 255`` of one sequence as they are stored.

    Attributes
    ----------
    start
        The first slot, a multiple of 256.
    arrays
        One per field, ``[heads, width, 256]`` for keys, else ``[heads, 256, width]``; unheld columns are zero.
    positions
        ``[256]``; an unheld column repeats the position of a held one.
    held
        ``[256]``, or None when every column holds a token.
    """

    start: int
    arrays: tuple[Array, ...]
    positions: Positions
    held: Visible | None

    @property
    def key_count(self) -> int:
        """How many columns hold a token.

        >>> RawBlock(0, (), np.arange(256), np.arange(256) < 3).key_count
        3
        """
        return BLOCK if self.held is None else int(self.held.sum())


def extend(schema: Schema[R], size: int, table: Table, length: int, rows: Sequence[Array]) -> tuple[Table, int]:
    """Write rows ``[heads, T, width]`` per stored field behind slot ``length - 1``.

    Returns
    -------
    tuple
        The new table, and how many rows had to be copied because somebody else was there first.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> row = [np.ones((1, 1, 2))]
    >>> one, copied = extend(latent(2), 4, Vector(), 0, row)
    >>> left, copied = extend(latent(2), 4, one, 1, row)
    >>> left == one, copied  # into free room
    (True, 0)
    >>> right, copied = extend(latent(2), 4, one, 1, row)
    >>> right == one, copied  # the room is taken
    (False, 1)
    """
    new, at, done, copied = rows[0].shape[1], length % size, 0, 0
    if at:
        last = cast(Page, table[-1])  # a page that is partly used is never released
        done = min(new, size - at)
        page = last
        if not last.claim(at, at + done):
            page, copied = last.copy(at), at
            page.claim(at, at + done)
            table = table.replace(len(table) - 1, page)
        page.write(at, [x[:, :done] for x in rows])
    opened: list[Page | None] = []
    for start in range(done, new, size):
        page, stop = Page(schema, size), min(start + size, new)
        page.claim(0, stop - start)
        page.write(0, [x[:, start:stop] for x in rows])
        opened.append(page)
    return table.extend(opened), copied


def gather(size: int, table: Table, start: int, stop: int, out: Sequence[Array]) -> None:
    """Copy slots ``start .. stop - 1`` into arrays ``[heads, stop - start, width]``, one for each of the first fields.

    Raises
    ------
    PositionError
        A slot that has been released.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> table, _ = extend(latent(1), 2, Vector(), 0, [np.arange(3.0).reshape(1, 3, 1)])
    >>> out = [np.empty((1, 2, 1))]
    >>> gather(2, table, 1, 3, out)
    >>> out[0].ravel()
    array([1., 2.])
    """
    first = start // size
    for index, page in enumerate(table.between(first, -(-stop // size)), first):
        base = index * size
        low, high = max(start, base), min(stop, base + size)
        if page is None:
            raise PositionError(f"slots {low} .. {high - 1} must be held, but they have been released")
        for target, rows in zip(out, page.read(low - base, high - base), strict=False):
            target[:, low - start : high - start] = rows


def pick(schema: Schema[R], size: int, table: Table, slots: Positions) -> list[Array]:
    """The rows of some slots, ``[heads, len(slots), width]`` per stored field.

    Raises
    ------
    PositionError
        A slot that has been released.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> table, _ = extend(latent(1), 2, Vector(), 0, [np.arange(5.0).reshape(1, 5, 1)])
    >>> pick(latent(1), 2, table, np.array([1, 2, 4]))[0].ravel()
    array([1., 2., 4.])
    """
    out = [cast(Array, np.empty((f.heads, len(slots), f.width), f.dtype)) for f in schema.stored]
    pages = slots // size
    edges = [0, *(np.flatnonzero(np.diff(pages)) + 1).tolist(), len(slots)] if len(slots) else [0]
    for low, high in pairwise(edges):
        index = int(pages[low])
        page = table[index]
        if page is None:
            raise PositionError(f"slot {slots[low]} must be held, but it has been released")
        for target, rows in zip(out, page.read(0, size), strict=True):
            target[:, low:high] = rows[:, slots[low:high] - index * size]
    return out


def alter(
    schema: Schema[R],
    size: int,
    table: Table,
    length: int,
    start: int,
    change: Callable[[list[Array]], list[Array]],
) -> tuple[Table, int]:
    """Put other rows in the place of those from slot ``start`` on; holes stay where they are.

    Parameters
    ----------
    change
        Gets the rows that are held from ``start`` on, ``[heads, n, width]`` per stored field, and returns as many.

    Returns
    -------
    tuple
        The table, which shares the pages before that of ``start``, and how many rows were written.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> table, _ = extend(latent(1), 2, Vector(), 0, [np.arange(5.0).reshape(1, 5, 1)])
    >>> other, written = alter(latent(1), 2, table, 5, 3, lambda rows: [-rows[0]])
    >>> pick(latent(1), 2, other, np.arange(5))[0].ravel(), written, other[0] is table[0]
    (array([ 0.,  1.,  2., -3., -4.]), 3, True)
    """
    first = start // size
    pages = list(table.between(first, len(table)))
    held = np.repeat([page is not None for page in pages], size)[start - first * size : length - first * size]
    rows = change(pick(schema, size, table, np.flatnonzero(held) + start))
    fresh: list[Page | None] = []
    taken = written = 0
    for index, page in enumerate(pages, first):
        if page is None:
            fresh.append(None)
            continue
        at, stop = max(0, start - index * size), min(size, length - index * size)
        twin = page.copy(at)
        twin.claim(at, stop)
        twin.write(at, [x[:, taken : taken + stop - at] for x in rows])
        fresh.append(twin)
        taken, written = taken + stop - at, written + stop
    return table.take(first).extend(fresh), written


def raw_blocks(schema: Schema[R], size: int, table: Table, length: int, since: int = 0) -> tuple[RawBlock, ...]:
    """The blocks of 256 slots that hold anything; with ``size`` 256 a full one is the page itself.

    Parameters
    ----------
    since
        The first slot that counts; the table begins with the page of this slot.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> table, _ = extend(latent(1), 200, Vector(), 0, [np.ones((1, 300, 1))])
    >>> [(block.start, block.key_count) for block in raw_blocks(latent(1), 200, table, 300)]
    [(0, 256), (256, 44)]
    >>> [(block.start, block.key_count) for block in raw_blocks(latent(1), 200, table, 300, since=9)]
    [(0, 247), (256, 44)]
    """
    found, pages = [], list(table)
    first = since // size
    for start in range(since // BLOCK * BLOCK, length, BLOCK):
        if size == BLOCK and since <= start and start + BLOCK <= length:
            page = pages[start // BLOCK - first]
            block = None if page is None else _whole_page(schema, page, start)
        else:
            block = _gathered(schema, size, pages, first, max(start, since), min(start + BLOCK, length))
        if block is not None:
            found.append(block)
    return tuple(found)


def key_blocks(schema: Schema[Any], raw: Sequence[RawBlock]) -> tuple[KeyBlock, ...]:
    """Blocks of a schema with keys ``k`` and values ``v``, as the streaming softmax takes them.

    Raises
    ------
    ArgumentError
        A schema without keys ``k`` and values ``v``.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> key_blocks(latent(2), ())
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: schema must have keys k and values v to make blocks of them, got Latent
    """
    place = {f.name: (n, f.keys) for n, f in enumerate(schema.fields)}
    (k, turned), (v, flat) = place.get("k", (0, False)), place.get("v", (0, True))
    if not turned or flat:
        raise ArgumentError(f"schema must have keys k and values v to make blocks of them, got {schema.name}")
    return tuple(KeyBlock(b.start, b.arrays[k], b.arrays[v], b.positions, b.held) for b in raw)


def _whole_page(schema: Schema[Any], page: Page, start: int) -> RawBlock:
    block: RawBlock | None = page.memo
    if block is None:  # a full page never changes and always stands at the same slots
        positions = _positions(page) if schema.placed else np.arange(start, start + BLOCK)
        positions.flags.writeable = False
        block = page.memo = RawBlock(start, page.arrays[: len(schema.fields)], positions, None)
    return block


def _positions(page: Page) -> Positions:
    """Position of each slot of a page whose schema is placed, ``[size]``."""
    return cast(Positions, page.arrays[-1][0, :, 0])


def _gathered(
    schema: Schema[Any], size: int, pages: Sequence[Page | None], first: int, start: int, stop: int
) -> RawBlock | None:
    """Slots ``start .. stop - 1`` in the block that they lie in; ``pages`` begin with page number ``first``."""
    origin = start // BLOCK * BLOCK
    held = np.zeros(BLOCK, np.bool_)
    arrays = tuple(np.zeros(f.layout(BLOCK), f.dtype) for f in schema.fields)
    positions = np.arange(origin, origin + BLOCK)
    for index in range(start // size, -(-stop // size)):
        page, base = pages[index - first], index * size
        if page is None:
            continue
        low, high = max(start, base), min(stop, base + size)
        there, here = slice(low - origin, high - origin), slice(low - base, high - base)
        held[there] = True
        if schema.placed:
            positions[there] = _positions(page)[here]
        for f, target, source in zip(schema.fields, arrays, page.arrays, strict=False):
            time = (slice(None),) * (2 if f.keys else 1)
            target[(*time, there)] = source[(*time, here)]
    if not held.any():
        return None
    positions[~held] = positions[held][0]
    for array in (*arrays, positions, held):
        array.flags.writeable = False
    return RawBlock(origin, arrays, positions, None if held.all() else held)
