"""Stores of prefixes beside a plain list of everything that they were told to remember."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvattn.caches import Origin
from kvattn.testing.machines.marked import Line


class Told(NamedTuple):
    """One cache that a store was told to remember: its origin, the line of its one sequence, how it was started."""

    origin: Origin
    line: Line
    kind: Any


class Store(NamedTuple):
    """A store of prefixes and what it was told; a value, as the store is.

    Attributes
    ----------
    store
        A `PrefixTrie` or a `PrefixBlocks`.
    block
        Lengths that it can give back are multiples of this.
    roomy
        Whether its budget is beyond anything that a machine remembers, so that nothing is evicted.
    told
        All that it was told, oldest first.
    """

    store: Any
    block: int
    roomy: bool
    told: tuple[Told, ...] = ()


def text_of(line: Line) -> tuple[int, ...]:
    """The tokens of a line that has no hole.

    >>> from kvattn.testing.machines.marked import Entry
    >>> text_of(Line((Entry(1, 0, 5, 0), Entry(0, 1, 5, 1))))
    (1, 0)
    """
    return tuple(entry.token for entry in line.entries if entry is not None)


def shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two texts begin with alike.

    >>> shared((1, 0, 1), (1, 0, 0, 1))
    2
    """
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def longest(store: Store, origin: Origin, text: Sequence[int]) -> int:
    """How many of these tokens a store that forgets nothing must find.

    >>> from kvattn.testing.machines.marked import Entry
    >>> origin = Origin(model="m", adapter=None, dtype="f8", salt=None, start=0)
    >>> line = Line(tuple(Entry(n % 2, n, 5, n) for n in range(5)))
    >>> longest(Store(None, 2, True, (Told(origin, line, None),)), origin, (0, 1, 0, 0))
    2
    """
    found = [shared(text_of(told.line), text) for told in store.told if told.origin == origin]
    return max(found, default=0) // store.block * store.block


def begins(store: Store, origin: Origin, text: Sequence[int], length: int) -> list[Told]:
    """What a store was told of this origin that begins with the first ``length`` of these tokens, newest first.

    >>> from kvattn.testing.machines.marked import Entry
    >>> origin = Origin(model="m", adapter=None, dtype="f8", salt=None, start=0)
    >>> line = Line(tuple(Entry(n % 2, n, 5, n) for n in range(5)))
    >>> len(begins(Store(None, 1, True, (Told(origin, line, None),)), origin, (0, 1, 1), 2))
    1
    """
    return [
        told for told in reversed(store.told) if told.origin == origin and shared(text_of(told.line), text) >= length
    ]
