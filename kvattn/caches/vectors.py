"""A sequence that never changes and is cheap to change: a tree of tuples, of which a new value shares all but one path.

    item i stands in the leaf that the digits of i, base 32, lead to from the root

Every node has at most 32 children and all nodes but those on the right edge have exactly 32, so the tree over n items
is ``ceil(log32 n)`` high.  Putting an item at the end, replacing one and cutting the end off copy the nodes of one
path, at most ``32 · ceil(log32 n)`` pointers; replacing a whole run by one item copies two paths, since full nodes of
that item are made once and shared.  A second name costs nothing.  What was cut off is no longer referred to.

Source: path copying is Driscoll, Sarnak, Sleator and Tarjan 1989, Making data structures persistent, section 3; the
wide tree indexed by digits is Bagwell 2001, Ideal hash trees, section 3, as vectors of functional languages use it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Generic, TypeVar

from kvattn.errors import ArgumentError

T = TypeVar("T")

BRANCHES = 32
"""Children of a full node."""

Node = tuple[Any, ...]
"""Items at height 0, nodes one lower above it."""


@dataclass(frozen=True, slots=True)
class Vector(Generic[T]):
    """An immutable sequence; make one with `Vector.of`, or begin with ``Vector()``.

    Two vectors of equal items are equal.

    Examples
    --------
    >>> one = Vector.of("abc")
    >>> two = one.extend("de")
    >>> list(one), list(two), two[3], len(two.take(2)), list(two.fill(1, 4, "-"))
    (['a', 'b', 'c'], ['a', 'b', 'c', 'd', 'e'], 'd', 2, ['a', '-', '-', '-', 'e'])
    """

    size: int = 0
    height: int = 0
    root: Node = ()

    @classmethod
    def of(cls, items: Iterable[T]) -> "Vector[T]":
        """The vector of some items.

        >>> len(Vector.of(range(1000)))
        1000
        """
        return cls().extend(items)

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[T]:
        items: Iterable[Any] = self.root
        for _ in range(self.height):
            items = chain.from_iterable(items)
        return iter(items)

    def __getitem__(self, index: int) -> T:
        """The item at ``0 <= index < len``, or counted from the end where it is negative."""
        place = index + self.size if index < 0 else index
        if not 0 <= place < self.size:
            raise ArgumentError(f"index must be in 0 .. {self.size - 1}, got {index}")
        node = self.root
        for level in range(self.height, 0, -1):
            node = node[place // BRANCHES**level % BRANCHES]
        found: T = node[place % BRANCHES]
        return found

    def between(self, start: int, stop: int) -> Iterator[T]:
        """The items ``start .. stop - 1``, whose leaves alone are visited.

        >>> list(Vector.of(range(100)).between(62, 66))
        [62, 63, 64, 65]
        """
        place = start
        while place < stop:
            node = self.root
            for level in range(self.height, 0, -1):
                node = node[place // BRANCHES**level % BRANCHES]
            first = place % BRANCHES
            yield from islice(node, first, first + stop - place)
            place += BRANCHES - first

    def extend(self, items: Iterable[T]) -> "Vector[T]":
        """Give a vector with items behind the end.

        >>> list(Vector.of([1]).extend([2, 3]))
        [1, 2, 3]
        """
        new: list[Any] = list(items)
        if not new:
            return self
        # level by level: the last node is opened again, and what does not fit stands beside it
        size, level, edge = self.size + len(new), 0, self._edge()
        while True:
            level_nodes = [*edge[level], *new] if level < len(edge) else new
            if len(level_nodes) <= BRANCHES and level >= self.height:
                return Vector(size, level, tuple(level_nodes))
            new = [tuple(level_nodes[n : n + BRANCHES]) for n in range(0, len(level_nodes), BRANCHES)]
            level += 1

    def _edge(self) -> list[Node]:
        """What stands before the right edge: at level 0 the last leaf's items, above it all siblings but the last."""
        found = [self.root]
        for _ in range(self.height):
            found.append(found[-1][-1])
            found[-2] = found[-2][:-1]
        return found[::-1]

    def replace(self, index: int, item: T) -> "Vector[T]":
        """Give a vector with another item at ``0 <= index < len``.

        >>> list(Vector.of("abc").replace(1, "x"))
        ['a', 'x', 'c']
        """
        return self.fill(index, index + 1, item)

    def take(self, count: int) -> "Vector[T]":
        """The first ``0 <= count <= len`` items.

        >>> list(Vector.of(range(100)).take(3))
        [0, 1, 2]
        """
        if count == self.size:
            return self
        root, height = _cut(self.root, self.height, count), self.height
        while height and len(root) == 1:
            root, height = root[0], height - 1
        return Vector(count, height if count else 0, root)

    def fill(self, start: int, stop: int, item: T) -> "Vector[T]":
        """Give a vector with one item in all places ``0 <= start .. stop - 1 < len``.

        >>> list(Vector.of("abcd").fill(1, 3, "-"))
        ['a', '-', '-', 'd']
        """
        if start >= stop:
            return self
        full: list[Node] = [(item,) * BRANCHES]
        for _ in range(self.height):
            full.append((full[-1],) * BRANCHES)
        return Vector(self.size, self.height, _filled(self.root, self.height, start, stop, item, full))


def _cut(node: Node, height: int, count: int) -> Node:
    """The first items of a node."""
    if not height:
        return node[:count]
    whole, rest = divmod(count, BRANCHES**height)
    return (*node[:whole], _cut(node[whole], height - 1, rest)) if rest else node[:whole]


def _filled(node: Node, height: int, start: int, stop: int, item: Any, full: list[Node]) -> Node:
    """A node with one item in the places ``start .. stop - 1`` counted from its first."""
    if not height:
        return (*node[:start], *(item,) * (stop - start), *node[stop:])
    span = BRANCHES**height
    children = list(node)
    for number in range(start // span, -(-stop // span)):
        low, high = max(start - number * span, 0), min(stop - number * span, span)
        whole = low == 0 and high == span
        children[number] = full[height - 1] if whole else _filled(node[number], height - 1, low, high, item, full)
    return tuple(children)
