"""What a cache shows while a script runs, as names of rows, with no opinion on whether that is right.

For each append and each part: what every query sees, sequence by sequence and head by head, as (place, name) of each
row in sight.  Two caches that show the same do the same, so a cache is compared with models of what caches do wrong
(`kvattn.testing.cache_diagnosis.habits`) as a whole.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.cache_diagnosis.scripts import Script
from kvattn.testing.conformance.adapter import CacheAdapter, Part, Seen
from kvattn.testing.conformance.rows import HEADS, WIDTH, Token, read, write

Sight = tuple[tuple[int, Any], ...]
"""Places and names that a query sees; all places are 0 where the cache says what is seen and not where it is."""


class Shown(NamedTuple):
    """What one append showed.

    Attributes
    ----------
    sights
        By part, field, sequence, head and query; None for what cannot be read at all.
    lengths
        What each part says that it holds.
    refused
        A step was refused, and the script ended.
    """

    sights: tuple[Any, ...] = ()
    lengths: tuple[int | None, ...] = ()
    refused: bool = False


def observe(adapter: CacheAdapter, steps: Script) -> tuple[Shown, ...]:
    """Run a script, and write down what is shown.

    Parameters
    ----------
    adapter
        The cache.
    steps
        What to do; it ends at the first refusal.

    Examples
    --------
    >>> from kvattn.testing.cache_diagnosis.scripts import script
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> shown = observe(PagedAdapter(), script("start 0 1, append 0 2"))
    >>> [place for place, name in shown[0].sights[0][0][0][0][1]]  # the keys of head 0 that the second query sees
    [0, 1]
    """
    return tuple(showing(adapter, steps))


def showing(adapter: CacheAdapter, steps: Script) -> Iterator[Shown]:
    """Give what `observe` gives, one append after the other; what nobody asks for is not run.

    >>> from kvattn.testing.cache_diagnosis.scripts import script
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> next(showing(PagedAdapter(), script("start 0 1, append 0 2"))).lengths
    (2,)
    """
    caches: dict[int, Any] = {}
    lengths: dict[int, int] = {}
    batches: dict[int, int] = {}
    numbers = 0
    for verb, (line, *rest) in steps:
        shown = None
        try:
            if verb == "start":
                caches[line], lengths[line], batches[line] = adapter.start(rest[0]), 0, rest[0]
            elif verb == "append":
                count, before = rest[0], lengths[line]
                new = []
                for owner in range(batches[line]):
                    new.append([Token(numbers + i, before + i, owner) for i in range(count)])
                    numbers += count
                k, v = (np.stack([write(tokens, heads=HEADS, field=f) for tokens in new]) for f in (0, 1))
                caches[line], seen = adapter.append(caches[line], k, v)
                lengths[line] += count
                if count:
                    parts = list(zip(adapter.capabilities.parts, seen, strict=True))
                    sights = tuple(_sights(part, one, before, lengths[line]) for part, one in parts)
                    shown = Shown(sights, tuple(one.length for one in seen))
            elif verb == "rollback":
                caches[line] = adapter.rollback(caches[line], rest[0])
                lengths[line] = max(lengths[line] - rest[0], 0)
            elif verb == "select":
                caches[line], batches[line] = adapter.select(caches[line], rest), len(rest)
            else:
                caches[rest[0]] = adapter.branch(caches[line])
                lengths[rest[0]], batches[rest[0]] = lengths[line], batches[line]
        except Exception:  # noqa: BLE001 - whatever a foreign cache raises is a refusal
            yield Shown(refused=True)
            return
        if shown is not None:
            yield shown


def alike(found: Iterable[Shown], other: Sequence[Shown]) -> bool:
    """Say whether two caches showed the same, as far as both say it; after a difference neither is read on.

    >>> alike([Shown(lengths=(None,))], [Shown(lengths=(3,))]), alike([Shown(lengths=(2,))], [Shown(lengths=(3,))])
    (True, False)
    """
    for one, two in zip_longest(found, other):
        if one is None or two is None:
            return False
        if one.refused != two.refused or len(one.lengths) != len(two.lengths):
            return False
        if any(None not in pair and pair[0] != pair[1] for pair in zip(one.lengths, two.lengths, strict=True)):
            return False
        if one.sights == two.sights:
            continue
        if (_placed(one.sights) and _placed(two.sights)) or _unplaced(one.sights) != _unplaced(two.sights):
            return False
    return True


def _placed(sights: Any) -> bool:
    """Whether any place is told."""
    if isinstance(sights, tuple) and len(sights) == 2 and isinstance(sights[0], int):
        return sights[0] > 0
    return isinstance(sights, tuple) and any(map(_placed, sights))


def _unplaced(sights: Any) -> Any:
    if (
        isinstance(sights, tuple)
        and sights
        and all(isinstance(s, tuple) and len(s) == 2 and isinstance(s[0], int) for s in sights)
    ):
        return tuple(sorted(str(name) for _, name in sights))
    return tuple(map(_unplaced, sights)) if isinstance(sights, tuple) else sights


def _sights(part: Part, seen: Seen, before: int, length: int) -> Any:
    """[field][sequence][head][query] -> what is seen."""
    found: list[Any] = []
    for array in (np.asarray(seen.keys), np.asarray(seen.values)):
        if array.ndim != 4 or array.shape[1] != HEADS or array.shape[3] != WIDTH:
            found.append(None)
            continue
        rows = array.shape[2]
        ordered = np.arange(rows) + (0 if part.source else length - rows)
        places = ordered if seen.positions is None else np.asarray(seen.positions)
        every = read(array.reshape(-1, WIDTH))
        heads = [
            [every[first * rows : (first + 1) * rows] for first in range(b * HEADS, (b + 1) * HEADS)]
            for b in range(len(array))
        ]
        queries = range(before, length)
        found.append(tuple(tuple(_each(part, seen, names, places, queries) for names in own) for own in heads))
    return tuple(found)


def _each(part: Part, seen: Seen, names: Sequence[Any], places: Any, queries: range) -> tuple[Sight | None, ...]:
    there = [name != "nothing" for name in names]
    if seen.visible is not None:
        if np.shape(seen.visible) != (len(queries), len(names)):
            return (None,)
        rows = np.asarray(seen.visible)
        return tuple(
            tuple((0, n) for n, on, real in zip(names, row, there, strict=True) if on and real) for row in rows
        )
    if len(places) != len(names):
        return (None,)
    entries = [(int(p), n) for p, n, real in zip(places.tolist(), names, there, strict=True) if real]
    if part.source:
        return (tuple(entries),)
    first = 0 if seen.positions is not None else min(places, default=0)  # in order, those in front are seen as well
    if part.window is None:
        return tuple(tuple([e for e in entries if first <= e[0] <= query]) for query in queries)
    return tuple(
        tuple([e for e in entries if first <= e[0] <= query and (e[0] > query - part.window or 0 <= e[0] < part.sinks)])
        for query in queries
    )
