"""A machine for any cache, through five methods: `CacheMachine` draws the steps, `Session` compares them."""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kvattn.testing.conformance import CacheAdapter, Line, PagedAdapter, Session

MOST = 40
"""Tokens to which an unbounded cache is grown."""


class CacheMachine(RuleBasedStateMachine):
    """Append, roll back, select and branch, on any cache made so far; numbers lie around the window and the capacity.

    Derive a class and set ``adapter``.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> class Mine(CacheMachine):
    ...     adapter = PagedAdapter(page=3)
    >>> run_state_machine_as_test(Mine, settings=settings(max_examples=3, stateful_step_count=5))
    """

    adapter: CacheAdapter = PagedAdapter()
    branches = 4
    """Caches that are kept at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session(self.adapter)
        self.can = self.session.can

    @initialize(batch=st.integers(1, 3), data=st.data())
    def begin(self, batch: int, data: st.DataObject) -> None:
        """Start with an empty cache, or with a prompt."""
        self.session.start(batch)
        if data.draw(st.booleans(), label="prompt"):
            self._append(data)

    @precondition(lambda self: not self.living)
    @rule(batch=st.integers(1, 3))
    def begin_again(self, batch: int) -> None:
        """Start another cache where refusals have ended all."""
        self.session.start(batch)

    @property
    def living(self) -> Sequence[Line]:
        """Caches that no refusal has ended.

        >>> CacheMachine().living
        []
        """
        return [line for line in self.session.lines if not line.over]

    def _line(self, data: st.DataObject) -> Line:
        return data.draw(st.sampled_from(self.living), label="cache")

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        """Add none, one, or about as many as reach a window or the capacity, and one more."""
        self._append(data)

    def _append(self, data: st.DataObject) -> None:
        line, can = self._line(data), self.can
        edges = {n for part in can.parts for n in (part.window, part.sinks) if n}
        counts = {0, 1, 2, 3} | {n + d for n in edges for d in (-1, 0, 1)} | {n - line.length for n in edges}
        if can.capacity is not None:
            counts |= {can.capacity - line.length + d for d in (-1, 0, 1)}
        most = MOST if can.capacity is None else can.capacity + ("overflow" not in can.untried)
        legal = [n for n in sorted(counts) if 0 <= n <= most - line.length and self._tries(line, n)]
        if legal:
            self.session.append(line, data.draw(st.sampled_from(legal), label="tokens"))

    def _tries(self, line: Line, tokens: int) -> bool:
        many = tokens > 1 and line.length
        none = not tokens and ("none" in self.can.untried or not line.length)
        return not none and not ("many" in self.can.untried and many)

    @precondition(lambda self: self.living)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        """Take back none, one, the last append, all but one, all, more than all, fewer than none."""
        line, can = self._line(data), self.can
        depth = line.length if can.rollback is None else min(can.rollback, line.recent)
        counts = {0, 1, depth - 1, depth} | {n for part in can.parts if (n := part.window)}
        if "rollback" not in can.untried:
            counts |= {depth + 1, line.length - 1, line.length}
        legal = {n for n in counts if 0 <= n <= (depth if "rollback" in can.untried else line.length)}
        legal |= {-1} if "negative" not in can.untried else set()
        legal |= {line.length + 1, line.length + 3} if "oversize" not in can.untried else set()
        if legal and line.length:
            self.session.rollback(line, data.draw(st.sampled_from(sorted(legal)), label="tokens"))

    @precondition(lambda self: self.living and "select" not in self.can.untried)
    @rule(data=st.data())
    def select(self, data: st.DataObject) -> None:
        """Reorder; and repeat or drop, where that is tried."""
        line = self._line(data)
        if not line.length:
            return  # many libraries learn the batch from the first rows
        each = st.integers(0, len(line.held) - 1)
        sizes = (len(line.held),) * 2 if "resize" in self.can.untried else (1, 4)
        indices = data.draw(st.lists(each, min_size=sizes[0], max_size=sizes[1]), label="indices")
        self.session.select(line, indices)

    @precondition(lambda self: self.living and self.can.branch and len(self.living) < self.branches)
    @rule(data=st.data())
    def branch(self, data: st.DataObject) -> None:
        """Go on from one cache in two ways."""
        self.session.branch(self._line(data))

    def teardown(self) -> None:
        """Append one more token to every cache: it must still hold what it held."""
        for line in self.living:
            if self.can.capacity is None or line.length < self.can.capacity:
                self.session.append(line, 1)
