"""Tokens that say whose they are: what a cache is given, what it must give back, and what to call a difference.

A sequence is a plain list of `Entry`: token, position, owner.  The owner is the append that wrote it, so each row can
be told from every other row that was ever written; the token is a word of a small vocabulary, so that two owners may
have written the same text and a prefix may be found again.  Rows are small whole numbers, one column of each row is
127, so that codecs with one scale per token lose nothing and others lose less than would make one row another.

    k  [B, 2, T, 8]    127, owner (3 digits of 100), place (2), layer · 10 + head · 2, turned
    v  [B, 2, T, 10]   127, owner (3),               place (2), layer · 10 + head · 2 + 1, token, 0, 1
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.testing.machines.tokens import must
from kvattn.typing import Array

HEADS = 2
"""Heads of every row."""

FARTHEST = 60
"""How far keys may be turned in all, so that the column that says it stays below 127."""


class Entry(NamedTuple):
    """One token of one sequence.

    Attributes
    ----------
    token, position, owner
        Its word, where it stands now, and the append to one sequence that wrote it.
    place
        Its number among the tokens that its owner wrote.
    turned
        How far its keys have been turned since.
    """

    token: int
    position: int
    owner: int
    place: int
    turned: int = 0


class Line(NamedTuple):
    """What one sequence of a cache must hold.

    Attributes
    ----------
    entries
        By slot; None where the cache was told to forget.
    behind
        The next position at every length, 0 and the whole included.
    past
        All owners that it ever had, those of tokens that were taken back too.
    note
        What the storage's `kvattn.testing.machines.storages.Memory` notes of how far it may go back.
    """

    entries: tuple[Entry | None, ...] = ()
    behind: tuple[int, ...] = (0,)
    past: frozenset[int] = frozenset()
    note: Any = None


class Turning:
    """What turns the machine's keys: the last number of a row counts how far.

    >>> Turning().shift(np.array([[127.0, 3.0]]), np.array(-2))
    array([[127.,   1.]])
    """

    def shift(self, x: Array, by: Any) -> Array:
        """Move rows by so many positions.

        >>> Turning().shift(np.zeros((1, 2)), np.array(3))
        array([[0., 3.]])
        """
        moved = x.copy()
        moved[..., -1] += int(by)
        return moved


def schema_of(dtype: Any) -> Schema[KeyValue]:
    """The schema of marked rows.

    >>> [(f.heads, f.width) for f in schema_of(np.float32).fields]
    [(2, 8), (2, 10)]
    """
    return key_value(HEADS, 8, 10, dtype)


def marked(entries: Sequence[Entry], dtype: Any = np.float64, layer: int = 0) -> KeyValue:
    """Rows of some entries, ``[2, T, 8]`` and ``[2, T, 10]``.

    >>> marked([Entry(token=1, position=9, owner=203, place=4)]).k[1, 0]
    array([127.,   3.,   2.,   0.,   4.,   0.,   2.,   0.])
    """
    told = np.array(entries, np.int64).reshape(-1, 5)  # [T, (token, position, owner, place, turned)]
    owner, place = told[:, 2], told[:, 3]
    k, v = np.zeros((HEADS, len(told), 8), np.int64), np.zeros((HEADS, len(told), 10), np.int64)
    for x in (k, v):
        x[..., 0] = 127
        for n, digits in enumerate((owner % 100, owner // 100 % 100, owner // 10000, place % 100, place // 100)):
            x[..., 1 + n] = digits
        x[..., 6] = layer * 10 + np.arange(HEADS)[:, None] * 2
    k[..., 7], v[..., 7] = told[:, 4], told[:, 0]
    v[..., 6] += 1
    v[..., 9] = 1
    return KeyValue(k.astype(dtype), v.astype(dtype))


@lru_cache(maxsize=256)  # a line is read again with every value that has it
def _marked(entries: tuple[Entry, ...], dtype: Any, layer: int) -> KeyValue:
    rows = marked(entries, dtype, layer)
    for x in rows:
        x.flags.writeable = False
    return rows


def whose(k: Array) -> list[tuple[int, int]]:
    """Owner and place of each row of the first head, ``[2, T, 8]``, as the row says; (-1, -1) where it says nothing.

    >>> whose(marked([Entry(1, 9, 203, 4)]).k), whose(np.full((2, 1, 8), np.nan))
    ([(203, 4)], [(-1, -1)])
    """
    found = []
    for row in np.asarray(k, float)[0]:
        near = np.rint(row)
        if not np.isfinite(row).all() or abs(near[0] - 127) > 1 or (near < -FARTHEST).any():
            found.append((-1, -1))
            continue
        digits = [int(x) for x in near[1:6]]
        found.append((digits[0] + 100 * digits[1] + 10000 * digits[2], digits[3] + 100 * digits[4]))
    return found


def difference(line: Line, slots: Sequence[int], got: Array) -> str:
    """What is wrong with the keys found in the place of some slots, ``[2, T, 8]``: lost, resurrected, foreign, moved.

    >>> old, new, other = Entry(0, 0, 7, 0), Entry(0, 0, 8, 0), Entry(0, 0, 9, 0)
    >>> line = Line((new,), (0, 1), frozenset({7, 8}))
    >>> difference(line, [0], marked([old]).k)
    'slot 0 must hold token 0 of owner 8, got token 0 of owner 7: resurrected'
    >>> difference(line, [0], marked([other]).k)
    'slot 0 must hold token 0 of owner 8, got token 0 of owner 9: foreign'
    >>> difference(line, [0], marked([]).k)
    'slots [0] must be held, got 0 rows of 1: lost'
    """
    found = whose(got)
    there = {(e.owner, e.place): slot for slot, e in enumerate(line.entries) if e is not None}
    for slot, came in zip(slots, found, strict=False):
        entry = line.entries[slot]
        if entry is None or came == (entry.owner, entry.place):
            continue
        wanted = f"slot {slot} must hold token {entry.place} of owner {entry.owner}"
        if came[0] < 0:
            return f"{wanted}, got no token: lost"
        if came in there:
            return f"{wanted}, got that of slot {there[came]}: displaced"
        return (
            f"{wanted}, got token {came[1]} of owner {came[0]}: {'resurrected' if came[0] in line.past else 'foreign'}"
        )
    if len(found) != len(slots):
        wrong = "lost" if len(found) < len(slots) else "resurrected"
        return f"slots {list(slots)} must be held, got {len(found)} rows of {len(slots)}: {wrong}"
    turned = [line.entries[slot].turned for slot in slots]  # type: ignore[union-attr]
    if (np.rint(np.asarray(got, float)[..., 7]) != turned).any():
        return f"keys of slots {list(slots)} must be turned by {turned}, got {got[0, :, 7].tolist()}: not re-rotated"
    return f"rows of slots {list(slots)} must come back as they went in, got {got.tolist()}: changed"


def compare(
    cache: Any,
    sequence: int,
    line: Line,
    *,
    layer: int = 0,
    slack: float = 0.0,
    spills: bool = False,
) -> None:
    """Read one sequence in every way that its cache offers, and compare it with its line.

    Parameters
    ----------
    cache
        Anything with ``rows(sequence=)``; ``remembered``, ``positions`` and ``blocks`` are read where they are.
    layer
        What its rows say of their layer.
    slack
        By how much a number may be wrong: 0 unless a codec loses something.
    spills
        Whether blocks may hold rows that are no longer remembered.

    Examples
    --------
    >>> from kvattn.caches import Paged
    >>> entry = Entry(token=1, position=0, owner=5, place=0)
    >>> cache = Paged.start(schema_of(float)).append([x[None] for x in marked([entry])])
    >>> compare(cache, 0, Line((entry,), (0, 1)))
    >>> compare(cache, 0, Line((entry._replace(owner=6),), (0, 1)))
    Traceback (most recent call last):
    AssertionError: slot 0 must hold token 0 of owner 6, got token 0 of owner 5: foreign
    """
    entries = line.entries
    slots = cache.remembered(sequence).tolist() if hasattr(cache, "remembered") else list(range(len(entries)))
    must(
        all(0 <= slot < len(entries) for slot in slots), f"slots {slots} must be of {len(entries)} tokens: resurrected"
    )
    whole = [slot for slot in slots if entries[slot] is not None]
    if hasattr(cache, "positions"):
        wanted_at = [-1 if e is None else e.position for e in entries]
        got_at = cache.positions(sequence).tolist()
        must(got_at == wanted_at, f"positions of sequence {sequence} must be {wanted_at}, got {got_at}")
    if len(whole) == len(slots):
        got = cache.rows(sequence=sequence)
        must(not any(x.flags.writeable for x in got), "rows must be read-only")
        _alike(line, slots, KeyValue(*(x[0] for x in got)), layer, slack)
    if hasattr(cache, "blocks"):
        _blocks_alike(cache.blocks(sequence), line, whole, layer, slack, spills)


def _alike(line: Line, slots: Sequence[int], got: KeyValue, layer: int, slack: float) -> None:
    entries: Any = tuple(line.entries[slot] for slot in slots)
    for name, x, y in zip("kv", got, _marked(entries, got.k.dtype, layer), strict=True):
        if x.shape != y.shape or not (np.array_equal(x, y) if not slack else (np.abs(x - y) <= slack).all()):
            raise AssertionError(difference(line, slots, got.k) if name == "k" else _of_values(slots, x, y))


def _of_values(slots: Sequence[int], got: Array, wanted: Array) -> str:
    return f"values of slots {list(slots)} must be {wanted.tolist()}, got {got.tolist()}: not those of the keys"


def _blocks_alike(
    blocks: Sequence[Any], line: Line, slots: Sequence[int], layer: int, slack: float, spills: bool
) -> None:
    found: list[int] = []
    for block in blocks:
        held = np.ones(block.k.shape[-1], bool) if block.held is None else block.held
        at = (block.start + held.nonzero()[0]).tolist()
        must(max(at) < len(line.entries), f"blocks must hold slots below {len(line.entries)}, got {at}: resurrected")
        must(not any(line.entries[slot] is None for slot in at), f"released slots of {at} must not be in blocks")
        must(not block.k[:, :, ~held].any() and not block.v[:, ~held].any(), "columns that are not held must be 0")
        positions = [line.entries[slot].position for slot in at]
        got_at = block.positions[held].tolist()
        must(got_at == positions, f"positions of slots {at} must be {positions}, got {got_at}")
        _alike(line, at, KeyValue(block.k[:, :, held].swapaxes(1, 2), block.v[:, held]), layer, slack)
        found += at
    lost = sorted(set(slots) - set(found))
    must(not lost, f"blocks must hold slots {lost}: lost")
    must(spills or found == list(slots), f"blocks must hold slots {list(slots)}, got {found}")
