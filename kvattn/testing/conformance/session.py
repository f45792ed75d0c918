"""A cache beside a plain list of (token, position, owner): every step is compared, every failure has a name.

`Session` drives a `CacheAdapter` step by step and keeps, for each cache it has made, the tokens that each sequence must
hold.  What an append shows is compared row by row.  After every other step the cache is branched and one token is
appended to the branch, so that what the step left behind is seen at once; and all other branches are looked at again,
since none of them may have changed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kvattn.errors import ArgumentError
from kvattn.testing.conformance._comparing import Comparison
from kvattn.testing.conformance.adapter import CacheAdapter, Seen
from kvattn.testing.conformance.lines import CacheFault, Held, Line
from kvattn.testing.conformance.rows import HEADS, Token, write


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
            except (CacheFault, _MisusedError):
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
        except (CacheFault, _MisusedError):
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
        line.cache, seen = _returned(self.adapter.append(line.cache, k, v))
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
                Comparison(line, before, part, f" of part {number}" if len(seen) > 1 else "").compare(one)


class _MisusedError(ArgumentError):
    """What an adapter gave is of another form than its protocol says: no refusal, whatever is declared."""


def _returned(found: Any) -> tuple[Any, Sequence[Seen]]:
    """What an append gave, if it is a cache and what was seen of it."""
    if not isinstance(found, Sequence) or isinstance(found, str | bytes) or len(found) != 2:
        raise _MisusedError(f"append must return a pair, the cache and a list of Seen, got {_called(found)}")
    cache, seen = found
    if not isinstance(seen, list | tuple) or not all(isinstance(one, Seen) for one in seen):
        raise _MisusedError(f"append must return the cache and a list of Seen, got a cache and {_called(seen)}")
    return cache, seen


def _called(found: Any) -> str:
    if isinstance(found, list | tuple) and not isinstance(found, Seen):
        return f"{type(found).__name__} of {', '.join(type(one).__name__ for one in found[:3]) or 'nothing'}"
    return type(found).__name__
