"""Pages that lie in a file: places of one size, each written once, mapped when it is read, and used again.

`kvattn.caches.tiered.Tiered` puts them into its tables, where they stand for pages in memory that nobody may extend.
What is read is a view of the map; the place is given to another page only when nobody reads it any more.
"""

import mmap
import os
from pathlib import Path
from tempfile import mkstemp
from threading import Lock
from typing import Any, cast
import weakref

import numpy as np

from kvattn.caches.pages import SERIALS, Page
from kvattn.caches.rows import Schema
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.typing import Array

_ALIGNED = 64


class _Map(mmap.mmap):
    """A mapped page: as long as an array reads it, its place in the file is not given to another."""

    page: "FiledPage"


class FiledPage:
    """A full page in the file; it can do what a `Page` can that nobody may extend."""

    __slots__ = ("__weakref__", "file", "index", "nbytes", "serial", "size")

    def __init__(self, file: "File", index: int, size: int, nbytes: int) -> None:
        self.file, self.index, self.size, self.nbytes = file, index, size, nbytes
        self.serial = next(SERIALS)
        weakref.finalize(self, file.free.append, index).atexit = False

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The rows, mapped and read-only."""
        return self.file.look(self)

    @property
    def memo(self) -> None:
        """Nothing: what is mapped would keep this page, and this page the map."""

    @memo.setter
    def memo(self, _: object) -> None:
        pass

    def claim(self, start: int, stop: int) -> bool:
        """No slot is free here, whatever ``start .. stop - 1`` is."""
        return start == stop

    def read(self, start: int, stop: int) -> list[Array]:
        """Views ``[heads, stop - start, width]`` per field."""
        stored = self.file.schema.stored
        return [
            x[:, :, start:stop].swapaxes(1, 2) if f.keys else x[:, start:stop]
            for f, x in zip(stored, self.arrays, strict=True)
        ]

    def copy(self, stop: int) -> Page:
        """A page in memory with the rows below ``stop``."""
        twin = Page(self.file.schema, self.size)
        twin.claim(0, stop)
        twin.write(0, self.read(0, stop))
        return twin


class File:
    """The file: places of one size, given to pages and taken back."""

    def __init__(self, schema: Schema[Any], size: int, directory: str | os.PathLike[str] | None) -> None:
        handle, name = mkstemp(prefix="kvattn-", suffix=".pages", dir=directory)
        os.close(handle)
        self.path = Path(name)
        weakref.finalize(self, _remove, self.path)
        self.schema = schema
        self.starts = [0]
        for f in schema.stored:
            nbytes = size * f.nbytes
            self.starts.append(self.starts[-1] + -(-nbytes // _ALIGNED) * _ALIGNED)
        self.stride = self.starts.pop()
        self.places = self.out = self.back = 0
        self.free: list[int] = []
        self.twins: weakref.WeakValueDictionary[int, FiledPage] = weakref.WeakValueDictionary()
        self._lock = Lock()

    def check(self) -> None:
        """Refuse to go on without the file."""
        wanted = self.places * self.stride
        try:
            came = self.path.stat().st_size
        except OSError as error:
            raise self.gone(f"cannot be read ({type(error).__name__})") from error
        if came < wanted:
            raise self.gone(f"has {came} bytes")

    def gone(self, came: str) -> ArgumentError:
        """What is said when the file is not what this cache left."""
        return ArgumentError(
            f"file {self.path.name} of this cache must hold its {self.places} pages, "
            f"{self.places * self.stride} bytes, but it {came}"
        )

    def store(self, page: Page) -> FiledPage:
        """The page in the file that holds what ``page`` holds; written once."""
        with self._lock:
            known = self.twins.get(page.serial)
            if known is not None:
                return known
            index = self.free.pop() if self.free else self.places
            try:
                with self.path.open("r+b") as handle:
                    for start, array in zip(self.starts, page.arrays, strict=True):
                        handle.seek(self.offset(index) + start)
                        handle.write(array.tobytes())
                    handle.truncate(max(self.places, index + 1) * self.stride)
            except OSError as error:
                if index < self.places:
                    self.free.append(index)
                raise self.gone(f"cannot be written ({type(error).__name__})") from error
            self.places = max(self.places, index + 1)
            self.out += page.nbytes
            filed = FiledPage(self, index, page.size, page.nbytes)
            self.twins[page.serial] = filed
        charge(Tally(kv_copied=page.nbytes))
        return filed

    def offset(self, index: int) -> int:
        """Where a place begins."""
        return index * self.stride

    def look(self, page: FiledPage) -> tuple[Array, ...]:
        """Map one page."""
        offset = self.offset(page.index)
        extra = offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self.path.open("rb") as handle:
                mapped = _Map(handle.fileno(), self.stride + extra, access=mmap.ACCESS_READ, offset=offset - extra)
        except (OSError, ValueError) as error:
            raise self.gone(f"cannot be mapped ({type(error).__name__})") from error
        mapped.page = page
        with self._lock:
            self.back += page.nbytes
        found = []
        for start, f in zip(self.starts, self.schema.stored, strict=True):
            shape = f.layout(page.size)
            flat = np.frombuffer(mapped, f.dtype, shape[0] * shape[1] * shape[2], extra + start)
            found.append(cast(Array, flat.reshape(shape)))
        return tuple(found)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # somebody else holds or has moved it
        return


def in_file(page: object) -> bool:
    """Whether a page lies in a file."""
    return isinstance(page, FiledPage)
