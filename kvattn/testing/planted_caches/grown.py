"""A cache whose arrays grow, with faults that any cache may have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.conformance.adapter import Capabilities, Part, Seen
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
    rest
        Where a rollback leaves one of both: ``"cut"``, by which the next append cuts both to the length, ``"hidden"``,
        by which only so much is shown.
    zeroes, mixes, leads
        The place whose row is lost; whether a select swaps the newest two; copies of the oldest row in front of it.
    flips, flips_all
        Of ``"k"``, ``"v"`` or ``"kv"`` a token that comes alone has its heads the other way round; or every token.

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
    flips: str = ""
    flips_all: bool = False
    rest: str = ""

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
        if count == 1 or self.flips_all:
            k, v = (x[:, ::-1] if name in self.flips else x for name, x in (("k", k), ("v", v)))
        if self.loses and count > 1 and old.length:
            cut = {"first": slice(1, None), "last": slice(None, -1), "all but last": slice(-1, None)}[self.loses]
            k, v = k[:, :, cut], v[:, :, cut]
        if self.source and old.k.shape[2] and not self.source_grows:
            new = Grown(old.k, old.v, old.length + count)
        else:
            keys, values = (np.concatenate(pair, axis=2) for pair in ((old.k, k), (old.v, v)))
            length = old.length + count
            cut = slice(length if self.rest == "cut" else None)
            new = Grown(keys[:, :, cut], values[:, :, cut], length)
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
        if self.rest == "hidden":
            keys, values = (x[:, :, : new.length] for x in (keys, values))
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
