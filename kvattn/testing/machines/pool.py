"""A machine for mutable pools: each sequence beside a `Paged` value, the counts beside a plain model."""

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
import numpy as np

from kvattn.caches.paged import Paged
from kvattn.caches.pool import BlockPool, Handle
from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.testing.machines.tokens import SCHEMAS, encode, must, refused


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

    @initialize(target=handles, schema=SCHEMAS, size=st.sampled_from([1, 2, 3, 4]), data=st.data())
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
                if not (np.array_equal(x, y) and np.array_equal(x[0], z)):
                    raise AssertionError(f"{name} must hold tokens {tokens}, got {x[0]}")
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
