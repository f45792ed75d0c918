"""KIVI's cache: older keys as codes per channel, older values as codes per token, the newest rows whole.

    settled(n) = (n - 1) - (n - 1) mod R        slots below it are codes, the others rows as they came

R is the residual of `kvattn.codecs.kivi.Kivi`.  Tokens settle in whole residuals of R, when the first token behind them
comes; what is settled depends on the number of tokens alone, never on how they were cut into steps.  Codes are never
made of codes again.

A query at position i is meant to see codes below ``i - i mod R`` and rows from there on, itself included.  A layer's
step shows one cache to all its queries, the one that its last query is meant to see; `step_in_windows` cuts a step
where residuals end, and then cached decoding equals recomputation to the bit for every cut.

Taking back: `KiviCache.truncate` is exact down to the first whole row, and to 0.  A length inside what is settled would
need rows that are gone, and is refused with RollbackError; no group is ever kept half.

Shapes: k ``[B, Hkv, T, D]``, v ``[B, Hkv, T, Dv]``; keys settle by groups of g tokens, ``[Hkv, g · D · bits / 8]``
bytes and ``[Hkv, D]`` scales and minima each.
Cached per token: settled, the bytes of `kvattn.codecs.kivi`; else the row, at most R of them.
Cost: every token is written whole first and once more as codes, its row read for that; `KiviCache.blocks` decodes all
codes, and reading counts codes, scales and whole rows (``KeyBlock.stored``).

Error: that of the codecs where settled; `kvattn.caches.coded` says what it does to attention.

Source: Liu et al. 2024 (KIVI, 2402.02750) §3 and algorithm 1.
Where libraries differ: KIVI's own code settles the oldest value as each token comes, so that the last R values stay
whole at any time, and attends to a prompt as it came; QuantizedCache of transformers, like this, settles keys and
values together, but encodes again what it decoded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from kvattn.caches._tail import Tail
from kvattn.caches.accounting import live_bytes
from kvattn.caches.batches import one_length, per_sequence
from kvattn.caches.blocks import BLOCK, KeyBlock, blocks_of
from kvattn.caches.coded import finite, read_schema, row_class
from kvattn.caches.flattened import Header, Reader, Writer
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, KeyValue, Schema, coming, read_places
from kvattn.caches.vectors import Vector
from kvattn.codecs.kivi import Kivi
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, RollbackError
from kvattn.typing import Array, Attended, Positions

S = TypeVar("S")

_PARTS = ("recent", "key_groups", "value_codes")


class Layer(Protocol[S]):
    """What `step_in_windows` steps."""

    def step(self, cache: S, x: Array) -> tuple[Attended, S]:
        """Attend with new tokens, and remember them."""


@dataclass(frozen=True, slots=True, eq=False)
class KiviCache:
    """A batch of sequences whose older rows are KIVI's codes; make one with `KiviCache.start`.

    Attributes
    ----------
    kivi
        The codecs and the residual.
    recent
        The rows that are whole.
    key_groups
        Codes, scales and minima of settled keys, a group of tokens to a slot.
    value_codes
        Codes, scales and minima of settled values, a token to a slot.

    Examples
    --------
    >>> from kvattn.caches.rows import key_value
    >>> cache = KiviCache.start(key_value(1, 8), Kivi(bits=2, group=4, residual=8))
    >>> later = cache.append([np.ones((1, 1, 21, 8))] * 2)
    >>> later, later.truncate(17).length
    (KiviCache(Kivi(bits=2, group=4, residual=8), lengths=(21,), settled=(16,)), 17)
    >>> later.truncate(15)
    Traceback (most recent call last):
    kvattn.errors.RollbackError: length of sequence 0 must be 0 or at least 16, what is settled, got 15
    """

    kivi: Kivi
    recent: Tail[KeyValue]
    key_groups: Paged[Any]
    value_codes: Paged[Any]

    @classmethod
    def start(cls, schema: Schema[KeyValue], kivi: Kivi, *, batch: int = 1, page: int = BLOCK) -> "KiviCache":
        """The empty cache.

        Parameters
        ----------
        schema
            Keys and values, as ``layer.start().schema`` has them; not placed.
        page
            Tokens per page of whole rows and of values' codes; pages of key groups hold as many, or one group.

        Raises
        ------
        ArgumentError
            Another schema, no `Kivi`, batch or page below 1.
        ShapeError
            Widths that the codecs do not take.
        DtypeError
            Rows neither float64 nor float32.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(2, 64), Kivi(), batch=2).lengths
        (0, 0)
        """
        read_schema(schema)
        if not isinstance(kivi, Kivi):
            raise ArgumentError(f"kivi must be a Kivi, got {kivi!r}")
        recent = Tail.start(schema, batch, page)
        k, v = schema.fields
        codes, *others = kivi.keys.parts((k.heads, kivi.group, k.width))
        fields = [Field("k_codes", k.heads, kivi.group * codes.shape[2], codes.dtype)]
        fields += [Field(f"k_{part.name}", k.heads, part.shape[2], part.dtype) for part in others]
        groups = Paged.start(_schema(fields), batch, max(1, recent.page // kivi.group))
        fields = [
            Field(f"v_{part.name}", v.heads, part.shape[2], part.dtype)
            for part in kivi.values.parts((v.heads, 1, v.width))
        ]
        return cls(kivi, recent, groups, Paged.start(_schema(fields), batch, page))

    def __repr__(self) -> str:
        return f"KiviCache({self.kivi!r}, lengths={self.lengths}, settled={self.settled})"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).lengths
        (0,)
        """
        return self.recent.lengths

    @property
    def length(self) -> int:
        """Tokens of every sequence.

        Raises
        ------
        ArgumentError
            The sequences differ in length.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).length
        0
        """
        return one_length(self.lengths)

    @property
    def batch(self) -> int:
        """Number of sequences.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi(), batch=3).batch
        3
        """
        return len(self.lengths)

    @property
    def ends(self) -> tuple[int, ...]:
        """The position behind each sequence's last token, which is its length: slots are positions here.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).ends
        (0,)
        """
        return self.lengths

    @property
    def settled(self) -> tuple[int, ...]:
        """For each sequence how many of its first tokens are codes.

        >>> from kvattn.caches.rows import key_value
        >>> cache = KiviCache.start(key_value(1, 4), Kivi(8, 1, 2))
        >>> [cache.append([np.ones((1, 1, n, 4))] * 2).settled for n in (2, 3, 4, 5)]
        [(0,), (2,), (2,), (4,)]
        """
        return self.recent.starts

    def settled_of(self, tokens: int) -> int:
        """How many of so many tokens are codes: all residuals but the one of the last token.

        >>> from kvattn.caches.rows import key_value
        >>> cache = KiviCache.start(key_value(1, 32), Kivi(2, 32, 128))
        >>> [cache.settled_of(n) for n in (0, 128, 129, 256, 257)]
        [0, 0, 128, 128, 256]
        """
        return self.kivi.settled_keys(max(0, tokens - 1))

    def coming(self, new: int) -> Positions:
        """The positions that the next ``new`` tokens of each sequence will have, ``[B, new]``.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).coming(2)
        array([[0, 1]])
        """
        return coming(self.lengths, new)

    def append(self, rows: KeyValue | Sequence[Any], positions: Positions | None = None) -> "KiviCache":
        """Add T >= 0 tokens to every sequence, and settle the residuals that are behind the last of them.

        Parameters
        ----------
        rows
            k ``[B, Hkv, T, D]`` and v ``[B, Hkv, T, Dv]``.
        positions
            ``[B, T]``, those of `coming`; a layer says them, and they are checked.

        Raises
        ------
        ShapeError, DtypeError, PositionError
            As `kvattn.caches.paged.Paged.append`.
        ArgumentError
            NaN or infinity; when rows settle, numbers beyond float16, which scales and minima are kept in.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 4), Kivi(8, 1, 2)).append([np.ones((1, 1, 3, 4))] * 2).settled
        (2,)
        """
        schema = self.recent.schema
        arrays, new = schema.check(rows, self.batch)
        read_places(positions, self.ends, (new,) * self.batch, new, False)
        for field, array in zip(schema.fields, arrays, strict=True):
            finite(field.name, array)
        if not new:
            return self
        starts = tuple(max(s, self.settled_of(n + new)) for s, n in zip(self.settled, self.lengths, strict=True))
        done = [stop - start for start, stop in zip(self.settled, starts, strict=True)]
        groups, codes = self.key_groups, self.value_codes
        if any(done):
            keys, values = self._encoded(arrays, done)  # refuses before anything is written
            groups = groups.append(keys, counts=[n // self.kivi.group for n in done])
            codes = codes.append(values, counts=done)
        recent = _begun(self.recent.append(arrays, self.settled), starts)
        return replace(self, recent=recent, key_groups=groups, value_codes=codes)

    def truncate(self, length: int | Sequence[int]) -> "KiviCache":
        """Go back to ``length`` tokens, exactly; one number, or one for each sequence.

        Raises
        ------
        ArgumentError
            Negative, or more than the cache holds.
        RollbackError
            A length inside what is settled.

        Examples
        --------
        >>> from kvattn.caches.rows import key_value
        >>> cache = KiviCache.start(key_value(1, 4), Kivi(8, 1, 2)).append([np.ones((1, 1, 5, 4))] * 2)
        >>> cache.truncate(4).settled, cache.truncate(0).settled
        ((4,), (0,))
        """
        lengths = per_sequence("length", length, self.lengths)
        for b, (n, least) in enumerate(zip(lengths, self.settled, strict=True)):
            if 0 < n < least:
                raise RollbackError(f"length of sequence {b} must be 0 or at least {least}, what is settled, got {n}")
        recent = self.recent.truncate(lengths)
        groups = self.key_groups.truncate([start // self.kivi.group for start in recent.starts])
        return replace(self, recent=recent, key_groups=groups, value_codes=self.value_codes.truncate(recent.starts))

    def branch(self) -> "KiviCache":
        """A second name for this value.

        >>> from kvattn.caches.rows import key_value
        >>> cache = KiviCache.start(key_value(1, 32), Kivi())
        >>> cache.branch() is cache
        True
        """
        return self

    def select(self, indices: Sequence[int] | Positions) -> "KiviCache":
        """Reorder, repeat or drop sequences; pages are shared.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).select([0, 0]).batch
        2
        """
        parts = (part.select(indices) for part in (self.key_groups, self.value_codes))
        return KiviCache(self.kivi, self.recent.select(indices), *parts)

    def rows(self, sequence: int = 0) -> KeyValue:
        """Keys and values of a sequence as codes and whole rows say, ``[1, Hkv, length, width]``, read-only.

        >>> from kvattn.caches.rows import key_value
        >>> cache = KiviCache.start(key_value(1, 4), Kivi(bits=2, group=4, residual=4))
        >>> row = np.broadcast_to([0.0, 0.9, 2.2, 3.0], (1, 1, 5, 4))
        >>> cache.append([row, row]).rows().v[0, 0, [0, 4]]
        array([[0. , 1. , 2. , 3. ],
               [0. , 0.9, 2.2, 3. ]])
        """
        groups = list(self.key_groups.rows(sequence=sequence))
        k, v = self.recent.schema.fields
        packed = groups[0]  # [1, Hkv, groups, g · bytes]
        codes = packed.reshape(1, k.heads, packed.shape[2] * self.kivi.group, -1) if packed.size else None
        done = []
        if codes is not None:
            done.append(self.kivi.keys.decode((codes, *groups[1:]), np.dtype(k.dtype)))  # type: ignore[arg-type]
            values = tuple(self.value_codes.rows(sequence=sequence))
            done.append(self.kivi.values.decode(values, np.dtype(v.dtype)))  # type: ignore[arg-type]
        whole = self.recent.rows(sequence)
        joined = [np.concatenate(both, axis=2) for both in zip(done, whole, strict=True)] if done else list(whole)
        for array in joined:
            array.flags.writeable = False
        return KeyValue(*joined)

    def blocks(self, sequence: int) -> tuple[KeyBlock, ...]:
        """The blocks of one sequence, decoded, for the streaming softmax; they say how many bytes were stored.

        >>> from kvattn.caches.rows import key_value
        >>> cache = KiviCache.start(key_value(1, 4), Kivi(8, 2, 2)).append([np.ones((1, 1, 3, 4))] * 2)
        >>> [(block.key_count, block.stored) for block in cache.blocks(0)]  # 2 · 4 + 16, 2 · (4 + 8), 1 · 8 · 8
        [(3, 112)]
        """
        k, v = self.rows(sequence)
        found = blocks_of(k[0], v[0], np.arange(self.lengths[sequence]))
        return tuple(block._replace(stored=self._stored(sequence, block)) for block in found)

    def flatten_into(self, writer: Writer) -> Header:
        """What `kvattn.caches.flattened` has of this value: whole rows, and codes with their scales.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).flatten_into(Writer("cache", {}))["kivi"]
        'Kivi(bits=2, group=32, residual=128)'
        """
        return {"kivi": repr(self.kivi), **{name: writer.inner(getattr(self, name)) for name in _PARTS}}

    def rebuild_from(self, reader: Reader) -> "KiviCache":
        """Another cache of this schema, as `kvattn.caches.flattened` has it.

        >>> from kvattn.caches.rows import key_value
        >>> empty, writer = KiviCache.start(key_value(1, 32), Kivi()), Writer("cache", {})
        >>> empty.rebuild_from(Reader("cache", empty.flatten_into(writer), writer.arrays)).settled
        (0,)
        """
        reader.agree(kivi=repr(self.kivi))
        made = {name: reader.inner(reader.header[name], getattr(self, name)) for name in _PARTS}
        again = replace(self, **made)
        residual, each = self.kivi.residual, self.kivi.group
        wrong = [
            start
            for start, length in zip(again.settled, again.lengths, strict=True)
            if start % residual or length - start > residual
        ]
        if wrong or again.value_codes.lengths != again.settled:
            raise ArgumentError(
                f"header must tell of codes for whole residuals of {residual}, got {again.settled} settled of "
                f"{again.lengths} and codes of {again.value_codes.lengths}"
            )
        if again.key_groups.lengths != tuple(start // each for start in again.settled):
            raise ArgumentError(f"header must tell of groups for {again.settled} keys, got {again.key_groups.lengths}")
        return again

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once; codes, scales and whole rows.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).footprint()
        {}
        """
        return {**self.key_groups.footprint(), **self.value_codes.footprint(), **self.recent.footprint()}

    @property
    def nbytes(self) -> int:
        """Bytes allocated for this value, shared pages once.

        >>> from kvattn.caches.rows import key_value
        >>> KiviCache.start(key_value(1, 32), Kivi()).nbytes
        0
        """
        return live_bytes(self)

    def _encoded(self, arrays: Sequence[Array], done: Sequence[int]) -> tuple[list[Array], list[Array]]:
        """What the next ``done[b]`` tokens settle to: stored arrays of key groups and of values, padded with zeros."""
        each = self.kivi.group
        keys = [
            np.zeros((self.batch, f.heads, max(done) // each, f.width), f.dtype) for f in self.key_groups.schema.fields
        ]
        values = [np.zeros((self.batch, f.heads, max(done), f.width), f.dtype) for f in self.value_codes.schema.fields]
        for b, n in enumerate(done):
            if not n:
                continue
            held = self.recent.rows(b)
            k, v = (np.concatenate([old[0], x[b]], axis=1)[:, :n] for old, x in zip(held, arrays, strict=True))
            codes, *others = self.kivi.keys.encode(k)
            for room, part in zip(keys, (codes.reshape(k.shape[0], n // each, -1), *others), strict=True):
                room[b, :, : n // each] = part
            for room, part in zip(values, self.kivi.values.encode(v), strict=True):
                room[b, :, :n] = part
            charge(Tally(kv_read=min(n, held.k.shape[2]) * self.recent.schema.nbytes))
        return keys, values

    def _stored(self, sequence: int, block: KeyBlock) -> int:
        """Bytes of a block; a group's are read with the block in which it begins."""
        settled, each = self.settled[sequence], self.kivi.group
        low, high = (min(at, settled) for at in (block.start, block.start + block.key_count))
        begun = -(-high // each) - -(-low // each)
        codes = self.key_groups.schema.fields[0].nbytes // each
        shared = self.key_groups.schema.nbytes - codes * each
        tokens = (high - low) * (codes + self.value_codes.schema.nbytes)
        return tokens + begun * shared + (block.key_count - (high - low)) * self.recent.schema.nbytes


def step_in_windows(layer: Layer[S], cache: S, x: Array) -> tuple[Attended, S]:
    """Step a layer over a `KiviCache`, cut where residuals end, so that every query sees what it is meant to see.

    Parameters
    ----------
    layer
        Anything whose ``step`` takes such a cache.
    cache
        A `KiviCache`.
    x
        ``[B, T, M]``.

    Returns
    -------
    tuple
        What ``layer.step`` returns: out ``[B, T, M]`` with lse ``[B, Hq, T]``, and the cache.

    Raises
    ------
    ArgumentError
        Another cache.

    Examples
    --------
    >>> step_in_windows(None, None, np.zeros((1, 2, 3)))
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: cache must be a KiviCache, got None
    """
    if not isinstance(cache, KiviCache):
        raise ArgumentError(f"cache must be a KiviCache, got {cache!r}")
    new = x.shape[1] if np.ndim(x) == 3 else 0
    residual = cache.kivi.residual
    cuts = sorted({at for n in cache.lengths for at in range(residual - n % residual, new, residual)})
    found = []
    for start, stop in zip((0, *cuts), (*cuts, None), strict=True):
        attended, cache = layer.step(cache, x[:, start:stop] if cuts else x)
        found.append(attended)
    out = np.concatenate([part.out for part in found], axis=1)
    return Attended(out, np.concatenate([part.lse for part in found], axis=2)), cache


def _schema(fields: Sequence[Field]) -> Schema[Any]:
    return Schema(row_class(*(field.name for field in fields)), tuple(fields))


def _begun(tail: Tail[KeyValue], starts: Sequence[int]) -> Tail[KeyValue]:
    """The same rows from later slots on, in the pages that hold any."""
    tables = []
    for table, old, start in zip(tail._tables, tail.starts, starts, strict=True):
        gone = start // tail.page - old // tail.page
        tables.append(Vector.of(table.between(gone, len(table))) if gone else table)
    return replace(tail, starts=tuple(starts), _tables=tuple(tables))
