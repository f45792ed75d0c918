"""Verbs that move or join what values hold: repeat, merge, split, release, commit, evict and shift."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
import numpy as np

from kvattn.errors import RollbackError
from kvattn.testing.machines.marked import FARTHEST, Entry, Line, Turning
from kvattn.testing.machines.storages import PAGED, PLACED, Given
from kvattn.testing.machines.tokens import must
from kvattn.testing.machines.values import MOST_SEQUENCES, ValuesMachine, declined


class MovingMachine(ValuesMachine):
    """What `ValuesMachine` does, and repeat, merge, split, release, commit, evict and shift where a cache has them.

    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(MovingMachine, settings=settings(max_examples=2, stateful_step_count=5))
    """

    @precondition(lambda self: any(hasattr(value.cache, "repeat") for value in self.values))
    @rule(data=st.data(), n=st.integers(1, 3))
    def repeat(self, data: st.DataObject, n: int) -> None:
        """Every sequence several times."""
        value = self._drawn(data, lambda value: hasattr(value.cache, "repeat"))
        if len(value.lines) * n <= MOST_SEQUENCES:
            self._did("repeat", value.kind)
            cache = value.cache.repeat(n)
            self._shares(cache, value.cache)
            self._bear(value, cache, [line for line in value.lines for _ in range(n)])

    @precondition(lambda self: any(hasattr(value.cache, "merge") for value in self.values))
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        """Join the sequences of two values, which must be of one kind."""
        value = self._drawn(data, lambda value: hasattr(value.cache, "merge"))
        other = self._drawn(data)
        one, two = value.kind, other.kind
        paged = one.storage.name in (PAGED.name, PLACED.name)
        alike = one.storage.name == two.storage.name and one.sizes.page == two.sizes.page and one.dtype == two.dtype
        if not alike:
            self._did("merge", one)
            declined(lambda: value.cache.merge(other.cache), "merge of caches of several kinds")
            self.check(value)
        elif len(value.lines) + len(other.lines) <= MOST_SEQUENCES and (paged or one.sizes == two.sizes):
            self._did("merge", one)
            cache = value.cache.merge(other.cache)
            self._shares(cache, value.cache, other.cache)
            self._bear(value, cache, (*value.lines, *other.lines))
        self.check(other)

    @precondition(lambda self: any(hasattr(value.cache, "split") and len(value.lines) > 1 for value in self.values))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        """Cut the batch into two."""
        value = self._drawn(data, lambda value: hasattr(value.cache, "split") and len(value.lines) > 1)
        first = data.draw(st.integers(1, len(value.lines) - 1), label="first")
        self._did("split", value.kind)
        left, right = value.cache.split([first, len(value.lines) - first])
        self._shares(left, value.cache)
        self._shares(right, value.cache)
        self._bear(value, left, value.lines[:first])
        self._bear(value, right, value.lines[first:])

    @precondition(lambda self: any(hasattr(value.cache, "release") for value in self.values))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Forget whole pages in the middle."""
        value = self._drawn(data, lambda value: hasattr(value.cache, "release"))
        page, shortest = value.kind.sizes.page, min(len(line.entries) for line in value.lines)
        edges = {n for n in (0, 1, page - 1, page, page + 1, 2 * page, shortest) if n <= shortest}
        start, stop = sorted(data.draw(st.sampled_from(sorted(edges)), label="edge") for _ in range(2))
        first, last = -(-start // page) * page, stop // page * page
        self._did("release", value.kind)
        cache = value.cache.release(start, stop)
        self._shares(cache, value.cache)
        lines = [
            line._replace(entries=tuple(None if first <= n < last else e for n, e in enumerate(line.entries)))
            for line in value.lines
        ]
        self._bear(value, cache, lines)

    @precondition(lambda self: any(hasattr(value.cache, "commit") for value in self.values))
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Append a tree, keep one path of it, and find what appending that path alone leaves.

        Where the token in front of it was released, and tokens keep their positions, nothing says where to go on.
        """
        value = self._drawn(data, lambda value: hasattr(value.cache, "commit"))
        kind, page = value.kind, min(value.kind.sizes.page, 8)
        nodes = data.draw(st.sampled_from(sorted({0, 1, 2, 5, page, page + 1})), label="nodes")
        bits = data.draw(st.integers(0, 2**nodes - 1), label="path")
        path = [node for node in range(nodes) if bits >> node & 1]
        depths = [sum(other < node for other in path) for node in range(nodes)]
        new, keywords = [], dict[str, Any]()
        for line in value.lines:
            self.owner += 1
            new.append([Entry(1, line.behind[-1] + depth, self.owner, n) for n, depth in enumerate(depths)])
        if kind.storage.placed:
            keywords["positions"] = np.array([[e.position for e in each] for each in new], np.int64)
        self._did("commit", kind)
        tree = kind.storage.append(value.cache, Given(value.lines, new, keywords, kind.sizes.dtype, nodes))
        cut = path[:1] != [0] and any(line.entries[-1:] == (None,) for line in value.lines)
        try:
            cache = tree.commit([len(line.entries) for line in value.lines], path)
        except RollbackError as error:
            must(cut and kind.storage.placed, f"commit of {path} must be done, but: {error}")
            self.check(value)
            return
        lines = []
        for line, each in zip(value.lines, new, strict=True):
            taken = [each[node] for node in path]
            behind = (*line.behind, *(e.position + 1 for e in taken))
            past = line.past | ({each[0].owner} if each else set())
            lines.append(Line((*line.entries, *taken), behind, past, line.note))
        self._bear(value, cache, lines)

    @precondition(lambda self: any(hasattr(value.cache, "evict") for value in self.values))
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        """Forget tokens here and there; without places of their own it is refused."""
        value = self._drawn(data, lambda value: hasattr(value.cache, "evict"))
        self._did("evict", value.kind)
        if "evict" in value.kind.storage.refuses:
            declined(lambda: value.cache.evict([[0] * min(1, n) for n in value.cache.lengths]), "evict without places")
            self.check(value)
            return
        page, keep = value.kind.sizes.page, []
        for line in value.lines:
            held = [n for n, entry in enumerate(line.entries) if entry is not None]
            count = data.draw(st.sampled_from(sorted({0, 1, 2, page - 1, page, len(held)})), label="forgotten")
            start = data.draw(st.sampled_from(sorted({0, 1, page, max(0, len(held) - count)})), label="from")
            gone = set(held[start : start + count])
            keep.append([n for n in held if n not in gone])
        cache = value.cache.evict(keep)
        lines = []
        for line, chosen in zip(value.lines, keep, strict=True):
            entries = tuple(line.entries[n] for n in chosen)
            lines.append(line._replace(entries=entries, behind=_content(entries, line.behind[-1])))
        self._bear(value, cache, lines)

    @precondition(lambda self: any(hasattr(value.cache, "shift") for value in self.values))
    @rule(data=st.data())
    def shift(self, data: st.DataObject) -> None:
        """Move positions on and back, from a slot on, and turn keys with them or not."""
        value = self._drawn(data, lambda value: hasattr(value.cache, "shift"))
        self._did("shift", value.kind)
        if "shift" in value.kind.storage.refuses:
            declined(lambda: value.cache.shift(1), "shift without places")
            self.check(value)
            return
        page, lines = value.kind.sizes.page, value.lines
        by = data.draw(st.sampled_from(sorted({0, 1, 2, page - 1, page, page + 1})), label="by")
        by = -by if data.draw(st.booleans(), label="back") else by
        shortest = min(len(line.entries) for line in lines)
        edges = {n for n in (0, 1, page - 1, page, page + 1, shortest) if n <= shortest}
        start = data.draw(st.sampled_from(sorted(edges)), label="start")
        moved = [[e for e in line.entries[start:] if e is not None] for line in lines]
        far = any(abs(entry.turned + by) > FARTHEST for each in moved for entry in each)
        turn = None if far or not data.draw(st.booleans(), label="turn") else Turning()
        lowest = min([e.position for each in moved for e in each] + [line.behind[-1] for line in lines])
        if lowest + by < 0:
            declined(lambda: value.cache.shift(by, turn, start=start), f"shift of position {lowest} by {by}")
            self.check(value)
            return
        cache = value.cache.shift(by, turn, start=start)
        later = []
        for line in lines:
            entries = tuple(
                e
                if e is None or n < start
                else e._replace(position=e.position + by, turned=e.turned + by * (turn is not None))
                for n, e in enumerate(line.entries)
            )
            places = [e if e is not None else line.behind[n + 1] - 1 + by * (n >= start) for n, e in enumerate(entries)]
            later.append(line._replace(entries=entries, behind=_content(places, line.behind[-1] + by)))
        self._bear(value, cache, later)


def _content(entries: Any, end: int) -> tuple[int, ...]:
    """The next position at every length, where tokens say it, and ``end`` at the whole."""
    said = [entry if isinstance(entry, int) else entry.position for entry in entries]
    return (*tuple([0, *(n + 1 for n in said)][: len(said)]), end)
