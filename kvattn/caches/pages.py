"""A page: room for a fixed number of tokens of one sequence, written once and shared for ever.

Every slot is written at most once.  ``filled`` is the high-water mark: `Page.claim` gives the slots
behind it to exactly one writer, and whoever comes second, or was cut back below the mark, works on
a copy.  Slots nobody has written hold NaN (in integer fields: the lowest value of a signed, the
highest of an unsigned dtype), so that a read of unowned memory shows.
"""

from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import Any, cast

import numpy as np

from kvattn.caches.rows import R, Schema
from kvattn.counting import charge_page
from kvattn.typing import Array

SERIALS = count()
"""Numbers for whatever holds bytes: no two pages, states or blocks ever share one."""

_CLAIM = Lock()


def unwritten(dtype: np.dtype[Any]) -> float | int:
    """What a slot holds that nobody has written.

    >>> unwritten(np.dtype(np.float32)), unwritten(np.dtype(np.int8)), unwritten(np.dtype(np.uint8))
    (nan, -128, 255)
    """
    if dtype.kind == "f":
        return float("nan")
    return int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)


class Page:
    """Storage for ``size`` tokens; the arrays it hands out are read-only.

    Attributes
    ----------
    serial
        A number that no other page ever had.
    nbytes
        Bytes allocated.
    filled
        Slots ever written, counted from the first.
    arrays
        One read-only array per stored field, ``[heads, width, size]`` for keys, else ``[heads, size, width]``.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> page = Page(latent(3), size=4)
    >>> page.claim(0, 1), page.claim(0, 1)
    (True, False)
    >>> page.write(0, [np.ones((1, 1, 3))])
    >>> page.arrays[0][0, :, 0]
    array([ 1., nan, nan, nan])
    """

    __slots__ = ("__weakref__", "_schema", "_writers", "arrays", "filled", "memo", "nbytes", "serial", "size")

    def __init__(self, schema: Schema[R], size: int) -> None:
        self.serial = next(SERIALS)
        self.size = size
        self.filled = 0
        self.nbytes = size * schema.nbytes
        self.memo: Any = None  # what a cache built from this page once it was full
        self._schema: Schema[Any] = schema
        self._writers: list[Array] = []
        readers: list[Array] = []
        for field in schema.stored:
            dtype = np.dtype(field.dtype)
            owner = cast(Array, np.full(field.layout(size), unwritten(dtype), dtype))
            self._writers.append(owner[...])
            owner.flags.writeable = False  # a reader's flag cannot be switched back over a read-only owner
            readers.append(owner[...])
        self.arrays = tuple(readers)
        charge_page(self, self.nbytes)

    def claim(self, start: int, stop: int) -> bool:
        """Take the slots ``start .. stop - 1`` for writing; False if somebody has been there.

        >>> from kvattn.caches.rows import latent
        >>> Page(latent(3), size=4).claim(2, 3)  # the slots before are not written yet
        False
        """
        with _CLAIM:
            if self.filled != start:
                return False
            self.filled = stop
            return True

    def write(self, start: int, rows: Sequence[Array]) -> None:
        """Store rows ``[heads, n, width]`` per field from slot ``start`` on; claim the slots first.

        >>> from kvattn.caches.rows import latent
        >>> page = Page(latent(1), size=2)
        >>> page.claim(0, 2)
        True
        >>> page.write(0, [np.ones((1, 2, 1))])
        """
        for field, array, new in zip(self._schema.stored, self._writers, rows, strict=True):
            if field.keys:
                array[:, :, start : start + new.shape[1]] = new.swapaxes(1, 2)
            else:
                array[:, start : start + new.shape[1]] = new

    def read(self, start: int, stop: int) -> list[Array]:
        """Read-only views ``[heads, stop - start, width]`` per field.

        >>> from kvattn.caches.rows import latent
        >>> Page(latent(3), size=4).read(1, 3)[0].shape
        (1, 2, 3)
        """
        return [
            array[:, :, start:stop].swapaxes(1, 2) if field.keys else array[:, start:stop]
            for field, array in zip(self._schema.stored, self.arrays, strict=True)
        ]

    def copy(self, stop: int) -> "Page":
        """A new page with the rows below ``stop``; the rest is unwritten.

        >>> from kvattn.caches.rows import latent
        >>> page = Page(latent(1), size=2)
        >>> page.claim(0, 2), page.write(0, [np.ones((1, 2, 1))])
        (True, None)
        >>> page.copy(1).arrays[0].ravel(), page.copy(1).filled
        (array([ 1., nan]), 1)
        """
        twin = Page(self._schema, self.size)
        twin.claim(0, stop)
        twin.write(0, self.read(0, stop))
        return twin
