"""A cache beside a plain list of (token, position, owner): every step is compared, every failure has a name.

`Session` drives a `CacheAdapter` step by step and keeps, for each cache it has made, the tokens that each sequence must
hold.  What an append shows is compared row by row.  After every other step the cache is branched and one token is
appended to the branch, so that what the step left behind is seen at once; and all other branches are looked at again,
since none of them may have changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.testing.conformance.adapter import CacheAdapter, Part, Seen
from kvattn.testing.conformance.rows import SLACK, Name, Token, read, write
from kvattn.typing import Array

HEADS = 2

FAULTS = {
    "lost row": "a row that a query must see is not there",
    "resurrected row": "a row that was taken back is seen again, in another place",
    "stale after rollback": "a row that was taken back is still in its old place, where a new one must be",
    "wrong owner": "a row belongs to another sequence",
    "wrong order": "a row of the sequence is in another row's place",
    "alias after branch": "a row was written through another branch",
    "row out of sight": "a query sees a row that its window does not reach",
    "mangled row": "a row is no row that was ever written: mixed, cut, NaN, a key for a value, another head's",
    "silent overflow": "more than fits was taken without a word",
    "wrong length": "the cache says that it holds another number of tokens",
    "rows do not fit the mask": "the mask describes another number of rows than came back",
    "refused": "something that was declared was refused",
    "changed by a refusal": "a step was refused, but the cache is not as it was",
}
"""Names of failures, and what they mean."""


_TELLING = (
    "alias after branch",
    "wrong owner",
    "stale after rollback",
    "resurrected row",
    "mangled row",
    "lost row",
    "wrong order",
)
"""Of several wrong rows, which one is told: a row that came from elsewhere says more than those that it displaced."""


class CacheFault(AssertionError):  # noqa: N818 -- a fault of the cache
    """What a cache did wrong; ``kind`` is one of `FAULTS`.

    >>> CacheFault("lost row", "the row of position 3 is not there").kind
    'lost row'
    """

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(f"{kind}: {sentence}")
        self.kind = kind


class Held(NamedTuple):
    """What a sequence must hold: its tokens, and what its first append wrote, which a source keeps."""

    tokens: tuple[Token, ...] = ()
    source: tuple[Token, ...] = ()


@dataclass(eq=False)
class Line:
    """One cache of a session, what it must hold, and the numbers of all tokens that it ever held.

    ``recent`` counts the tokens of its last append that are still there: how far back it can surely go.  ``over`` is
    set where a step failed, or was refused by a cache that does not recover.

    >>> Line(None, (Held(),)).over
    False
    """

    cache: Any
    held: tuple[Held, ...]
    history: frozenset[int] = frozenset()
    recent: int = 0
    over: bool = field(default=False)

    @property
    def length(self) -> int:
        """Tokens of every sequence.

        >>> Line(None, (Held(),)).length
        0
        """
        return len(self.held[0].tokens)


class Session:
    """Steps on the caches of one adapter, each compared with lists.

    Attributes
    ----------
    lines
        Every cache made by `start` and `branch`.
    log
        The steps so far, as they would be typed.

    Examples
    --------
    >>> from kvattn.testing.conformance import PagedAdapter
    >>> session = Session(PagedAdapter())
    >>> line = session.start(2)
    >>> session.append(line, 5), session.rollback(line, 2), session.append(line, 1)
    (True, True, True)
    >>> session.log
    ['start(2)', 'append(0, 5)', 'rollback(0, 2)', 'append(0, 1)']
    """

    def __init__(self, adapter: CacheAdapter) -> None:
        self.adapter, self.can = adapter, adapter.capabilities
        self.lines: list[Line] = []
        self.log: list[str] = []
        self._numbers = 0

    def start(self, batch: int) -> Line:
        """An empty cache.

        >>> from kvattn.testing.conformance import PagedAdapter
        >>> Session(PagedAdapter()).start(3).length
        0
        """
        self.log.append(f"start({batch})")
        self.lines.append(Line(self.adapter.start(batch), (Held(),) * batch))
        return self.lines[-1]

    def append(self, line: Line, tokens: int) -> bool:
        """Add new tokens to every sequence, and compare what attention would see; False where it was refused.

        Raises
        ------
        CacheFault
            What came is not what must be seen.

        Examples
        --------
        >>> from kvattn.testing.conformance import PagedAdapter
        >>> session = Session(PagedAdapter())
        >>> session.append(session.start(1), 3)
        True
        """
        self._note("append", line, tokens)
        full = self.can.capacity is not None and line.length + tokens > self.can.capacity
        declared = (self.can.many or tokens <= 1 or not line.length) and (self.can.none or tokens > 0)
        done = self._tried(line, lambda: self._append(line, tokens, full), declared and not full)
        self._others(line)
        return done

    def rollback(self, line: Line, tokens: int) -> bool:
        """Take the newest tokens back; False where that was refused.

        More tokens than there are may be refused or empty the cache, fewer than none may be refused or change nothing.

        Raises
        ------
        CacheFault
            The cache is not as it must be, as one more token on a branch of it shows.

        Examples
        --------
        >>> from kvattn.testing.conformance import PagedAdapter
        >>> session = Session(PagedAdapter())
        >>> line = session.start(1)
        >>> session.append(line, 3), session.rollback(line, 5), line.length
        (True, False, 3)
        """
        self._note("rollback", line, tokens)
        deepest = line.length if self.can.rollback is None else min(self.can.rollback, line.recent)
        length = min(max(line.length - tokens, 0), line.length)

        def step() -> None:
            line.cache = self.adapter.rollback(line.cache, tokens)
            line.recent = 0
            line.held = tuple(each._replace(tokens=each.tokens[:length]) for each in line.held)

        return self._done(line, step, 0 <= tokens <= deepest and self.can.rollback != 0)

    def select(self, line: Line, indices: Sequence[int]) -> bool:
        """Reorder, repeat or drop sequences; False where that was refused.

        Raises
        ------
        CacheFault
            The cache is not as it must be, as one more token on a branch of it shows.

        Examples
        --------
        >>> from kvattn.testing.conformance import PagedAdapter
        >>> session = Session(PagedAdapter())
        >>> line = session.start(2)
        >>> session.append(line, 3), session.select(line, [1, 1, 0])
        (True, True)
        """
        self._note("select", line, list(indices))
        same = sorted(indices) == list(range(len(line.held))) or len(indices) == len(line.held)

        def step() -> None:
            line.cache = self.adapter.select(line.cache, indices)
            line.held = tuple(line.held[i] for i in indices)

        return self._done(line, step, self.can.select if same else self.can.resize)

    def branch(self, line: Line) -> Line:
        """Another cache with the same content, which goes its own way.

        >>> from kvattn.testing.conformance import PagedAdapter
        >>> session = Session(PagedAdapter())
        >>> line = session.start(1)
        >>> session.append(line, 2), session.append(session.branch(line), 1), line.length
        (True, True, 2)
        """
        self._note("branch", line)
        twin = Line(self.adapter.branch(line.cache), line.held, line.history, line.recent)
        self.lines.append(twin)
        self.look(twin)
        self._others(twin)
        return twin

    def follow(self, script: str) -> None:
        """Steps of a session as one line: ``start``, then steps on that cache, each with its numbers.

        Raises
        ------
        CacheFault
            As the steps do.

        Examples
        --------
        >>> from kvattn.testing.conformance import PagedAdapter
        >>> session = Session(PagedAdapter())
        >>> session.follow("start 2, append 5, rollback 2, select 1 0")
        >>> session.lines[0].length
        3
        """
        for step in script.split(","):
            verb, *words = step.split()
            numbers = [int(word) for word in words]
            if verb == "start":
                self.start(*numbers)
            elif verb == "select":
                self.select(self.lines[0], numbers)
            elif verb == "branch":
                self.branch(self.lines[0])
            elif verb in ("append", "rollback"):
                (self.append if verb == "append" else self.rollback)(self.lines[0], *numbers)
            else:
                raise ArgumentError(f"script must be of start, append, rollback, select and branch, got {verb!r}")

    def look(self, line: Line) -> None:
        """Append one token to a branch of a cache, and compare; nothing where it cannot branch, or is full.

        >>> from kvattn.testing.conformance import PagedAdapter
        >>> session = Session(PagedAdapter())
        >>> session.look(session.start(1))
        """
        if self.can.branch and not line.over and (self.can.capacity is None or line.length < self.can.capacity):
            try:
                twin = Line(self.adapter.branch(line.cache), line.held, line.history)
                self._append(twin, 1, False)
            except CacheFault:
                line.over = True
                raise
            except Exception as refusal:
                line.over = True
                raise CacheFault(
                    "refused", f"one more token was refused after {self.log[-1]}: {refusal!r}"
                ) from refusal

    def _note(self, verb: str, line: Line, *words: object) -> None:
        if line.over:
            raise ArgumentError(f"{verb} must be of a cache that is still in use, got one that was refused a step")
        self.log.append(f"{verb}({', '.join(map(str, (self.lines.index(line), *words)))})")

    def _tried(self, line: Line, step: Callable[[], None], declared: bool) -> bool:
        """Whether a step was done; a refusal is any exception that is not ours."""
        try:
            step()
        except CacheFault:
            line.over = True
            raise
        except Exception as refusal:
            if declared:
                line.over = True
                raise CacheFault("refused", f"{self.log[-1]} was refused: {refusal!r}") from refusal
            if not self.can.recovers:
                line.over = True
                return False
            try:
                self.look(line)
            except CacheFault as damage:
                raise CacheFault("changed by a refusal", f"{self.log[-1]} was refused, then {damage}") from refusal
            return False
        return True

    def _done(self, line: Line, step: Callable[[], None], declared: bool) -> bool:
        done = self._tried(line, step, declared)
        if done:
            self.look(line)
        self._others(line)
        return done

    def _others(self, line: Line) -> None:
        for other in self.lines:
            if other is not line:
                self.look(other)
        if len(self.lines) > 1:
            self.look(line)  # looking at the others must not have changed it

    def _append(self, line: Line, count: int, full: bool) -> None:
        new = []
        for owner in range(len(line.held)):
            numbers = range(self._numbers, self._numbers + count)
            self._numbers += count
            new.append(tuple(Token(n, line.length + i, owner) for i, n in enumerate(numbers)))
        k, v = (np.stack([write(tokens, heads=HEADS, field=f) for tokens in new]) for f in (0, 1))
        before = line.length
        line.cache, seen = self.adapter.append(line.cache, k, v)
        if full:
            raise CacheFault("silent overflow", f"{before + count} tokens were taken, {self.can.capacity} fit")
        line.held = tuple(
            Held(held.tokens + tokens, held.source or tokens) for held, tokens in zip(line.held, new, strict=True)
        )
        line.history |= {token.number for tokens in new for token in tokens}
        line.recent = count
        if len(seen) != len(self.can.parts):
            raise ArgumentError(f"append must return {len(self.can.parts)} parts as declared, got {len(seen)}")
        if count:
            for number, (part, one) in enumerate(zip(self.can.parts, seen, strict=True)):
                _Comparison(line, before, part, f" of part {number}" if len(seen) > 1 else "").compare(one)


class _Comparison(NamedTuple):
    line: Line
    before: int  # tokens that were there before the append
    part: Part
    where: str

    def compare(self, seen: Seen) -> None:
        keys, values = np.asarray(seen.keys), np.asarray(seen.values)
        batch, length, rows = len(self.line.held), self.line.length, keys.shape[2] if keys.ndim == 4 else 0
        for name, array in (("keys", keys), ("values", values)):
            if array.ndim != 4 or array.shape[:3] != (batch, HEADS, rows):
                raise CacheFault("mangled row", f"{name}{self.where} came as {array.shape} for a batch of {batch}")
        described = seen.positions if seen.visible is None else seen.visible
        if described is not None and np.shape(described)[-1] != rows:
            raise CacheFault(
                "rows do not fit the mask",
                f"the mask{self.where} describes {np.shape(described)[-1]} rows, and {rows} came back",
            )
        ordered = np.arange(rows) + (0 if self.part.source else length - rows)
        places = np.asarray(ordered if seen.positions is None else seen.positions, np.float64)
        for field_number, array in enumerate((keys, values)):
            for b in range(batch):
                if seen.visible is None:
                    self._in_place(b, field_number, places, array[b])
                else:
                    for head in range(HEADS):
                        self._in_sight(b, head, field_number, read(array[b, head]), np.asarray(seen.visible))
        if seen.length is not None and seen.length != length:
            raise CacheFault("wrong length", f"the cache{self.where} holds {length} tokens and says {seen.length}")

    def _wanted(self, b: int, query: int) -> tuple[Token, ...]:
        held, part = self.line.held[b], self.part
        if part.source:
            return held.source
        first = 0 if part.window is None else query - part.window + 1
        return tuple(t for t in held.tokens[: query + 1] if t.position >= first or t.position < part.sinks)

    def _in_place(self, b: int, field_number: int, places: Array, rows: Array) -> None:
        """Each row that some query must see is where the mask takes it to be."""
        last = self._wanted(b, self.line.length - 1)
        wanted = sorted({*self._wanted(b, self.before), *last, *self.line.held[b].tokens[self.before :]})
        if self.part.source:
            wanted = list(last)
        if self.part.source:
            self._no_more(b, field_number, rows, len(last))
        index = {int(position): place for place, position in enumerate(places)}
        taken = [index.get(token.position) for token in wanted]
        there = np.array([place for place in taken if place is not None], np.int64)
        if len(there) == len(wanted):
            with np.errstate(invalid="ignore"):
                if (np.abs(rows[:, there] - write(wanted, heads=HEADS, field=field_number)) <= SLACK).all():
                    return
        for head in range(HEADS):
            names = [*read(rows[head]), "nothing"]
            found = [(token, names[-1 if place is None else place]) for token, place in zip(wanted, taken, strict=True)]
            faults = [
                self._fault(b, head, field_number, token, name)
                for token, name in found
                if name != Name(*token, head, field_number)
            ]
            if faults:
                raise min(faults, key=lambda fault: _TELLING.index(fault.kind))

    def _no_more(self, b: int, field_number: int, rows: Array, count: int) -> None:
        """Every query sees all of a source, so nothing may stand behind what its first append wrote."""
        for head in range(HEADS):
            for name in read(rows[head, count:]):
                if name != "nothing" and self.line.held[b].source:
                    what = ("keys", "values")[field_number]
                    raise CacheFault(
                        "row out of sight", f"behind the {count} {what}{self.where} of the source comes {name}"
                    )

    def _in_sight(self, b: int, head: int, field_number: int, names: Sequence[Name | str], visible: Array) -> None:
        """Each query sees its rows, in any order, and no other."""
        for query, shown in zip(range(self.before, self.line.length), visible, strict=True):
            wanted = {Name(*token, head, field_number): token for token in self._wanted(b, query)}
            seen = [name for name, show in zip(names, shown, strict=True) if show]
            extra = [name for name in seen if name not in wanted] + [n for n in wanted if seen.count(n) > 1]
            lost = [token for name, token in wanted.items() if name not in seen]
            if extra:
                token = lost[0] if lost else self.line.held[b].tokens[query]
                raise self._fault(b, head, field_number, token, extra[0], query)
            if lost:
                raise self._fault(b, head, field_number, lost[0], "nothing", query)

    def _fault(
        self, b: int, head: int, field_number: int, wanted: Token, name: Name | str, query: int | None = None
    ) -> CacheFault:
        what = ("key", "value")[field_number]
        place = f"{what} {wanted.position} of sequence {b}, head {head}{self.where}"
        if query is not None:
            place += f", for the query at {query},"
        if isinstance(name, str):
            return CacheFault("lost row" if name == "nothing" else "mangled row", f"{place} must be there, got {name}")
        kind = self._kind(b, head, field_number, wanted, name, query)
        who = f"{('key', 'value')[name.field]} {name.position} of sequence {name.owner}, head {name.head}"
        return CacheFault(kind, f"{place} must be token {wanted.number}, got token {name.number}: {who}")

    def _kind(self, b: int, head: int, field_number: int, wanted: Token, name: Name, query: int | None) -> str:
        held = self.line.held[b].source if self.part.source else self.line.held[b].tokens
        if (name.head, name.field) != (head, field_number):
            return "mangled row"
        if name.number not in self.line.history:
            return "alias after branch"
        if name.token in held:
            return "wrong order" if query is None else "row out of sight"
        if name.owner != wanted.owner or any(name.token in other.tokens for other in self.line.held):
            return "wrong owner"
        return "stale after rollback" if name.position == wanted.position else "resurrected row"
