"""What one sequence keeps: a table of pages, read by slot and extended at its end.

A table is a tuple of pages in the order of their slots, with None where a page was released.
These functions never change a table; `extend` returns a new one that shares every page but
perhaps the last.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from kvattn.caches.blocks import BLOCK
from kvattn.caches.pages import Page
from kvattn.caches.rows import R, Schema
from kvattn.errors import PositionError
from kvattn.typing import Array, Positions, Visible

Table = tuple[Page | None, ...]
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
    """Write rows ``[heads, T, width]`` per field behind slot ``length - 1``.

    Returns
    -------
    tuple
        The new table, and how many rows had to be copied because somebody else was there first.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> row = [np.ones((1, 1, 2))]
    >>> one, copied = extend(latent(2), 4, (), 0, row)
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
            table = (*table[:-1], page)
        page.write(at, [x[:, :done] for x in rows])
    opened = []
    for start in range(done, new, size):
        page, stop = Page(schema, size), min(start + size, new)
        page.claim(0, stop - start)
        page.write(0, [x[:, start:stop] for x in rows])
        opened.append(page)
    return ((*table, *opened) if opened else table), copied


def gather(size: int, table: Table, start: int, stop: int, out: Sequence[Array]) -> None:
    """Copy slots ``start .. stop - 1`` into arrays ``[heads, stop - start, width]``.

    Raises
    ------
    PositionError
        A slot that has been released.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> table, _ = extend(latent(1), 2, (), 0, [np.arange(3.0).reshape(1, 3, 1)])
    >>> out = [np.empty((1, 2, 1))]
    >>> gather(2, table, 1, 3, out)
    >>> out[0].ravel()
    array([1., 2.])
    """
    for index in range(start // size, -(-stop // size)):
        page, base = table[index], index * size
        low, high = max(start, base), min(stop, base + size)
        if page is None:
            raise PositionError(f"slots {low} .. {high - 1} must be held, but they have been released")
        for target, rows in zip(out, page.read(low - base, high - base), strict=True):
            target[:, low - start : high - start] = rows


def raw_blocks(schema: Schema[R], size: int, table: Table, length: int) -> tuple[RawBlock, ...]:
    """The blocks of 256 slots that hold anything; with ``size`` 256 a full one is the page itself.

    >>> from kvattn.caches.rows import latent
    >>> table, _ = extend(latent(1), 200, (), 0, [np.ones((1, 300, 1))])
    >>> [(block.start, block.key_count) for block in raw_blocks(latent(1), 200, table, 300)]
    [(0, 256), (256, 44)]
    """
    found = []
    for start in range(0, length, BLOCK):
        if size == BLOCK and start + BLOCK <= length:
            page = table[start // BLOCK]
            block = None if page is None else _whole_page(page, start)
        else:
            block = _gathered(schema, size, table, start, min(start + BLOCK, length))
        if block is not None:
            found.append(block)
    return tuple(found)


def _whole_page(page: Page, start: int) -> RawBlock:
    if page.memo is None:  # a full page never changes and always stands at the same slots
        positions = np.arange(start, start + BLOCK)
        positions.flags.writeable = False
        page.memo = RawBlock(start, page.arrays, positions, None)
    return cast(RawBlock, page.memo)


def _gathered(schema: Schema[Any], size: int, table: Table, start: int, stop: int) -> RawBlock | None:
    held = np.zeros(BLOCK, np.bool_)
    arrays = tuple(np.zeros(f.layout(BLOCK), f.dtype) for f in schema.fields)
    for index in range(start // size, -(-stop // size)):
        page, base = table[index], index * size
        if page is None:
            continue
        low, high = max(start, base), min(stop, base + size)
        held[low - start : high - start] = True
        for f, target, source in zip(schema.fields, arrays, page.arrays, strict=True):
            time = (slice(None),) * (2 if f.keys else 1)
            target[(*time, slice(low - start, high - start))] = source[(*time, slice(low - base, high - base))]
    if not held.any():
        return None
    positions = np.arange(start, start + BLOCK)
    positions[~held] = positions[held][0]
    for array in (*arrays, positions, held):
        array.flags.writeable = False
    return RawBlock(start, arrays, positions, None if held.all() else held)
