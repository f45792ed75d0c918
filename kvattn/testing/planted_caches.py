"""Caches with one planted fault each, on arrays: what a check of caches must detect and name.

`PlantedCache` grows its arrays, `PlantedLayers` is several of it, `PlantedPages` writes into pages of a pool through
tables, `PlantedRing` keeps the last W rows, `PlantedCodes` reads through int8 codes with a scale for each row,
`PlantedScales` keeps codes and scales, `PlantedFormats` rounds.  Each is right unless told otherwise, and none shares
code with the models of `kvattn.testing.cache_diagnosis`.  `PLANTED_CACHES` lists one of each fault, with the class and
the parameters that it must be named by; those without a class are outside every catalogue: to be detected, not named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.conformance.adapter import CacheAdapter, Capabilities, Part, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH
from kvattn.typing import Array

_MADE: dict[int, "Grown"] = {}


class Grown(NamedTuple):
    """Keys and values so far."""

    k: Array
    v: Array
    length: int


@dataclass(frozen=True)
class PlantedCache:
    """Arrays that grow.

    Attributes
    ----------
    rollback_extra, rollback_as_slice, rollback_skips
        Tokens taken back beyond those asked for; ``x[:-n]``, which for 0 is nothing; ``"k"``, ``"v"`` or ``"kv"`` that
        a rollback leaves as it is.
    rollback_odd
        What a rollback of fewer tokens than none, or of more than there are, does: ``"raises"``; ``"slice"``, which
        ends at ``length - n`` and counts negative ends from the end; ``"keeps"``, which leaves n for -n; ``"takes"``,
        which takes n for -n; ``"grows"``, by which the length moves up for -n; ``"nothing"``; ``"clamps"``,
        as is right.
    select_keys_only, select_values_only, select_nothing, select_inverse, select_in_place
        What a select does.
    select_others
        The fields that it leaves: ``"stay"``, ``"tile"``, ``"first"`` for the first row for all, ``"batch"`` for all
        rows as they were.
    loses
        ``"first"``, ``"last"`` or ``"all but last"`` of several tokens onto a cache that is not empty.
    head, row
        Whose rows every head, every sequence gets.
    swaps
        Keys for values.
    says, silent
        Tokens that it says it holds, beyond those it does; whether it says nothing.
    in_place
        A branch is the same cache.
    keeps_old
        A new cache goes on with the last one of the same batch.
    capacity, overwrites, clamps
        Slots, whether a token beyond them overwrites the last, and whether the length stays at the capacity then.
    source, source_grows
        Only the first append is kept; or not.
    zeroes, mixes, leads, flips
        The place whose row is lost; whether a select swaps the newest two; copies of the oldest row in front of it;
        whether a token that comes alone has its heads the other way round.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedCache()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    rollback_extra: int = 0
    rollback_as_slice: bool = False
    rollback_skips: str = ""
    select_keys_only: bool = False
    select_values_only: bool = False
    select_nothing: bool = False
    select_inverse: bool = False
    select_in_place: bool = False
    select_others: str = "stay"
    rollback_odd: str = "clamps"
    loses: str = ""
    head: int = -1
    row: int = -1
    swaps: bool = False
    says: int = 0
    silent: bool = False
    in_place: bool = False
    keeps_old: bool = False
    capacity: int | None = None
    overwrites: bool = False
    clamps: bool = False
    source: bool = False
    source_grows: bool = False
    zeroes: int = -1
    mixes: bool = False
    leads: int = 0
    flips: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """Everything, within the capacity.

        >>> PlantedCache(capacity=9).capabilities.capacity
        9
        """
        return Capabilities(parts=(Part(source=self.source),), capacity=self.capacity)

    def start(self, batch: int) -> Any:
        """Nothing yet, in a box that branches may share.

        >>> PlantedCache().start(1)[0].length
        0
        """
        empty = np.zeros((batch, HEADS, 0, WIDTH))
        return [_MADE[batch] if self.keeps_old and batch in _MADE else Grown(empty, empty, 0)]

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """The rows behind those that are there.

        Raises
        ------
        MemoryError
            Beyond the capacity.

        Examples
        --------
        >>> rows = np.zeros((1, 2, 3, 64))
        >>> PlantedCache().append(PlantedCache().start(1), rows, rows)[1][0].length
        3
        """
        old: Grown = cache[0]
        if self.row >= 0 and self.row < len(k):
            k, v = (np.repeat(x[self.row : self.row + 1], len(x), axis=0) for x in (k, v))
        count = k.shape[2]
        if self.flips and count == 1:
            k, v = k[:, ::-1], v[:, ::-1]
        if self.loses and count > 1 and old.length:
            cut = {"first": slice(1, None), "last": slice(None, -1), "all but last": slice(-1, None)}[self.loses]
            k, v = k[:, :, cut], v[:, :, cut]
        if self.source and old.k.shape[2] and not self.source_grows:
            new = Grown(old.k, old.v, old.length + count)
        else:
            keys, values = (np.concatenate(pair, axis=2) for pair in ((old.k, k), (old.v, v)))
            new = Grown(keys, values, old.length + count)
        if self.capacity is not None and new.length > self.capacity:
            if not self.overwrites:
                raise MemoryError("full")
            kept = [*range(self.capacity - 1), new.k.shape[2] - 1]
            new = Grown(new.k[:, :, kept], new.v[:, :, kept], new.length)
        if 0 <= self.zeroes < new.k.shape[2]:
            new.k[:, :, self.zeroes] = 0
        if self.keeps_old:
            _MADE[len(k)] = new
        box = cache if self.in_place else [new]
        box[0] = new
        keys, values = (new.v, new.k) if self.swaps else (new.k, new.v)
        if self.head >= 0:
            keys, values = (np.repeat(x[:, self.head : self.head + 1], HEADS, axis=1) for x in (keys, values))
        if self.leads:
            keys, values = (np.concatenate([x[:, :, :1]] * self.leads + [x], axis=2) for x in (keys, values))
        held = new.length if self.capacity is None or not self.clamps else min(new.length, self.capacity)
        return box, [Seen(keys, values, length=None if self.silent else held + self.says)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """The arrays cut.

        Raises
        ------
        ValueError
            Fewer tokens than none, or more than there are, where that is refused.

        Examples
        --------
        >>> PlantedCache().rollback(PlantedCache().start(1), 0)[0].length
        0
        """
        old: Grown = cache[0]
        left = max(old.length - max(tokens, 0) - self.rollback_extra * (tokens > 0), 0)
        if not 0 <= tokens <= old.length:
            if self.rollback_odd == "raises":
                raise ValueError("tokens")
            rows = range(old.length)
            left = {
                "clamps": left,
                "slice": len(rows[: old.length - tokens]),
                "keeps": left if tokens > 0 else min(-tokens, old.length),
                "takes": max(old.length - abs(tokens), 0),
                "grows": left if tokens > 0 else old.length - tokens,
                "nothing": old.length,
            }[self.rollback_odd]
        if self.rollback_as_slice:
            left = len(range(old.length)[:-tokens] if tokens >= 0 else range(old.length))
        if left > old.length:
            more = np.zeros((len(old.k), HEADS, left - old.length, WIDTH))
            old = Grown(np.concatenate([old.k, more], axis=2), np.concatenate([old.v, more], axis=2), old.length)
        k = old.k if "k" in self.rollback_skips or self.source else old.k[:, :, :left]
        v = old.v if "v" in self.rollback_skips or self.source else old.v[:, :, :left]
        new = Grown(k, v, old.length if self.rollback_skips == "kv" else left)
        if self.keeps_old:
            _MADE[len(k)] = new
        box = cache if self.in_place else [new]
        box[0] = new
        return box

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """The sequences fetched.

        >>> len(PlantedCache().select(PlantedCache().start(2), [0])[0].k)
        1
        """
        old: Grown = cache[0]
        chosen = np.array(indices)
        stay = {
            "stay": np.minimum(np.arange(len(indices)), len(old.k) - 1),
            "tile": np.arange(len(indices)) % len(old.k),
            "first": np.zeros(len(indices), np.int64),
            "batch": np.arange(len(old.k)),
        }[self.select_others]
        if self.select_inverse and sorted(indices) == list(range(len(old.k))):
            chosen = np.argsort(chosen)
        if self.select_in_place and len(indices) == len(old.k):
            copied = np.arange(len(indices))
            for place, index in enumerate(indices):
                copied[place] = copied[index]
            chosen = copied
        nothing = self.select_nothing
        k = old.k[stay if nothing or self.select_values_only else chosen]
        v = old.v[stay if nothing or self.select_keys_only else chosen]
        if self.mixes and k.shape[2] > 1:
            order = [*range(k.shape[2] - 2), k.shape[2] - 1, k.shape[2] - 2]
            k, v = k[:, :, order], v[:, :, order]
        new = Grown(k, v, old.length)
        if self.keeps_old:
            _MADE[len(k)] = new
        return [new]

    def branch(self, cache: Any) -> Any:
        """The arrays again.

        >>> PlantedCache().branch(PlantedCache().start(1))[0].length
        0
        """
        return cache if self.in_place else list(cache)


@dataclass(frozen=True)
class PlantedLayers:
    """Several caches that are used as one.

    Attributes
    ----------
    layers
        How many.
    rollback_skips, select_skips
        The layer that a rollback, a select, leaves as it is; -1 for none.
    late
        Layers behind the first read its length when it has taken the new tokens already, and add them once more.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedLayers()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    layers: int = 2
    rollback_skips: int = -1
    select_skips: int = -1
    late: bool = False
    store: PlantedCache = PlantedCache()

    @property
    def capabilities(self) -> Capabilities:
        """As many parts as layers.

        >>> len(PlantedLayers(3).capabilities.parts)
        3
        """
        return Capabilities(parts=(Part(),) * self.layers)

    def start(self, batch: int) -> Any:
        """An empty cache for each layer.

        >>> len(PlantedLayers(3).start(1))
        3
        """
        return [self.store.start(batch) for _ in range(self.layers)]

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """The rows to every layer.

        >>> rows = np.zeros((1, 2, 3, 64))
        >>> [seen.length for seen in PlantedLayers(late=True).append(PlantedLayers().start(1), rows, rows)[1]]
        [3, 6]
        """
        taken = [self.store.append(layer, k, v) for layer in cache]
        seen = [one for _, (one,) in taken]
        late = [k.shape[2] * (self.late and n > 0) for n in range(self.layers)]
        told = [one._replace(length=(one.length or 0) + more) for one, more in zip(seen, late, strict=True)]
        return [layer for layer, _ in taken], told

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Every layer cut.

        >>> len(PlantedLayers().rollback(PlantedLayers().start(1), 0))
        2
        """
        return [x if n == self.rollback_skips else self.store.rollback(x, tokens) for n, x in enumerate(cache)]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched in every layer; one that is skipped takes the old ones, the last again if there are more.

        >>> len(PlantedLayers().select(PlantedLayers().start(2), [1, 0]))
        2
        """
        batch = len(cache[0][0].k)
        old = [min(b, batch - 1) for b in range(len(indices))]
        return [self.store.select(x, old if n == self.select_skips else indices) for n, x in enumerate(cache)]

    def branch(self, cache: Any) -> Any:
        """Every layer branched.

        >>> len(PlantedLayers().branch(PlantedLayers().start(1)))
        2
        """
        return [self.store.branch(layer) for layer in cache]


@dataclass(frozen=True)
class PlantedPages:
    """Pages of a pool, and a table for each sequence; a page that others hold is copied before it is written.

    Attributes
    ----------
    page
        Tokens of a page.
    shares
        It is written in place; with ``page`` beyond all lengths as a buffer is.
    reverses
        The table is read from its end.
    skips
        The last slot of every page is skipped by the write.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedPages(3)).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    page: int
    shares: bool = False
    reverses: bool = False
    skips: bool = False
    pool: list[Array] = field(default_factory=list, compare=False, repr=False)

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PlantedPages(3).capabilities.capacity is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """Empty tables, and a length.

        >>> PlantedPages(3).start(2)
        ([[], []], 0)
        """
        return [[] for _ in range(batch)], 0

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Rows written into pages; a page that was begun is copied first.

        >>> rows = np.zeros((1, 2, 3, 64))
        >>> PlantedPages(2).append(PlantedPages(2).start(1), rows, rows)[0]
        ([[0, 1]], 3)
        """
        tables, length = [list(table) for table in cache[0]], cache[1]
        for b, table in enumerate(tables):
            if length % self.page and not self.shares:
                self.pool.append(self.pool[table[-1]].copy())
                table[-1] = len(self.pool) - 1
            for t in range(k.shape[2]):
                place = length + t
                if place // self.page == len(table):
                    self.pool.append(np.zeros((2, HEADS, self.page, WIDTH)))
                    table.append(len(self.pool) - 1)
                if not self.skips or place % self.page < self.page - 1:
                    self.pool[table[place // self.page]][:, :, place % self.page] = k[b, :, t], v[b, :, t]
        length += k.shape[2]
        empty = np.zeros((2, HEADS, 0, WIDTH))
        read = []
        for table in tables:
            pages = [
                self.pool[serial][:, :, : min(self.page, length - n * self.page)] for n, serial in enumerate(table)
            ]
            read.append(np.concatenate([empty, *(pages[::-1] if self.reverses else pages)], axis=2))
        rows = np.stack(read, axis=1)
        return (tables, length), [Seen(rows[0], rows[1], length=length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Tables cut to the pages that are left.

        >>> PlantedPages(2).rollback(([[0, 1]], 3), 1)
        ([[0]], 2)
        """
        left = max(cache[1] - max(tokens, 0), 0)
        return [table[: -(-left // self.page)] for table in cache[0]], left

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Tables fetched; sequences that share a page copy it before they write.

        >>> PlantedPages(2).select(([[0], [1]], 2), [1, 0])
        ([[1], [0]], 2)
        """
        tables = [list(cache[0][i]) for i in indices]
        if cache[1] % self.page and len(set(indices)) < len(indices):
            for table in tables:  # a begun page each, whatever `shares` says of branches
                self.pool.append(self.pool[table[-1]].copy())
                table[-1] = len(self.pool) - 1
        return tables, cache[1]

    def branch(self, cache: Any) -> Any:
        """The tables again.

        >>> PlantedPages(2).branch(([[0]], 1))
        ([[0]], 1)
        """
        return [list(table) for table in cache[0]], cache[1]


@dataclass(frozen=True)
class PlantedRing:
    """The last rows only: what a window of W needs, and what rollbacks of one append need.

    Attributes
    ----------
    window
        W.
    keeps
        Rows kept between appends, W - 1 if None.
    ignores
        A rollback does nothing, without a word.
    early
        Cut to W rows before the queries of an append have read.
    slots, only
        Read in the order of their slots, ``position % W``; and only these W, however many queries came.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedRing(3)).follow("start 2, append 5, append 1, select 1 0, append 2")
    """

    window: int
    keeps: int | None = None
    early: bool = False
    slots: bool = False
    only: bool = False
    ignores: bool = False

    @property
    def capabilities(self) -> Capabilities:
        """A window, and no rollback.

        >>> PlantedRing(3).capabilities.rollback
        0
        """
        return Capabilities(parts=(Part(window=self.window),), rollback=0)

    def start(self, batch: int) -> Any:
        """No rows, at position 0.

        >>> PlantedRing(3).start(1)[2]
        0
        """
        empty = np.zeros((batch, HEADS, 0, WIDTH))
        return empty, empty, 0

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Kept rows and new ones, then only those to keep.

        >>> rows = np.zeros((1, 2, 5, 64))
        >>> PlantedRing(3).append(PlantedRing(3).start(1), rows, rows)[0][0].shape[2]
        2
        """
        count, length = k.shape[2], cache[2] + k.shape[2]
        both = [np.concatenate(pair, axis=2) for pair in ((cache[0], k), (cache[1], v))]
        if self.early and count > 1:
            both = [rows[:, :, -self.window :] for rows in both]
        shown = both
        if self.slots and length > self.window and both[0].shape[2] >= self.window:
            last = np.arange(length - self.window, length)
            order = last[np.argsort(last % self.window)] - length
            more = [rows[:, :, : -self.window if not self.only else 0] for rows in both]
            last_rows = [rows[:, :, order] for rows in both]
            shown = [np.concatenate(pair, axis=2) for pair in zip(more, last_rows, strict=True)]
        keep = self.window - 1 if self.keeps is None else self.keeps
        kept = (rows[:, :, max(0, rows.shape[2] - keep) :] for rows in both)
        return (*kept, length), [Seen(shown[0], shown[1], length=length)]

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Refused, but for none.

        Raises
        ------
        RuntimeError
            Any other number.

        Examples
        --------
        >>> PlantedRing(3).rollback("cache", 0)
        'cache'
        """
        if tokens and not self.ignores:
            raise RuntimeError("a ring forgets")
        return cache

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched.

        >>> len(PlantedRing(3).select(PlantedRing(3).start(2), [0])[0])
        1
        """
        return cache[0][list(indices)], cache[1][list(indices)], cache[2]

    def branch(self, cache: Any) -> Any:
        """The same value.

        >>> PlantedRing(3).branch("cache")
        'cache'
        """
        return cache


@dataclass(frozen=True)
class PlantedCodes:
    """int8 codes with a scale for each row.

    Attributes
    ----------
    unscaled
        ``"k"`` or ``"v"``: its scales are not applied.
    of_head
        The scale of this head is applied to all; -1 for its own.
    of_token
        The scale of this token is applied to all; -1 for its own.
    factor
        On every scale.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedCodes()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    unscaled: str = ""
    of_head: int = -1
    of_token: int = -1
    factor: float = 1.0
    store: PlantedCache = PlantedCache()

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PlantedCodes().capabilities.rollback is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """Nothing yet.

        >>> PlantedCodes().start(1)[0].length
        0
        """
        return self.store.start(batch)

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Rows as they are, and read through codes.

        >>> rows = np.ones((1, 2, 1, 64))
        >>> float(PlantedCodes().append(PlantedCodes().start(1), rows, rows)[1][0].keys[0, 0, 0, 0])
        1.0
        """
        cache, (seen,) = self.store.append(cache, k, v)
        keys, values = (self._read(x, name) for x, name in ((seen.keys, "k"), (seen.values, "v")))
        return cache, [Seen(keys, values, length=seen.length)]

    def _read(self, rows: Array, name: str) -> Any:
        scales = np.abs(rows).max(axis=-1, keepdims=True, initial=0) / 127.0
        codes = np.rint(rows / np.where(scales == 0, 1, scales))
        if name == self.unscaled:
            scales = np.full_like(scales, 1.0 / 127.0)
        if self.of_head >= 0:
            scales = np.repeat(scales[:, self.of_head : self.of_head + 1], HEADS, axis=1)
        if self.of_token >= 0 and rows.shape[2] > self.of_token:
            scales = np.repeat(scales[:, :, self.of_token : self.of_token + 1], rows.shape[2], axis=2)
        return codes * scales * self.factor

    def rollback(self, cache: Any, tokens: int) -> Any:
        """As the store does.

        >>> PlantedCodes().rollback(PlantedCodes().start(1), 0)[0].length
        0
        """
        return self.store.rollback(cache, tokens)

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """As the store does.

        >>> len(PlantedCodes().select(PlantedCodes().start(2), [0])[0].k)
        1
        """
        return self.store.select(cache, indices)

    def branch(self, cache: Any) -> Any:
        """As the store does.

        >>> PlantedCodes().branch(PlantedCodes().start(1))[0].length
        0
        """
        return self.store.branch(cache)


_SHARED = {"sequence and head": (2, 3), "head": (0, 2, 3), "sequence": (1, 2, 3), "tensor": None, "channel": (2,)}


@dataclass(frozen=True)
class PlantedScales:
    """int8 codes with scales that are stored beside them, of each append, or kept from one to the next.

    Attributes
    ----------
    effect
        ``""``: each append has its own, which is right; ``"cut"``: that of the first is kept, and what is larger is
        cut; ``"shrunk"``: codes are made by their own scale and read by that of the first; ``"grown"``: all codes are
        read by that of the newest.
    shared
        What a scale is of: ``"sequence and head"``, ``"head"``, ``"sequence"``, ``"tensor"``, ``"channel"``.
    token
        The scale is of the first token of an append.
    levels
        Codes are -levels … levels.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedScales()).follow("start 2, append 5, rollback 2, append 1, select 1 0, append 2")
    """

    effect: str = ""
    shared: str = "sequence and head"
    token: bool = False
    levels: int = 127

    @property
    def capabilities(self) -> Capabilities:
        """Everything.

        >>> PlantedScales().capabilities.rollback is None
        True
        """
        return Capabilities()

    def start(self, batch: int) -> Any:
        """No codes, and no scales: [codes of k, scales of k, codes of v, scales of v].

        >>> len(PlantedScales().start(1))
        4
        """
        return [np.zeros((batch, HEADS, 0, WIDTH))] * 4

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Codes and scales behind those that are there.

        >>> rows = np.ones((1, 2, 3, 64))
        >>> float(PlantedScales().append(PlantedScales().start(1), rows, rows)[1][0].keys[0, 0, 0, 0])
        1.0
        """
        fields: list[Array] = [
            *self._joined(cache[0], cache[1], k),
            *self._joined(cache[2], cache[3], v),
        ]
        return fields, [Seen(fields[0] * fields[1], fields[2] * fields[3], length=fields[0].shape[2])]

    def _joined(self, codes: Any, scales: Any, rows: Array) -> tuple[Any, Any]:
        axes = _SHARED[self.shared]
        judged = np.abs(rows[:, :, :1] if self.token else rows)
        own: Any = judged.max(axis=axes, keepdims=True, initial=0) / self.levels + np.zeros(rows.shape)
        old = scales[:, :, :1] + np.zeros(rows.shape) if scales.shape[2] else own
        made, read = {"": (own, own), "cut": (old, old), "shrunk": (own, old), "grown": (own, own)}[self.effect]
        new = np.clip(np.rint(rows / np.where(made == 0, 1, made)), -self.levels, self.levels)
        if self.effect == "grown" and rows.shape[2]:
            scales = own[:, :, :1] + np.zeros(scales.shape)
        return np.concatenate([codes, new], axis=2), np.concatenate([scales, read], axis=2)

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Codes and scales cut.

        >>> PlantedScales().rollback(PlantedScales().start(1), 0)[0].shape[2]
        0
        """
        left = max(cache[0].shape[2] - max(tokens, 0), 0)
        return [each[:, :, :left] for each in cache]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched.

        >>> len(PlantedScales().select(PlantedScales().start(2), [0])[0])
        1
        """
        return [each[list(indices)] for each in cache]

    def branch(self, cache: Any) -> Any:
        """The same value.

        >>> PlantedScales().branch("cache")
        'cache'
        """
        return cache


@dataclass(frozen=True)
class PlantedFormats:
    """Arrays that grow, of numbers that are rounded when they come.

    Attributes
    ----------
    promised
        Format that is declared; none if empty.
    through
        ``"float16"``, ``"bfloat16"``: what rows are rounded to, one after another.
    cut
        Rows are cut to bfloat16, by dropping bits.
    bits
        ``"bfloat16 as float16"`` or ``"float16 as bfloat16"``: how what is kept is read.
    empty
        Dtype of the cache without rows, which later ones are joined to; that of the rows if empty.

    Examples
    --------
    >>> from kvattn.testing.conformance import Session
    >>> Session(PlantedFormats(through=("float16",))).follow("start 2, append 5, rollback 2, append 1, select 1 0")
    """

    promised: str = ""
    through: tuple[str, ...] = ()
    cut: bool = False
    bits: str = ""
    empty: str = ""

    @property
    def capabilities(self) -> Capabilities:
        """Everything, and a format.

        >>> PlantedFormats("float16").capabilities.store
        'float16'
        """
        return Capabilities(store=self.promised)

    def start(self, batch: int) -> Any:
        """Keys and values without rows.

        >>> PlantedFormats(empty="float64").start(1)[0].dtype.name
        'float64'
        """
        return [np.zeros((batch, HEADS, 0, WIDTH), self.empty or np.float16)] * 2

    def append(self, cache: Any, k: Array, v: Array) -> tuple[Any, Sequence[Seen]]:
        """Rounded rows behind those that are there.

        >>> rows = np.full((1, 2, 3, 64), 0.1, np.float32)
        >>> float(PlantedFormats(through=("float16",)).append([rows, rows], rows, rows)[1][0].keys[0, 0, 3, 0])
        0.0999755859375
        """
        both = [np.concatenate([old, self._kept(new)], axis=2) for old, new in zip(cache, (k, v), strict=True)]
        return both, [Seen(both[0], both[1], length=both[0].shape[2])]

    def _kept(self, rows: Array) -> Any:
        kept: Any = rows
        for name in self.through:
            single = kept.astype(np.float32)
            kept = single.astype(np.float16) if name == "float16" else _bfloat16_bits(single) << 16
            kept = kept.astype(np.float32) if name == "float16" else kept.view(np.float32)
        if self.cut:
            kept = (kept.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        if self.bits == "bfloat16 as float16":
            kept = _bfloat16_bits(kept.astype(np.float32)).astype(np.uint16).view(np.float16)
        elif self.bits:
            kept = (kept.astype(np.float16).view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
        return kept.astype(rows.dtype)

    def rollback(self, cache: Any, tokens: int) -> Any:
        """Rows cut off.

        >>> PlantedFormats().rollback(PlantedFormats().start(1), 0)[0].shape[2]
        0
        """
        left = max(cache[0].shape[2] - max(tokens, 0), 0)
        return [rows[:, :, :left] for rows in cache]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        """Sequences fetched.

        >>> len(PlantedFormats().select(PlantedFormats().start(2), [0])[0])
        1
        """
        return [rows[list(indices)] for rows in cache]

    def branch(self, cache: Any) -> Any:
        """The same value.

        >>> PlantedFormats().branch("cache")
        'cache'
        """
        return cache


def _bfloat16_bits(rows: Any) -> Any:
    """Upper halves of float32 after rounding to even, as uint32."""
    bits = rows.view(np.uint32)
    return bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)) >> np.uint32(16)


class Planted(NamedTuple):
    """An adapter with a fault, and how it must be named; no class where no catalogue has it."""

    adapter: CacheAdapter
    fault_class: str
    parameters: dict[str, Any]


_EARLY = "before all queries have read"


def _planted() -> tuple[Planted, ...]:
    right = PlantedCache()
    rows: list[Planted] = [
        *(Planted(replace(right, rollback_extra=n), "crop-rollback", {"extra": n}) for n in (1, -1, 2)),
        Planted(replace(right, rollback_as_slice=True), "crop-rollback", {"zero": "empties"}),
        *(
            Planted(replace(right, rollback_odd=n), "crop-rollback", {"rollback": "oversize", "amount": 4, "keeps": k})
            for n, k in (("slice", 2), ("nothing", 3))
        ),
        *(
            Planted(replace(right, rollback_odd=n), "crop-rollback", {"rollback": "negative", "amount": -1, "keeps": k})
            for n, k in (("takes", 2), ("grows", 4))
        ),
        *(
            Planted(PlantedRing(n, ignores=True), "crop-rollback", {"rollback": "undeclared", "amount": 1, "keeps": 3})
            for n in (2, 4)
        ),
        Planted(replace(right, rollback_skips="v"), "crop-rollback", {"shortens": "keys only"}),
        Planted(replace(right, rollback_skips="k"), "crop-rollback", {"shortens": "values only"}),
        Planted(replace(right, rollback_skips="kv"), "crop-rollback", {"shortens": "nothing"}),
        Planted(replace(right, select_keys_only=True), "beam-reorder", {"reorders": "keys only"}),
        Planted(replace(right, select_values_only=True), "beam-reorder", {"reorders": "values only"}),
        Planted(replace(right, select_nothing=True), "beam-reorder", {"reorders": "nothing"}),
        *(
            Planted(replace(wrong, select_others=n), "beam-reorder", {"reorders": what, "others": told})
            for wrong, what in (
                (replace(right, select_keys_only=True), "keys only"),
                (replace(right, select_values_only=True), "values only"),
                (replace(right, select_nothing=True), "nothing"),
            )
            for n, told in (("tile", "tiled"), ("first", "of sequence 0"), ("batch", "of the old batch"))
        ),
        Planted(replace(right, select_in_place=True), "beam-reorder", {"indices": "in place"}),
        Planted(replace(right, select_inverse=True), "beam-reorder", {"indices": "inverse"}),
        *(Planted(replace(right, loses=n), "chunked-prefill", {"loses": n}) for n in ("first", "last", "all but last")),
        *(Planted(replace(right, head=n), "gqa-map", {"head": n}) for n in (0, 1)),
        *(Planted(replace(right, row=n), "batch-row-state", {"row": n}) for n in (0, 1)),
        Planted(replace(right, swaps=True), "quantised-kv", {"fields": "swapped"}),
        *(Planted(replace(right, says=n), "byte-count", {"length": n}) for n in (1, -1)),
        Planted(replace(right, in_place=True), "block-ownership", {"shares": "all"}),
        *(
            Planted(replace(right, keeps_old=True, silent=n), "stale-state", {"start": "keeps rows"})
            for n in (False, True)
        ),
        *(
            Planted(replace(right, capacity=n, overwrites=True), "ring-wrap", {"overflow": "overwrites the last"})
            for n in (5, 9)
        ),
        Planted(replace(right, source=True, source_grows=True), "cross-cache", {"grows": True}),
        *(Planted(PlantedLayers(2, rollback_skips=n), "crop-rollback", {"skips_part": n}) for n in (0, 1)),
        Planted(PlantedLayers(3, rollback_skips=1), "crop-rollback", {"skips_part": 1}),
        *(Planted(PlantedLayers(2, select_skips=n), "beam-reorder", {"skips_part": n}) for n in (0, 1)),
        Planted(PlantedLayers(3, select_skips=2), "beam-reorder", {"skips_part": 2}),
        *(Planted(PlantedLayers(n, late=True), "shared-kv-layers", {"offset": "after the source"}) for n in (2, 3)),
        *(Planted(PlantedPages(n, shares=True), "block-ownership", {"page": n}) for n in (2, 3, 4, 5, 7, 8)),
        *(Planted(PlantedPages(n, shares=True), "block-ownership", {"shares": "buffer"}) for n in (64, 100)),
        *(
            Planted(PlantedPages(n, reverses=True), "paged-table", {"page": n, "order": "reversed"})
            for n in (2, 3, 4, 5, 7, 8, 16)
        ),
        *(
            Planted(PlantedPages(n, skips=True), "paged-table", {"page": n, "loses": "last of a page"})
            for n in (2, 3, 4, 5, 8, 16)
        ),
        *(Planted(PlantedRing(n, keeps=n - 2), "window-cache", {"extra": -1}) for n in (3, 4, 6)),
        *(Planted(PlantedRing(n, keeps=n - 3), "window-cache", {"extra": -2}) for n in (4, 6)),
        *(Planted(PlantedRing(n, early=True), "window-cache", {"evicts": _EARLY}) for n in (2, 3, 6)),
        *(Planted(PlantedRing(n, slots=True), "ring-wrap", {"order": "slots"}) for n in (3, 4)),
        *(
            Planted(PlantedRing(n, keeps=n, slots=True, only=True), "ring-wrap", {"order": "slots", "evicts": _EARLY})
            for n in (3, 5)
        ),
        *(
            Planted(
                replace(right, capacity=n, overwrites=True, clamps=True),
                "ring-wrap",
                {"overflow": "overwrites the last", "says": "capacity"},
            )
            for n in (5, 9)
        ),
        *(Planted(PlantedCodes(unscaled=n), "quantised-kv", {"field": n}) for n in ("k", "v")),
        *(Planted(PlantedCodes(of_head=n), "quantised-kv", {"varies": ["head"]}) for n in (0, 1)),
        Planted(PlantedCodes(of_token=0), "quantised-kv", {"varies": ["token"]}),
        *(Planted(PlantedCodes(factor=n), "quantised-kv", {"ratio": n}) for n in (2.0, 0.5)),
        *(
            Planted(PlantedScales("cut", n), "quantised-kv", {"scale": "of the first append", "shared": n})
            for n in ("sequence and head", "head", "sequence", "tensor", "channel")
        ),
        Planted(
            PlantedScales("cut", "head", levels=7), "quantised-kv", {"scale": "of the first append", "shared": "head"}
        ),
        *(
            Planted(PlantedScales("cut", n, token=True), "quantised-kv", {"scale": "of the first token", "shared": n})
            for n in ("sequence and head", "tensor")
        ),
        *(
            Planted(PlantedScales("shrunk", n), "quantised-kv", {"newest": "shrunk", "shared": n})
            for n in ("sequence and head", "head")
        ),
        *(
            Planted(PlantedScales("grown", n), "quantised-kv", {"scale": "of the newest append", "older": "grown"})
            for n in ("sequence and head", "tensor")
        ),
        *(
            Planted(PlantedFormats("float32", (n,)), "cache-dtype", {"promised": "float32", "formats": [n]})
            for n in ("float16", "bfloat16")
        ),
        Planted(PlantedFormats("float16", ("bfloat16",)), "cache-dtype", {"formats": ["bfloat16"]}),
        *(
            Planted(
                PlantedFormats(n, ("float16", "bfloat16")),
                "cache-dtype",
                {"promised": n, "formats": ["float16", "bfloat16"]},
            )
            for n in ("bfloat16", "float32")
        ),
        Planted(
            PlantedFormats("bfloat16", cut=True), "cache-dtype", {"formats": ["bfloat16"], "rounding": "towards 0"}
        ),
        *(
            Planted(PlantedFormats(promised, bits=f"{one} as {two}"), "cache-dtype", {"formats": [one], "read_as": two})
            for one, two in (("bfloat16", "float16"), ("float16", "bfloat16"))
            for promised in ("", "float32")
        ),
        *(
            Planted(PlantedFormats(given, empty=empty), "cache-dtype", {"promised": given, "dtype": empty})
            for given, empty in (("float16", "float32"), ("float16", "float64"), ("float32", "float64"))
        ),
        Planted(replace(right, zeroes=4), "", {}),
        Planted(replace(right, mixes=True), "", {}),
        Planted(replace(right, flips=True), "", {}),  # whose sizes are those of the other head
        *(Planted(replace(right, silent=True, leads=n), "", {}) for n in (1, 3)),
        Planted(replace(right, loses="first", select_nothing=True), "", {}),
    ]
    return tuple(rows)


PLANTED_CACHES: tuple[Planted, ...] = _planted()
"""One inhabitant for each fault, parameters varied."""
