"""Values of several kinds alive at once, beside plain lists of (token, position, owner): birth, growth and going back.

Each value is read at birth, and what it was made from is read once more; any of them may be used again.
`ServingMachine` adds the other verbs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
import re
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
import numpy as np

from kvattn.caches import BLOCK, PrefixBlocks, PrefixTrie
from kvattn.counting import counting
from kvattn.errors import KvattnError, RollbackError
from kvattn.testing.machines.marked import Entry, Line
from kvattn.testing.machines.prefixes import Store
from kvattn.testing.machines.storages import STORAGES, Given, Sizes, Storage
from kvattn.testing.machines.tokens import must

MOST_SEQUENCES = 6
"""Sequences of a batch; what would make more is left."""

_MOST_VALUES = 16
_MOST_TOKENS = 2 * BLOCK + 40


class Kind(NamedTuple):
    """How a value was started; what is of one kind can be merged, and reused for each other."""

    storage: Storage
    sizes: Sizes

    @property
    def dtype(self) -> Any:
        """Of its rows.

        >>> from kvattn.testing.machines.storages import RING
        >>> Kind(RING, Sizes()).dtype
        dtype('float64')
        """
        return np.dtype(self.sizes.dtype)

    @property
    def name(self) -> str:
        """What an origin says of it.

        >>> from kvattn.testing.machines.storages import RING
        >>> Kind(RING, Sizes()).name
        'ring 4 4 1 1 float64'
        """
        return " ".join(map(str, (self.storage.name, *self.sizes[:4], self.dtype)))


class Value(NamedTuple):
    """A cache, and what it must hold."""

    kind: Kind
    cache: Any
    lines: tuple[Line, ...]


def one_sentence(error: KvattnError) -> bool:
    """Whether an error says what is wrong in one sentence, on one line.

    >>> one_sentence(KvattnError("n must be at least 1, got 0")), one_sentence(KvattnError("No. Not so."))
    (True, False)
    """
    words = str(error).replace("...", "")  # what is left out of a long repr
    return bool(words) and "\n" not in words and words[-1] not in ".!" and not re.search(r"[.!?] [A-Z]", words)


def declined(action: Callable[[], object], what: str) -> None:
    """Fail unless an action is refused by an error of kvattn's, in one sentence.

    >>> from kvattn.caches import Paged, latent
    >>> declined(lambda: Paged.start(latent(2)).truncate(1), "truncating beyond the end")
    """
    try:
        action()
    except KvattnError as error:
        must(one_sentence(error), f"{what} must be refused in one sentence, got {error}")
        return
    raise AssertionError(f"{what} must be refused, but it was taken")


class ValuesMachine(RuleBasedStateMachine):
    """Start, append, truncate, branch and select, on values of many kinds.

    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(ValuesMachine, settings=settings(max_examples=2, stateful_step_count=5))
    """

    storages: ClassVar[Sequence[Storage]] = STORAGES
    done: ClassVar[Counter[tuple[str, str]]] = Counter()
    """How often each verb was done to each kind of cache, refusals that were due included; over all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Value] = []
        self.stores: list[Store] = []
        self.owner = 0
        self.pools: list[Any] = []
        self.files: list[Path] = []
        self.folder: Any = None
        self.tally: Any = None
        self._counting = counting()

    # ------------------------------------------------------------------ what every rule needs

    def _did(self, verb: str, kind: Kind) -> None:
        self.done[verb, kind.storage.name] += 1

    def _drawn(self, data: st.DataObject, has: Callable[[Value], bool] = lambda value: True) -> Value:
        chosen = [n for n, value in enumerate(self.values) if has(value)]
        newest = chosen[-1:] * len(chosen)  # half of all draws, so that values grow
        return self.values[data.draw(st.sampled_from([*chosen, *newest]), label="value")]

    def check(self, value: Value) -> Value:
        """Read a value in every way that it offers, and compare it with its lines."""
        cache, lines = value.cache, value.lines
        lengths = tuple(len(line.entries) for line in lines)
        got = tuple(cache.lengths)
        wrong = "foreign" if sorted(got) == sorted(lengths) else "lost" if sum(got) < sum(lengths) else "resurrected"
        must(got == lengths, f"lengths must be {lengths}, got {got}: {wrong}")
        if hasattr(cache, "coming"):
            following = [[line.behind[-1], line.behind[-1] + 1] for line in lines]
            came = cache.coming(2).tolist()
            must(came == following, f"the next positions must be {following}, got {came}")
        for b, line in enumerate(lines):
            value.kind.storage.check(cache, b, line)
        if hasattr(cache, "nbytes"):
            must(cache.nbytes == sum(cache.footprint().values()), "nbytes must count each page once")
        return value

    def _bear(self, parent: Value, cache: Any, lines: Iterable[Line]) -> Value:
        child = self.check(Value(parent.kind, cache, tuple(lines)))
        self.check(parent)
        if len(self.values) >= _MOST_VALUES:
            self.values.pop(0)
        self.values.append(child)
        return child

    def _shares(self, cache: Any, *parents: Any) -> None:
        if hasattr(cache, "footprint"):
            known = {serial for parent in parents for serial in parent.footprint()}
            must(set(cache.footprint()) <= known, "rows must not be copied here")

    # ------------------------------------------------------------------ birth and growth

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Begin with a few values of several kinds, one of them long, and two stores of prefixes."""
        self.tally, self.folder = self._counting.__enter__(), TemporaryDirectory(prefix="kvattn-")
        self.stores = [
            Store(PrefixTrie.start(budget=1 << 40), 1, True),
            Store(PrefixBlocks.start(block=2, budget=1 << 40), 2, True),
            Store(PrefixTrie.start(budget=1_000), 1, False),
        ]
        for _ in range(min(3, 1 + len(self.storages))):
            self._appended(self._started(data), data)
            self._appended(self.values[-1], data)

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Another empty cache."""
        self._started(data)

    def _started(self, data: st.DataObject) -> Value:
        names = [storage.name for storage in self.storages]
        storage = self.storages[names.index(data.draw(st.sampled_from(names), label="storage"))]
        sizes = Sizes(
            page=data.draw(st.sampled_from((2, 1, 3, 4, BLOCK)), label="page"),
            window=data.draw(st.sampled_from((3, 2, 4, 1)), label="window"),
            rollback=data.draw(st.integers(0, 3), label="rollback"),
            sinks=data.draw(st.integers(0, 2), label="sinks"),
            dtype=data.draw(st.sampled_from((np.float64, np.float32)), label="dtype"),
        )
        batch = data.draw(st.integers(1, 3), label="batch")
        cache = storage.start(sizes, batch)
        if hasattr(cache, "pool"):
            self.pools.append(cache.pool)
        if hasattr(cache, "path"):
            self.files.append(cache.path)
        value = Value(
            Kind(storage, sizes), cache, tuple(Line(note=storage.memory.begin(sizes, b)) for b in range(batch))
        )
        self._did("start", value.kind)
        return self._bear(value, cache, value.lines)

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        """Add none, one, or about a page or a window, the same number to every sequence or not."""
        self._appended(self._drawn(data), data)

    def _counts(self, value: Value) -> list[int]:
        page, window = value.kind.sizes.page, value.kind.sizes.window
        longest_line = max(len(line.entries) for line in value.lines)
        near = {0, 1, window - 1, window, window + 1, 2 * window, page - 1, page, page + 1, -longest_line % page}
        return sorted(n for n in near if longest_line + n <= _MOST_TOKENS)

    def _appended(self, value: Value, data: st.DataObject) -> None:
        kind, lines = value.kind, value.lines
        edges = self._counts(value)
        many = data.draw(st.sampled_from(edges or [0]), label="tokens")
        counts = [many] * len(lines)
        keywords: dict[str, Any] = {}
        if kind.storage.ragged and data.draw(st.booleans(), label="ragged"):
            counts = [data.draw(st.sampled_from([n for n in edges if n <= many]), label="count") for _ in lines]
            keywords["counts"] = counts
        text = data.draw(st.integers(0, 255), label="text")
        at = np.array([line.behind[-1] for line in lines])[:, None] + np.arange(many)
        if hasattr(value.cache, "coming") and data.draw(st.booleans(), label="say positions"):
            if kind.storage.placed:
                at = at + data.draw(st.integers(0, 3), label="gap")
            keywords["positions"] = at
        new = []
        for n, places in zip(counts, at.tolist(), strict=True):
            self.owner += 1
            new.append([Entry(text >> (p % 8) & 1, place, self.owner, p) for p, place in enumerate(places[:n])])
        full = kind.storage.full(value.cache, counts)
        self._did("append", kind)
        try:
            cache = kind.storage.append(value.cache, Given(lines, new, keywords, kind.sizes.dtype, many))
        except KvattnError as error:
            must(full and one_sentence(error), f"append of {counts} tokens must be done, but: {error}")
            self.check(value)
            return
        must(not full, f"append of {counts} tokens must be refused for want of room")
        later = [
            Line(
                (*line.entries, *more),
                (*line.behind, *(entry.position + 1 for entry in more)),
                line.past | {entry.owner for entry in more},
                kind.storage.memory.after(line.note, kind.sizes, len(line.entries), len(line.entries) + len(more)),
            )
            for line, more in zip(lines, new, strict=True)
        ]
        child = self._bear(value, cache, later)
        for b, (line, more) in enumerate(zip(lines, new, strict=True)):
            if more:
                self._in_sight(child, b, len(line.entries))

    def _in_sight(self, value: Value, sequence: int, first: int) -> None:
        """Every query from ``first`` on finds what it may see, and nothing is kept that nobody may see any more."""
        sizes, end = value.kind.sizes, len(value.lines[sequence].entries)
        for part, sees in value.kind.storage.sights(value.cache, sizes):
            there = set(part.remembered(sequence).tolist())
            for query in range(first, end):
                missed = sees(query) - there
                must(not missed, f"query {query} of {first} .. {end - 1} misses slots {sorted(missed)}: lost")
            seen = set().union(*(sees(query) for query in range(max(0, first - sizes.rollback), end + 1)))
            must(there <= seen, f"slots {sorted(there - seen)} must be forgotten, nobody sees them: resurrected")

    # ------------------------------------------------------------------ going back, and other names

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        """Go back to nothing, by one, by about a window or a page, by nothing, or too far; perhaps go on at once."""
        value = self._drawn(data)
        kind, cache, lines = value.kind, value.cache, value.lines
        lengths = []
        for line in lines:
            n, page, window = len(line.entries), kind.sizes.page, kind.sizes.window
            near = {0, 1, n, n - 1, n - window, n - window - 1, n - kind.sizes.rollback, n // page * page}
            near |= {n // page * page - 1, n // page * page + 1, n - 2 * window, *kind.storage.memory.edges(line.note)}
            lengths.append(data.draw(st.sampled_from(sorted((m for m in near if 0 <= m <= n), reverse=True))))
        each = data.draw(st.booleans(), label="each")
        if not each:
            lengths = [min(lengths)] * len(lines)
        if data.draw(st.integers(0, 7), label="to nothing") == 7:  # all at once: some storages go no other way back
            lengths = [0] * len(lines)
        self._did("truncate", kind)
        verdicts = [self._returns(value, line, n) for line, n in zip(lines, lengths, strict=True)]
        try:
            shorter = cache.truncate(lengths if each else lengths[0])
        except RollbackError as error:
            must(None in verdicts or False in verdicts, f"truncate({lengths}) must be done, but: {error}")
            must(one_sentence(error), f"truncate({lengths}) must be refused in one sentence, got {error}")
            self.check(value)
            return
        must(False not in verdicts, f"truncate({lengths}) must be refused, the rows are gone")
        if not kind.storage.remakes:
            self._shares(shorter, cache)
        cut = [self._cut(kind, line, n) for line, n in zip(lines, lengths, strict=True)]
        child = self._bear(value, shorter, cut)
        for part, sees in kind.storage.sights(shorter, kind.sizes):
            for b, n in enumerate(lengths):
                missed = sees(n) - {n} - set(part.remembered(b).tolist())
                must(not missed, f"the query at {n} misses slots {sorted(missed)}: lost")
        if data.draw(st.booleans(), label="append at once"):
            self._appended(child, data)
        del child

    @staticmethod
    def _cut(kind: Kind, line: Line, n: int) -> Line:
        return Line(line.entries[:n], line.behind[: n + 1], line.past, kind.storage.memory.back(line.note, n))

    @staticmethod
    def _returns(value: Value, line: Line, n: int) -> bool | None:
        """Whether a line must go back to n tokens; of released pages the storage may know the position, or not."""
        if 0 < n < len(line.entries) and line.entries[n - 1] is None:
            return False if n % value.kind.sizes.page else None if value.kind.storage.placed else True
        return value.kind.storage.memory.returns(line.note, value.kind.sizes, n)

    @rule(data=st.data())
    def branch(self, data: st.DataObject) -> None:
        """A second name."""
        value = self._drawn(data)
        self._did("branch", value.kind)
        self._bear(value, value.cache.branch() if hasattr(value.cache, "branch") else value.cache, value.lines)

    @rule(data=st.data())
    def select(self, data: st.DataObject) -> None:
        """Reorder, repeat and drop sequences."""
        value = self._drawn(data)
        chosen = data.draw(st.lists(st.integers(0, len(value.lines) - 1), min_size=1, max_size=4), label="indices")
        self._did("select", value.kind)
        cache = value.cache.select(chosen)
        self._shares(cache, value.cache)
        self._bear(value, cache, [value.lines[i] for i in chosen])

    def teardown(self) -> None:
        """Drop all names, stop counting, and remove what was written."""
        self.values.clear()
        self.stores.clear()
        if self.tally is not None:
            self._counting.__exit__(None, None, None)
            self.folder.cleanup()
