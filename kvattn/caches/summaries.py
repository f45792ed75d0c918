"""Block summaries beside the rows: the elementwise least, greatest and mean key of every block of tokens.

    low_n = min k_t,    high_n = max k_t,    mean_n = (Σ k_t) / count        over slots t of block n

Selection reads them instead of the keys: the score of any key of a block is at most ``Σ_d max(q_d low_d, q_d high_d)``
(Quest), and a mean stands for its block elsewhere (MoBA).  They are always those of the rows held: after any append,
truncate or select, and to the bit whatever the cut, since sums go from slot to slot in order.  A full block's
summary is written once and shared; that of the last block, which is still filling, is made anew by each append, and
by a truncate that ends inside a block, which reads that block's rows once more.

Shapes: low, high, mean ``[heads, blocks, width]``.
Cached: the rows, and per full block 3 rows of ``heads · width`` numbers (least, greatest, sum); the same once per
sequence for the block that is filling.
Cost per token: ``3 · heads · width`` comparisons and additions, none for the first of a block.

Source: Tang et al. 2024 (Quest, 2406.10774) section 3; Lu et al. 2025 (MoBA, 2502.13189) section 2 for the mean.
Where libraries differ: pages of 16 tokens in Quest's code, blocks of 64 to 4096 elsewhere; whether the block that
is filling has a summary at all: here it has one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as entry
from typing import Any, Generic, NamedTuple

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.caches.accounting import live_bytes
from kvattn.caches.batches import per_sequence
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, R, Schema, read_counts
from kvattn.caches.snapshots import State
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError
from kvattn.typing import Array, Positions

_PAGE = 16
"""Summaries in a page."""


class Summary(NamedTuple):
    """Of each block: the least and the greatest numbers and the mean, ``[heads, blocks, width]``."""

    low: Array
    high: Array
    mean: Array


class Sums(NamedTuple):
    """What is kept of a full block: the sum instead of the mean, ``[B, heads, blocks, width]``."""

    low: Array
    high: Array
    total: Array


@dataclass(frozen=True, slots=True, eq=False)
class Summaries(Generic[R]):
    """A paged cache and the summaries of its blocks; make one with `Summaries.start`.

    Attributes
    ----------
    memory
        The rows.
    field
        Which field is summarised.
    size
        Tokens in a block; blocks are aligned to slot 0.

    Examples
    --------
    >>> from kvattn.caches.rows import latent
    >>> cache = Summaries.start(latent(1), field="latent", size=2)
    >>> cache = cache.append([np.array([3.0, 1.0, 5.0]).reshape(1, 1, 3, 1)])
    >>> low, high, mean = cache.summary(0)
    >>> low.ravel(), high.ravel(), mean.ravel()
    (array([1., 5.]), array([3., 5.]), array([2., 5.]))
    >>> cache.truncate(1).summary(0).low.ravel()
    array([3.])
    """

    memory: Paged[R]
    field: str
    size: int
    _full: Paged[Sums] = entry(repr=False)
    _filling: tuple[State | None, ...] = entry(repr=False)

    @classmethod
    def start(
        cls, schema: Schema[R], *, size: int, field: str = "k", batch: int = 1, page: int = BLOCK
    ) -> "Summaries[R]":
        """The empty cache.

        Raises
        ------
        ArgumentError
            A field that the schema does not have; ``size``, ``batch`` or ``page`` below 1.
        DtypeError
            A field that is not floating.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(heads=2, width=8), size=16).summary(0).low.shape
        (2, 0, 8)
        """
        size = integer("size", size, 1)
        found = next((f for f in schema.fields if f.name == field), None)
        if found is None:
            raise ArgumentError(f"field must be one of {', '.join(f.name for f in schema.fields)}, got {shown(field)}")
        if np.dtype(found.dtype).kind != "f":
            raise DtypeError(f"field {field} must be floating to be summarised, got {found.dtype}")
        sums = tuple(Field(name, found.heads, found.width, found.dtype) for name in Sums._fields)
        memory = Paged.start(schema, batch, page)
        return cls(memory, field, size, Paged.start(Schema(Sums, sums), batch, _PAGE), (None,) * memory.batch)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4, batch=2).lengths
        (0, 0)
        """
        return self.memory.lengths

    @property
    def length(self) -> int:
        """Tokens of every sequence; an error where they differ.

        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4).length
        0
        """
        return self.memory.length

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4, batch=2).batch
        2
        """
        return self.memory.batch

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token.

        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4).ends
        (0,)
        """
        return self.memory.ends

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4).coming(2)
        array([[0, 1]])
        """
        return self.memory.coming(new)

    def append(
        self,
        rows: R | Sequence[Any],
        positions: Positions | None = None,
        counts: Sequence[int] | Positions | None = None,
    ) -> "Summaries[R]":
        """Add tokens to every sequence, and to the summaries of their blocks.

        Parameters are those of `kvattn.caches.paged.Paged.append`, whose errors it raises.

        >>> from kvattn.caches.rows import latent
        >>> cache = Summaries.start(latent(1), field="latent", size=2, batch=2)
        >>> cache.append([np.ones((2, 1, 5, 1))], counts=[5, 1]).counts(0)
        array([2, 2, 1])
        """
        arrays, new = self.memory.schema.check(rows, self.batch)
        real = (new,) * self.batch if counts is None else read_counts(counts, self.batch, new)
        memory, full = self.memory.append(rows, positions, real), self._full  # first: it may refuse
        if not any(real):
            return self
        keys = arrays[self._place]
        made = [
            self._summed(state, length % self.size, keys[b, :, :n])
            for b, (state, length, n) in enumerate(zip(self._filling, self.lengths, real, strict=True))
        ]
        whole = [len(blocks) for blocks, _ in made]
        if any(whole):
            shape = (self.batch, keys.shape[1], max(whole), keys.shape[3])
            stacked = Sums(*(np.zeros(shape, keys.dtype) for _ in Sums._fields))
            for b, (blocks, _) in enumerate(made):
                for n, block in enumerate(blocks):
                    for target, part in zip(stacked, block, strict=True):
                        target[b, :, n] = part
            full = full.append(stacked, counts=whole)
        filling = tuple(
            state if not n else None if not last else State(last)
            for (_, last), state, n in zip(made, self._filling, real, strict=True)
        )
        return replace(self, memory=memory, _full=full, _filling=filling)

    @property
    def _place(self) -> int:
        return [f.name for f in self.memory.schema.fields].index(self.field)

    def _summed(self, state: State | None, filled: int, keys: Array) -> tuple[list[list[Array]], list[Array]]:
        """Sums of the blocks that keys ``[heads, T, width]`` fill, and of the one they leave filling, if any."""
        blocks: list[list[Array]] = []
        last: list[Array] = [] if state is None else list(state.arrays)
        at, adding = 0, 0
        while at < keys.shape[1]:
            part = keys[:, at : at + self.size - filled]
            adding += part.size if last else part[:, 1:].size
            last = [
                # slot by slot, never in pairs: the order is the same however the keys come
                np.array(way.accumulate(np.concatenate([old[:, None], part], 1) if last else part, axis=1)[:, -1])
                for way, old in zip((np.minimum, np.maximum, np.add), last or [part[:, 0]] * 3, strict=True)
            ]
            at, filled = at + part.shape[1], filled + part.shape[1]
            if filled == self.size:
                blocks.append(last)
                last, filled = [], 0
        charge(Tally(arithmetic=3 * adding))
        return blocks, last

    def append_cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `append` counts, in closed form, for a cache that nobody else has extended.

        Parameters
        ----------
        past, new
            Tokens already held and tokens appended, per sequence.
        batch
            Number of sequences.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> Summaries.start(latent(8), field="latent", size=4, page=16).append_cost(past=4, new=3).arithmetic
        48
        """
        sums, size = self._full.schema, self.size
        begun = -(-(past + new) // size) - -(-past // size)
        total = self.memory.schema.append_cost(past=past, new=new, batch=batch, page=self.memory.page)
        whole = (past + new) // size - past // size
        total += sums.append_cost(past=past // size, new=whole, batch=batch, page=_PAGE)
        left = batch * sums.nbytes if new and (past + new) % size else 0
        numbers = sums.fields[0].heads * sums.fields[0].width
        return total + Tally(arithmetic=3 * numbers * batch * (new - begun), cache_live=left, cache_peak=left)

    def truncate(self, length: int | Sequence[int]) -> "Summaries[R]":
        """Forget everything from slot ``length`` on; one number, or one for each sequence.

        Where that ends inside a block, its rows are read again.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache holds.

        Examples
        --------
        >>> from kvattn.caches.rows import latent
        >>> cache = Summaries.start(latent(1), field="latent", size=4).append([np.ones((1, 1, 9, 1))])
        >>> cache.truncate(6).counts(0)
        array([4, 2])
        """
        lengths = per_sequence("length", length, self.lengths)
        memory = self.memory.truncate(lengths)
        filling: list[State | None] = []
        for b, (n, old) in enumerate(zip(lengths, self.lengths, strict=True)):
            left = n % self.size
            if n == old or not left:
                filling.append(self._filling[b] if n == old else None)
                continue
            keys = memory.rows(n - left, n, sequence=b)[self._place][0]
            charge(Tally(kv_read=keys.nbytes))
            filling.append(State(self._summed(None, 0, keys)[1]))
        full = self._full.truncate([n // self.size for n in lengths])
        return replace(self, memory=memory, _full=full, _filling=tuple(filling))

    def select(self, indices: Sequence[int] | Positions) -> "Summaries[R]":
        """Reorder, repeat or drop sequences by reference.

        Raises
        ------
        ArgumentError
            No index, or one that is not a sequence's number.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4, batch=2).select([1, 0, 0]).batch
        3
        """
        memory, full = self.memory.select(indices), self._full.select(indices)
        return replace(self, memory=memory, _full=full, _filling=tuple(self._filling[i] for i in indices))

    def branch(self) -> "Summaries[R]":
        """A second name for this value.

        >>> from kvattn.caches.rows import key_value
        >>> cache = Summaries.start(key_value(1, 2), size=4)
        >>> cache.branch() is cache
        True
        """
        return self

    def counts(self, sequence: int) -> Positions:
        """Tokens of each block of a sequence, ``[blocks]``; only the last may be less than ``size``.

        >>> from kvattn.caches.rows import latent
        >>> Summaries.start(latent(1), field="latent", size=4).append([np.ones((1, 1, 9, 1))]).counts(0)
        array([4, 4, 1])
        """
        length = self.lengths[integer("sequence", sequence, 0, self.batch - 1)]
        return np.minimum(self.size, length - np.arange(0, length, self.size))

    def summary(self, sequence: int) -> Summary:
        """The summaries of a sequence's blocks, the one that is filling included, read-only.

        >>> from kvattn.caches.rows import latent
        >>> cache = Summaries.start(latent(2), field="latent", size=4).append([np.ones((1, 1, 9, 2))])
        >>> cache.summary(0).mean.shape
        (1, 3, 2)
        """
        counts = self.counts(sequence)
        low, high, total = (x[0] for x in self._full.rows(sequence=sequence))
        state = self._filling[sequence]
        if state is not None:
            low, high, total = (
                np.concatenate([full, last[:, None]], 1)
                for full, last in zip((low, high, total), state.arrays, strict=True)
            )
        mean = total / counts.astype(total.dtype)[:, None]
        charge(Tally(arithmetic=mean.size))
        for array in (low, high, mean):
            array.flags.writeable = False
        return Summary(low, high, mean)

    def rows(self, *, sequence: int | None = None) -> R:
        """The rows, as `kvattn.caches.paged.Paged.rows` gives them.

        >>> from kvattn.caches.rows import latent
        >>> cache = Summaries.start(latent(2), field="latent", size=4).append([np.ones((1, 1, 9, 2))])
        >>> cache.rows().latent.shape
        (1, 1, 9, 2)
        """
        return self.memory.rows(sequence=sequence)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of 256 keys as the streaming softmax takes them; not the blocks that are summarised.

        >>> from kvattn.caches.rows import key_value
        >>> cache = Summaries.start(key_value(1, 2), size=4).append([np.ones((1, 1, 9, 2))] * 2)
        >>> [block.key_count for block in cache.blocks(0)]
        [9]
        """
        return self.memory.blocks(sequence)

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: rows, full blocks' sums, and those of blocks that fill.

        >>> from kvattn.caches.rows import latent
        >>> cache = Summaries.start(latent(2), field="latent", size=4).append([np.ones((1, 1, 9, 2))]).select([0, 0])
        >>> cache.flatten_into(Writer("cache", {}))["filling"]
        [0, 0]
        """
        states = {state.serial: state for state in self._filling if state is not None}
        numbers = {serial: n for n, serial in enumerate(states)}
        field = self._full.schema.fields[0]
        for n, name in enumerate(Sums._fields):
            nothing = np.empty((0, field.heads, field.width), field.dtype)
            whole = [nothing, *(state.arrays[n][None] for state in states.values())]
            writer.array(f"@filling.{name}", np.concatenate(whole, dtype=field.dtype))
        return {
            "field": self.field,
            "size": self.size,
            "filling": [-1 if state is None else numbers[state.serial] for state in self._filling],
            "memory": writer.inner(self.memory),
            "full": writer.inner(self._full, "@full"),
        }

    def rebuild_from(self, reader: Reader) -> "Summaries[R]":
        """Another cache of such blocks, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import latent
        >>> empty, writer = Summaries.start(latent(2), field="latent", size=4), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays)).counts(0)
        array([], dtype=int64)
        """
        reader.agree(field=self.field, size=self.size)
        memory: Paged[R] = reader.inner(reader.header["memory"], self.memory)
        full: Paged[Sums] = reader.inner(reader.header["full"], self._full, "@full")
        numbers = [integer("filling", number, -1) for number in reader.header["filling"]]
        whole = tuple(n // self.size for n in memory.lengths)
        if full.lengths != whole or [n >= 0 for n in numbers] != [n % self.size > 0 for n in memory.lengths]:
            raise ArgumentError(
                f"header must hold sums of {whole} full blocks, and of one that fills where tokens are left over, "
                f"got {full.lengths} and {numbers}"
            )
        f, count = full.schema.fields[0], len(set(numbers) - {-1})
        parts = [reader.array(f"@filling.{name}", (count, f.heads, f.width), f.dtype) for name in Sums._fields]
        states = [State([x[n] for x in parts]) for n in range(count)]
        filling = tuple(None if n < 0 else states[integer("filling", n, 0, count - 1)] for n in numbers)
        return replace(self, memory=memory, _full=full, _filling=filling)

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page and every summary held, each once.

        >>> from kvattn.caches.rows import latent
        >>> cache = Summaries.start(latent(2), field="latent", size=4, page=4).append([np.ones((1, 1, 5, 2))])
        >>> sorted(cache.footprint().values())  # one block filling, two pages of rows, one page of 16 summaries
        [48, 64, 64, 768]
        """
        filling = {state.serial: state.nbytes for state in self._filling if state is not None}
        return {**self.memory.footprint(), **self._full.footprint(), **filling}

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.rows import key_value
        >>> Summaries.start(key_value(1, 2), size=4).nbytes
        0
        """
        return live_bytes(self)
