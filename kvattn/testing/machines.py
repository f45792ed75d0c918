"""State machines that drive a cache through anything, beside a plain list of tokens.

`PagedMachine` is for caches that are values: it keeps every value ever made together with the tokens
that it must hold, lets any of them be used again, and compares **at birth**: each new value is read
as soon as it exists, and what it was made from is read once more.  A value that changes later shows
at the end, when all are read again.  `PoolMachine` is for mutable pools with reference counts: after
every step each live sequence equals a `Paged` value and a list of tokens, the counts equal a plain
model, and every slot that nobody owns is NaN.

Each token is a whole number, and each number of its row says which token, field, head and column it
is, so that a swap, a shift and a mix-up of any two of them show.

To drive another cache, derive a class and say how to start one::

    class Mine(PagedMachine):
        def start_cache(self, schema, batch, page):
            return MyCache(schema, batch, page)


    TestMine = Mine.TestCase

It needs ``lengths``, ``append``, ``truncate``, ``select`` and ``rows(sequence=b)``; ``branch``,
``release``, ``raw_blocks``, ``pages`` and ``nbytes`` are exercised where they exist.  A refusal is a
`ValueError`, and leaves everything as it was.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.errors import MissingExtraError
from kvattn.typing import Array

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
except ImportError as error:
    raise MissingExtraError("kvattn.testing.machines needs Hypothesis: install kvattn[testing]") from error

_CODES = 64

Tokens = tuple[int | None, ...]
"""The tokens of one sequence by slot; None where the cache was told to forget."""


class Known(NamedTuple):
    """A cache and what it must hold."""

    cache: Any
    tokens: tuple[Tokens, ...]
    page: int


def must(holds: bool, sentence: str) -> None:
    """Fail with a sentence unless something holds.

    >>> must(True, "one is one")
    """
    if not holds:
        raise AssertionError(sentence)


def encode(schema: Schema[Any], tokens: Sequence[int]) -> list[Array]:
    """The rows of some tokens, ``[heads, T, width]`` per field; no two numbers of any rows are equal.

    >>> [x.ravel() for x in encode(key_value(1, 2), [3])]
    [array([192., 193.]), array([194., 195.])]
    """
    found, code = [], 0
    for field in schema.fields:
        size = field.heads * field.width
        codes = np.arange(code, code + size).reshape(field.heads, 1, field.width)
        found.append((np.array(tokens, np.int64).reshape(1, -1, 1) * _CODES + codes).astype(field.dtype))
        code += size
    must(code <= _CODES, f"a row of the machine has at most {_CODES} numbers, got {code}")
    return found


def refused(action: Callable[[], object], what: str) -> None:
    """Fail unless an action raises `ValueError`.

    >>> refused(lambda: int("x"), "int('x')")
    """
    try:
        action()
    except ValueError:
        return
    raise AssertionError(f"{what} must be refused with a ValueError, but it was taken")


_SCHEMAS = st.builds(
    key_value,
    heads=st.integers(1, 3),
    width=st.integers(1, 4),
    value_width=st.integers(1, 4),
    dtype=st.sampled_from([np.float64, np.float32]),
)


class PagedMachine(RuleBasedStateMachine):
    """Append, truncate, branch, select and release, from any earlier value.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(PagedMachine, settings=settings(max_examples=3, stateful_step_count=5))
    """

    values: Bundle[Known] = Bundle("values")
    pages: Sequence[int] = (1, 2, 3, 5, 8, BLOCK)

    def __init__(self) -> None:
        super().__init__()
        self.born: list[Known] = []
        self.next_token = 1
        self.schema: Schema[Any] = key_value(1, 1)

    def start_cache(self, schema: Schema[Any], batch: int, page: int) -> Any:
        """The empty cache under test.

        >>> PagedMachine().start_cache(key_value(1, 2), 1, 4)
        Paged(KeyValue, page=4, lengths=(0,))
        """
        return Paged.start(schema, batch, page)

    def check(self, known: Known) -> Known:
        """Read a value in every way it offers and compare it with its tokens.

        >>> machine = PagedMachine()
        >>> machine.check(Known(machine.start_cache(machine.schema, 1, 4), ((),), 4)).tokens
        ((),)
        """
        cache, tokens, page = known
        lengths = tuple(len(t) for t in tokens)
        must(tuple(cache.lengths) == lengths, f"lengths must be {lengths}, got {tuple(cache.lengths)}")
        for b, row in enumerate(tokens):
            if None in row:
                refused(lambda b=b: cache.rows(sequence=b), "reading a released row")  # type: ignore[misc]
            else:
                held = [t for t in row if t is not None]
                for name, got, wanted in zip(
                    ("k", "v"), cache.rows(sequence=b), encode(self.schema, held), strict=True
                ):
                    must(got.dtype == wanted.dtype, f"{name} must have dtype {wanted.dtype}, got {got.dtype}")
                    must(
                        np.array_equal(got[0], wanted), f"{name} of sequence {b} must hold tokens {held}, got {got[0]}"
                    )
                    must(not got.flags.writeable, f"{name} must be read-only")
            if hasattr(cache, "raw_blocks"):
                self._check_blocks(cache.raw_blocks(b), row)
            if hasattr(cache, "pages"):
                serials = cache.pages(b)
                must(len(serials) == -(-len(row) // page), f"{len(row)} tokens must take whole pages, got {serials}")
        if hasattr(cache, "pages") and hasattr(cache, "nbytes"):
            unique = {serial for b in range(len(tokens)) for serial in cache.pages(b)} - {None}
            wanted_bytes = len(unique) * page * self.schema.nbytes
            must(cache.nbytes == wanted_bytes, f"nbytes must count each page once, {wanted_bytes}, got {cache.nbytes}")
        return known

    def _check_blocks(self, blocks: Sequence[Any], row: Tokens) -> None:
        starts = [n for n in range(0, len(row), BLOCK) if any(t is not None for t in row[n : n + BLOCK])]
        must([block.start for block in blocks] == starts, f"blocks must start at {starts}")
        for block in blocks:
            part = row[block.start : block.start + BLOCK]
            held = np.array([t is not None for t in part] + [False] * (BLOCK - len(part)))
            must(np.array_equal(held, np.ones(BLOCK, bool) if block.held is None else block.held), "held is wrong")
            must(np.array_equal(block.positions[held], block.start + held.nonzero()[0]), "positions are wrong")
            rows = encode(self.schema, [t or 0 for t in part])
            for field, got, wanted in zip(self.schema.fields, block.arrays, rows, strict=True):
                full = np.zeros((field.heads, BLOCK, field.width), field.dtype)
                full[:, : len(part)] = wanted
                full[:, ~held] = 0.0
                flat = got.swapaxes(1, 2) if field.keys else got
                must(np.array_equal(flat, full), f"{field.name} of the block at {block.start} is wrong")
                must(got.flags.c_contiguous and not got.flags.writeable, f"{field.name} must be contiguous, read-only")

    def _bear(self, parent: Known, cache: Any, tokens: Sequence[Tokens]) -> Known:
        child = self.check(Known(cache, tuple(tokens), parent.page))
        self.check(parent)
        self.born.append(child)
        return child

    def _rows(self, batch: int, count: int) -> tuple[KeyValue, list[Tokens]]:
        tokens: list[Tokens] = []
        parts = []
        for _ in range(batch):
            fresh = range(self.next_token, self.next_token + count)
            self.next_token += count
            tokens.append(tuple(fresh))
            parts.append(encode(self.schema, fresh))
        return KeyValue(*(np.stack(field) for field in zip(*parts, strict=True))), tokens

    @initialize(target=values, schema=_SCHEMAS, data=st.data())
    def begin(self, schema: Schema[Any], data: st.DataObject) -> Any:
        """Start with nothing, with whole and broken pages, and with sequences of several lengths."""
        self.schema = schema
        begun = []
        for filled in (False, True, True):
            batch = data.draw(st.integers(2 if filled else 1, 3), label="batch")
            page = data.draw(st.sampled_from(tuple(self.pages)), label="page")
            known = self.check(Known(self.start_cache(schema, batch, page), ((),) * batch, page))
            if filled:
                known = self._appended(known, data.draw(st.sampled_from(self._counts(page, 2 * page)), label="tokens"))
            begun.append(known)
        lengths = [data.draw(st.integers(0, len(t)), label="length") for t in begun[2].tokens]
        begun[2] = self._truncated(begun[2], lengths, [t[:n] for t, n in zip(begun[2].tokens, lengths, strict=True)])
        return multiple(*begun, self._released(begun[1], data))

    def _counts(self, page: int, room: int) -> list[int]:
        counts = {0, 1, page - 1, page, page + 1, room, 2 * page + 3}
        return sorted((n for n in counts if n <= 2 * BLOCK), reverse=True)

    @rule(target=values, known=values, data=st.data())
    def append(self, known: Known, data: st.DataObject) -> Known:
        """Add none, one, about a page, or as much as ends at a page's border."""
        counts = self._counts(known.page, -len(known.tokens[0]) % known.page)
        return self._appended(known, data.draw(st.sampled_from(counts), label="tokens"))

    def _appended(self, known: Known, count: int) -> Known:
        rows, tokens = self._rows(len(known.tokens), count)
        cache = known.cache.append(rows)
        for array in rows:
            array[...] = -1.0  # the caller's memory is the caller's
        if hasattr(cache, "pages"):
            most = sum(1 + -(-(len(t) + count) // known.page) - -(-len(t) // known.page) for t in known.tokens)
            fresh = len(self._serials(cache) - self._serials(known.cache))
            must(fresh <= most, f"append may copy one page per sequence, but {fresh} pages are new")
        return self._bear(known, cache, [old + new for old, new in zip(known.tokens, tokens, strict=True)])

    @rule(known=values, excess=st.integers(1, 300))
    def refusals(self, known: Known, excess: int) -> None:
        """Wrong rows, lengths and indices are refused, and nothing is written; any earlier value still holds."""
        k, v = self._rows(len(known.tokens), 2)[0]
        other = np.float32 if v.dtype == np.float64 else np.float64
        rows: dict[str, tuple[Any, ...]] = {
            "rank": (k, v[0]),
            "number of heads": (k, np.concatenate([v, v], 1)),
            "width": (np.concatenate([k, k], 3), v),
            "number of tokens": (k, v[:, :, 1:]),
            "batch": (np.concatenate([k, k]), np.concatenate([v, v])),
            "dtype, object": (k, v.astype(object)),
            "dtype, int": (k.astype(np.int64), v),
            "dtype, the other float": (k, v.astype(other)),
            "number of fields": (k,),
        }
        for fault, wrong in rows.items():
            refused(lambda wrong=wrong: known.cache.append(wrong), f"append with a wrong {fault}")  # type: ignore[misc]
        for length in (-1, -excess, max(len(t) for t in known.tokens) + excess, True, 0.0):
            refused(lambda length=length: known.cache.truncate(length), f"truncate({length!r})")  # type: ignore[misc]
        for indices in ([], [-1], [0, len(known.tokens)], [True], [[0]]):
            refused(lambda indices=indices: known.cache.select(indices), f"select({indices})")  # type: ignore[misc]
        self.check(known)

    @rule(target=values, known=values, data=st.data())
    def truncate(self, known: Known, data: st.DataObject) -> Known:
        """Go back to nothing, by one, to a page's border, beside it, or by nothing."""
        shortest, page = min(len(t) for t in known.tokens), known.page
        border = shortest // page * page
        stops = {0, 1, border - 1, border, border + 1, shortest - 1, shortest}
        legal = sorted((n for n in stops if 0 <= n <= shortest), reverse=True)
        length = data.draw(st.sampled_from(legal), label="length")
        tokens = [t[:length] for t in known.tokens]
        return self._truncated(known, length, tokens)

    @rule(target=values, known=values, data=st.data())
    def truncate_each(self, known: Known, data: st.DataObject) -> Known:
        """Go back to a length of its own in every sequence."""
        lengths = [data.draw(st.integers(0, len(t)), label="length") for t in known.tokens]
        return self._truncated(known, lengths, [t[:n] for t, n in zip(known.tokens, lengths, strict=True)])

    def _truncated(self, known: Known, length: int | list[int], tokens: list[Tokens]) -> Known:
        if any(len(t) % known.page and t[-1] is None for t in tokens):
            refused(lambda: known.cache.truncate(length), "truncating into a released page")
            return self._bear(known, known.cache, known.tokens)
        cache = known.cache.truncate(length)
        self._shares(known, cache, "truncate")
        return self._bear(known, cache, tokens)

    @rule(target=values, known=values)
    def branch(self, known: Known) -> Known:
        """A second name for the same value."""
        cache = known.cache.branch() if hasattr(known.cache, "branch") else known.cache
        self._shares(known, cache, "branch")
        return self._bear(known, cache, known.tokens)

    @rule(target=values, known=values, data=st.data())
    def select(self, known: Known, data: st.DataObject) -> Known:
        """Reorder, repeat and drop sequences."""
        indices = data.draw(st.lists(st.integers(0, len(known.tokens) - 1), min_size=1, max_size=4), label="indices")
        cache = known.cache.select(indices)
        self._shares(known, cache, "select")
        return self._bear(known, cache, [known.tokens[i] for i in indices])

    @rule(target=values, known=values, data=st.data())
    def release(self, known: Known, data: st.DataObject) -> Known:
        """Forget whole pages in the middle."""
        return self._released(known, data)

    def _released(self, known: Known, data: st.DataObject) -> Known:
        if not hasattr(known.cache, "release"):
            return known
        shortest = min(len(t) for t in known.tokens)
        edges = {0, 1, known.page - 1, known.page, known.page + 1, shortest // known.page * known.page, shortest}
        edge = st.sampled_from(sorted((n for n in edges if 0 <= n <= shortest), key=lambda n: (n % known.page == 0, n)))
        start, stop = sorted((data.draw(edge, label="start"), data.draw(edge, label="stop")))
        first, last = -(-start // known.page) * known.page, stop // known.page * known.page
        tokens = [tuple(None if first <= slot < last else t for slot, t in enumerate(row)) for row in known.tokens]
        cache = known.cache.release(start, stop)
        self._shares(known, cache, "release")
        return self._bear(known, cache, tokens)

    def _serials(self, cache: Any) -> set[int]:
        return {serial for b in range(len(cache.lengths)) for serial in cache.pages(b) if serial is not None}

    def _shares(self, known: Known, cache: Any, verb: str) -> None:
        if hasattr(cache, "pages"):
            fresh = self._serials(cache) - self._serials(known.cache)
            must(not fresh, f"{verb} must copy nothing, but made {len(fresh)} pages")

    def teardown(self) -> None:
        """Read every value once more."""
        for known in self.born:
            self.check(known)


class PoolMachine(RuleBasedStateMachine):
    """Allocate, append, fork, truncate and free, beside persistent caches and a plain count of references.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(PoolMachine, settings=settings(max_examples=3, stateful_step_count=5))
    """

    handles: Bundle[Handle] = Bundle("handles")
    stale: Bundle[Handle] = Bundle("stale")

    def __init__(self) -> None:
        super().__init__()
        self.next_token = 1
        self.schema: Schema[Any] = key_value(1, 1)
        self.size, self.blocks = 1, 1
        self.pool: Any = None
        self.tokens: dict[Handle, list[int]] = {}
        self.paged: dict[Handle, Paged[Any]] = {}
        self.model: dict[Handle, list[int]] = {}
        self.next_block = 0
        self.named: set[Handle] = set()

    def start_pool(self, schema: Schema[Any], blocks: int, size: int) -> Any:
        """The empty pool under test.

        >>> PoolMachine().start_pool(key_value(1, 2), 3, 4).free_blocks
        3
        """
        return BlockPool(schema, blocks, size)

    @initialize(target=handles, schema=_SCHEMAS, size=st.sampled_from([1, 2, 3, 4]), data=st.data())
    def begin(self, schema: Schema[Any], size: int, data: st.DataObject) -> Any:
        """Start a pool with a sequence and its fork in it; a small pool is soon exhausted."""
        self.schema, self.size = schema, size
        self.blocks = data.draw(st.integers(3, 12), label="blocks")
        self.pool = self.start_pool(schema, self.blocks, size)
        first = self._allocated()
        self._append(first, data.draw(st.integers(0, 2 * size), label="tokens"))
        return multiple(first, self._forked(first))

    @rule(target=handles)
    def allocate(self) -> Handle:
        """Begin a sequence."""
        return self._allocated()

    def _allocated(self) -> Handle:
        handle: Handle = self.pool.allocate()
        must(handle not in self.named, f"allocate must give a new name, got {handle} again")
        self.named.add(handle)
        self.tokens[handle], self.model[handle] = [], []
        self.paged[handle] = Paged.start(self.schema, 1, self.size)
        return handle

    def _shared(self, handle: Handle) -> bool:
        last = self.model[handle][-1:]
        return bool(last) and sum(last[0] in table for table in self.model.values()) > 1

    @rule(handle=handles, data=st.data())
    def append(self, handle: Handle, data: st.DataObject) -> None:
        """Add tokens; refuse them, changing nothing, when they need more blocks than are free."""
        length, size = len(self.tokens[handle]), self.size
        counts = {0, 1, size - 1, size, size + 1, -length % size, 3 * size + 1}
        self._append(handle, data.draw(st.sampled_from(sorted(counts, reverse=True)), label="tokens"))

    def _append(self, handle: Handle, count: int) -> None:
        length, size = len(self.tokens[handle]), self.size
        fresh = range(self.next_token, self.next_token + count)
        rows = KeyValue(*(x[None] for x in encode(self.schema, fresh)))
        copies = bool(count and length % size and self._shared(handle))
        needed = -(-(length + count) // size) - -(-length // size) + copies
        free = self.blocks - len({block for table in self.model.values() for block in table})
        if needed > free:
            refused(lambda: self.pool.append(handle, rows), f"append that needs {needed} of {free} free blocks")
            return
        self.pool.append(handle, rows)
        self.next_token += count
        self.tokens[handle].extend(fresh)
        self.paged[handle] = self.paged[handle].append(rows)
        if copies:
            self.model[handle].pop()
        self.model[handle].extend(range(self.next_block, self.next_block + needed))
        self.next_block += needed

    @rule(target=handles, handle=handles)
    def fork(self, handle: Handle) -> Handle:
        """Begin a sequence that shares everything."""
        return self._forked(handle)

    def _forked(self, handle: Handle) -> Handle:
        twin: Handle = self.pool.fork(handle)
        must(twin not in self.named, f"fork must give a new name, got {twin} again")
        self.named.add(twin)
        self.tokens[twin], self.model[twin] = list(self.tokens[handle]), list(self.model[handle])
        self.paged[twin] = self.paged[handle].branch()
        return twin

    @rule(handle=handles, data=st.data())
    def truncate(self, handle: Handle, data: st.DataObject) -> None:
        """Go back."""
        length = data.draw(st.integers(0, len(self.tokens[handle])), label="length")
        self.pool.truncate(handle, length)
        del self.tokens[handle][length:]
        del self.model[handle][-(-length // self.size) :]
        self.paged[handle] = self.paged[handle].truncate(length)

    @rule(handle=handles, excess=st.integers(1, 9))
    def refusals(self, handle: Handle, excess: int) -> None:
        """Wrong rows and lengths are refused; `agrees` sees that nothing was written."""
        k, v = (x[None] for x in encode(self.schema, [1]))
        rows: dict[str, tuple[Any, ...]] = {
            "rank": (k, v[0]),
            "number of heads": (k, np.concatenate([v, v], 1)),
            "dtype, object": (k, v.astype(object)),
            "dtype, int": (k.astype(np.int64), v),
        }
        for fault, wrong in rows.items():
            refused(lambda wrong=wrong: self.pool.append(handle, wrong), f"append with a wrong {fault}")  # type: ignore[misc]
        refused(lambda: self.pool.truncate(handle, -excess), f"truncate to {-excess}")
        refused(lambda: self.pool.truncate(handle, len(self.tokens[handle]) + excess), "an oversize truncate")

    @rule(target=stale, handle=consumes(handles))
    def free(self, handle: Handle) -> Handle:
        """End a sequence."""
        self.pool.free(handle)
        del self.tokens[handle], self.model[handle], self.paged[handle]
        return handle

    @rule(handle=stale)
    def use_after_free(self, handle: Handle) -> None:
        """A stale name is refused everywhere."""
        rows = KeyValue(*(x[None] for x in encode(self.schema, [1])))
        refused(lambda: self.pool.free(handle), "a second free")
        refused(lambda: self.pool.append(handle, rows), "append to a freed sequence")
        refused(lambda: self.pool.fork(handle), "fork of a freed sequence")
        refused(lambda: self.pool.truncate(handle, 0), "truncate of a freed sequence")
        refused(lambda: self.pool.rows(handle), "reading a freed sequence")

    @invariant()
    def agrees(self) -> None:
        """Rows, tables, counts and unowned slots are right after every step."""
        if self.pool is None:
            return
        listed: Counter[int] = Counter()
        owned: dict[int, int] = {}
        for handle, tokens in self.tokens.items():
            got = self.pool.rows(handle)
            for name, x, y, z in zip("kv", got, self.paged[handle].rows(), encode(self.schema, tokens), strict=True):
                must(np.array_equal(x, y) and np.array_equal(x[0], z), f"{name} must hold tokens {tokens}, got {x[0]}")
            table = self.pool.table(handle)
            must(len(table) == -(-len(tokens) // self.size), f"{len(tokens)} tokens must not take blocks {table}")
            listed.update(table)
            for place, block in enumerate(table):
                owned[block] = max(owned.get(block, 0), min(self.size, len(tokens) - place * self.size))
        counts = tuple(listed[block] for block in range(self.blocks))
        must(self.pool.references == counts, f"references must be {counts}, got {self.pool.references}")
        model = Counter(block for table in self.model.values() for block in table)
        wanted = sorted(model.values())
        must(sorted(listed.values()) == wanted, f"tables must share as {wanted}, got {sorted(listed.values())}")
        must(self.pool.free_blocks == self.blocks - len(model), f"{self.blocks - len(model)} blocks must be free")
        for field, array in zip(self.schema.fields, self.pool.storage, strict=True):
            flat = array.swapaxes(2, 3) if field.keys else array
            for block in range(self.blocks):
                must(
                    bool(np.isnan(flat[block, :, owned.get(block, 0) :]).all()), f"unowned slots of {block} must be NaN"
                )

    def teardown(self) -> None:
        """End every sequence: every count returns to zero."""
        for handle in list(self.tokens):
            self.free(handle)
            self.agrees()
        must(self.pool is None or not any(self.pool.references), "references must end at zero")
