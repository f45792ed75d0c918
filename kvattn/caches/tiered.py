"""Recent pages in memory, older ones in a file that is mapped when they are read.

Once tokens lie ``recent`` or more behind the end, their page, when it is whole, is written to the file; the page in
memory goes as soon as no older value holds it.  A page goes out once, however many sequences, branches and values
share it, and is read where it lies, never brought back: the rows are equal to the bit, whoever reads them.  Appending
inside a page that lies in the file, after a rollback, copies its rows to a page in memory.

All values that come from one `Tiered.start` share one file, made for them in a folder of the caller's
choice.  The place of a page is used again when the last value and the last array that reads it are gone; the file
is removed with the last value, or when the interpreter ends (a process that is killed leaves it).  Should
somebody else remove it or cut it, whatever would touch it is refused; what lies in memory is not lost, and pages
whose bytes were overwritten by others are not noticed.

Bytes: `Tiered.nbytes` is what lies in memory, `Tiered.stored` what lies in the file; a page that goes out is charged
as ``kv_copied``; `Tiered.moved` says how many bytes went out and how many were looked at there, a whole page at each
look, which is what a device would have to fetch.

Source: moving old blocks out is Sheng et al. 2023 (FlexGen, 2303.06865) section 4 and the offloading of every server.
Where libraries differ: transformers' offloaded caches move whole layers and bring them back before they are read;
SGLang's hierarchical cache and vLLM's connectors move blocks of shared prefixes, and copy them back to the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
import os
from pathlib import Path
from typing import Any, Generic, NamedTuple, cast

from kvattn.arguments import integer
from kvattn.caches._filed import File, in_file
from kvattn.caches.accounting import live_bytes
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.paged import Paged
from kvattn.caches.pages import Page
from kvattn.caches.rows import R, Schema
from kvattn.caches.tables import RawBlock
from kvattn.errors import ArgumentError
from kvattn.typing import Positions


class Moved(NamedTuple):
    """Bytes that went out to the file, and bytes of pages that were looked at there."""

    out: int
    back: int


@dataclass(frozen=True, slots=True, eq=False)
class Tiered(Generic[R]):
    """A paged cache whose older pages lie in a file; make one with `Tiered.start`.

    Attributes
    ----------
    recent
        Tokens at the end of a sequence that always lie in memory, unless a rollback has led back into the file.
    memory
        All rows, wherever they lie.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.caches.rows import latent
    >>> cache = Tiered.start(latent(2), recent=4, page=2).append([np.arange(20.0).reshape(1, 1, 10, 2)])
    >>> cache.nbytes, cache.stored, cache.moved
    (64, 96, Moved(out=96, back=0))
    >>> cache.rows().latent[0, 0, :, 0]
    array([ 0.,  2.,  4.,  6.,  8., 10., 12., 14., 16., 18.])
    >>> path = cache.path
    >>> del cache
    >>> path.exists()
    False
    """

    recent: int
    memory: Paged[R]
    _file: File = field(repr=False)
    _out: tuple[int, ...] = field(repr=False)

    @classmethod
    def start(
        cls,
        schema: Schema[R],
        *,
        recent: int,
        batch: int = 1,
        page: int = BLOCK,
        directory: str | os.PathLike[str] | None = None,
    ) -> "Tiered[R]":
        """The empty cache, and its empty file.

        Parameters
        ----------
        directory
            Where the file is made; the system's folder for temporary files unless given.

        Raises
        ------
        ArgumentError
            ``recent`` below 0; ``batch`` or ``page`` below 1; a folder in which no file can be made.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=1024).moved
        Moved(out=0, back=0)
        """
        recent, memory = integer("recent", recent, 0), Paged.start(schema, batch, page)
        try:
            file = File(schema, memory.page, directory)
        except OSError as error:
            raise ArgumentError(
                f"directory must be a folder in which a file can be made, got {directory} ({type(error).__name__})"
            ) from error
        return cls(recent, memory, file, (0,) * memory.batch)

    @property
    def path(self) -> Path:
        """The file, which is removed when the last value goes.

        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=8).path.suffix
        '.pages'
        """
        return self._file.path

    @property
    def moved(self) -> Moved:
        """Bytes that all values of this file have moved so far.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache = Tiered.start(latent(1), recent=0, page=2).append([np.ones((1, 1, 4, 1))])
        >>> cache.rows(), cache.moved
        (Latent(latent=array([[[[1.],
                 [1.],
                 [1.],
                 [1.]]]])), Moved(out=32, back=32))
        """
        return Moved(self._file.out, self._file.back)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=8, batch=2).lengths
        (0, 0)
        """
        return self.memory.lengths

    @property
    def length(self) -> int:
        """Tokens of every sequence; an error where they differ.

        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=8).length
        0
        """
        return self.memory.length

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=8, batch=2).batch
        2
        """
        return self.memory.batch

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token.

        >>> from kvattn.caches.rows import key_value
        >>> Tiered.start(key_value(1, 2), recent=4).ends
        (0,)
        """
        return self.memory.ends

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import key_value
        >>> Tiered.start(key_value(1, 2), recent=4).coming(2)
        array([[0, 1]])
        """
        return self.memory.coming(new)

    def append(
        self,
        rows: R | Sequence[Any],
        positions: Positions | None = None,
        counts: Sequence[int] | Positions | None = None,
    ) -> "Tiered[R]":
        """Add tokens to every sequence, and let go what is no longer recent.

        Parameters are those of `kvattn.caches.paged.Paged.append`, whose errors it raises.

        Raises
        ------
        ArgumentError
            The file is gone, too short or cannot be written.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache = Tiered.start(latent(2), recent=1, page=2)
        >>> [(cache := cache.append([np.ones((1, 1, 1, 2))])).stored for _ in range(4)]
        [0, 0, 32, 32]
        """
        self.memory.schema.check(rows, self.batch)
        self._file.check()
        memory = self.memory.append(rows, positions, counts)
        tables, size, out = list(memory._tables), memory.page, []
        for b, (length, first) in enumerate(zip(memory.lengths, self._out, strict=True)):
            stop = max(first, (length - self.recent) // size)
            for index in range(first, stop):
                page = tables[b][index]
                if page is not None and not in_file(page):
                    tables[b] = tables[b].replace(index, cast(Page, self._file.store(page)))
            out.append(stop)
        return replace(self, memory=replace(memory, _tables=tuple(tables)), _out=tuple(out))

    def truncate(self, length: int | Sequence[int]) -> "Tiered[R]":
        """Forget everything from slot ``length`` on; one number, or one for each sequence.  Nothing is moved.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache holds.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache = Tiered.start(latent(2), recent=0, page=2).append([np.ones((1, 1, 8, 2))])
        >>> cache.truncate(3).stored, cache.truncate(3).moved.back
        (64, 0)
        """
        memory = self.memory.truncate(length)
        out = tuple(min(n, length // memory.page) for n, length in zip(self._out, memory.lengths, strict=True))
        return replace(self, memory=memory, _out=out)

    def select(self, indices: Sequence[int] | Positions) -> "Tiered[R]":
        """Reorder, repeat or drop sequences; pages are shared wherever they lie.

        Raises
        ------
        ArgumentError
            No index, or one that is not a sequence's number.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=0, page=2).append([np.ones((1, 1, 8, 2))]).select([0, 0, 0]).stored
        128
        """
        memory = self.memory.select(indices)
        return replace(self, memory=memory, _out=tuple(self._out[i] for i in indices))

    def branch(self) -> "Tiered[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import latent
        >>> cache = Tiered.start(latent(2), recent=8)
        >>> cache.branch() is cache
        True
        """
        return self

    def rows(self, start: int = 0, stop: int | None = None, *, sequence: int | None = None) -> R:
        """The rows of slots ``start .. stop - 1``, copied from wherever they lie; see `kvattn.caches.paged.Paged.rows`.

        Raises
        ------
        ArgumentError
            What `Paged.rows` refuses, or a file that is gone.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(1), recent=0, page=2).append([np.ones((1, 1, 8, 1))]).rows(3, 5).latent.ravel()
        array([1., 1.])
        """
        return self.memory.rows(start, stop, sequence=sequence)

    def raw_blocks(self, sequence: int) -> tuple[RawBlock, ...]:
        """The blocks of 256 slots, in storage layout; with 256 tokens to a page a full one is the page, mapped.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache = Tiered.start(latent(2), recent=0).append([np.ones((1, 1, 300, 2))])
        >>> [(block.start, block.key_count) for block in cache.raw_blocks(0)]
        [(0, 256), (256, 44)]
        """
        return self.memory.raw_blocks(sequence)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence as the streaming softmax takes them; the schema needs fields k and v.

        >>> import numpy as np
        >>> from kvattn.caches.rows import key_value
        >>> cache = Tiered.start(key_value(1, 2), recent=0).append([np.ones((1, 1, 300, 2))] * 2)
        >>> [(block.start, block.key_count) for block in cache.blocks(0)]
        [(0, 256), (256, 44)]
        """
        return self.memory.blocks(sequence)

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: all rows, wherever they lie, and what lies in the file.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache = Tiered.start(latent(2), recent=1, page=2).append([np.ones((1, 1, 8, 2))])
        >>> cache.flatten_into(Writer("cache", {}))["filed"]
        [0, 1, 2]
        """
        memory = writer.inner(self.memory)
        filed = {
            number
            for row, table in zip(memory["tables"], self.memory._tables, strict=True)
            for number, page in zip(row, table, strict=True)
            if number >= 0 and in_file(page) and memory["counts"][number] == self.memory.page
        }
        return {"recent": self.recent, "out": [*self._out], "filed": sorted(filed), "memory": memory}

    def rebuild_from(self, reader: Reader) -> "Tiered[R]":
        """Another cache as `kvattn.caches.flattened` has it; what lay in a file goes to the file of this one.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> cache, writer = Tiered.start(latent(2), recent=1, page=2).append([np.ones((1, 1, 8, 2))]), Writer("x", {})
        >>> empty = Tiered.start(latent(2), recent=1, page=2)
        >>> again = empty.rebuild_from(Reader("x", cache.flatten_into(writer), writer.arrays))
        >>> again.nbytes, again.stored, again.path == empty.path
        (32, 96, True)
        """
        header = reader.header
        reader.agree(recent=self.recent)
        Reader(reader.name, header["memory"], {}).agree(page=self.memory.page)
        memory: Paged[R] = reader.inner(header["memory"], self.memory)
        out = reader.each("out", memory.batch)
        for b, (count, length) in enumerate(zip(out, memory.lengths, strict=True)):
            integer(f"out[{b}]", count, 0, length // memory.page)
        counts = header["memory"]["counts"]
        filed = {integer("filed", number, 0, len(counts) - 1) for number in header["filed"]}
        if any(counts[number] != memory.page for number in filed):
            raise ArgumentError(f"filed must name whole pages, got {sorted(filed)} of {counts} rows")
        self._file.check()
        tables = list(memory._tables)
        for b, row in enumerate(header["memory"]["tables"]):
            for index, number in enumerate(row):
                page = tables[b][index]
                if number in filed and page is not None:
                    tables[b] = tables[b].replace(index, cast(Page, self._file.store(page)))
        return replace(self, memory=replace(memory, _tables=tuple(tables)), _out=out)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page in memory, each once.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> list(Tiered.start(latent(2), recent=1, page=2).append([np.ones((1, 1, 8, 2))]).footprint().values())
        [32]
        """
        return {p.serial: p.nbytes for t in self.memory._tables for p in t if p is not None and not in_file(p)}

    @property
    def nbytes(self) -> int:
        """Bytes that this value holds in memory, shared pages once.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=1, page=2).append([np.ones((1, 1, 8, 2))]).nbytes
        32
        """
        return live_bytes(self)

    @property
    def stored(self) -> int:
        """Bytes that this value holds in the file, shared pages once.

        >>> import numpy as np
        >>> from kvattn.caches.rows import latent
        >>> Tiered.start(latent(2), recent=1, page=2).append([np.ones((1, 1, 8, 2))]).stored
        96
        """
        return live_bytes(self.memory) - self.nbytes
