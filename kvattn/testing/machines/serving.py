"""One machine over all caches: everything that serving systems do to them, on values of several kinds alive at once.

Any earlier value may be used again.  Each is read at birth beside a plain list of (token, position, owner), so is what
it was made from, and all once more at the end: no token may be lost, come back, or be another's.  When the last name
is dropped no page may be held, no block of a pool counted, no file left.

A machine for some kinds only, or for another's cache, is a class with other `storages`::

    class Mine(ServingMachine):
        storages = (replace(RING, start=lambda sizes, batch: MyRing(sizes.window, sizes.rollback, batch)),)


    TestMine = Mine.TestCase

It has `ValuesMachine` (start, append, truncate, branch, select), `MovingMachine` (repeat, merge, split, release,
commit, evict, shift) and `KeepingMachine` (save, restore, remember, reuse, forget) in it, and adds refusals and names
that are dropped.
"""

from collections.abc import Sequence
import gc
import sys

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
import numpy as np

from kvattn.caches import live_bytes
from kvattn.testing.machines.keeping import KeepingMachine
from kvattn.testing.machines.marked import Entry, Line
from kvattn.testing.machines.storages import Given
from kvattn.testing.machines.tokens import must
from kvattn.testing.machines.values import declined


class ServingMachine(KeepingMachine):
    """Everything at once.

    Examples
    --------
    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(ServingMachine, settings=settings(max_examples=2, stateful_step_count=5))
    """

    @rule(data=st.data(), excess=st.integers(1, 300))
    def refusals(self, data: st.DataObject, excess: int) -> None:
        """Wrong rows, lengths and indices are refused in one sentence, and nothing is changed."""
        value = self._drawn(data)
        cache, lines, (storage, sizes) = value.cache, value.lines, value.kind
        self._did("refuse", value.kind)
        if "append" not in storage.refuses:
            other = np.float32 if value.kind.dtype == np.float64 else np.float64
            new = [[Entry(1, line.behind[-1] + n, 1, n) for n in range(3)] for line in lines]
            declined(lambda: storage.append(cache, Given(lines, new, {}, other, 3)), "append of another dtype")
            more = Given((*lines, Line()), [*new, new[0]], {}, sizes.dtype, 3)
            declined(lambda: storage.append(cache, more), "append to a sequence too many")
        most = max(len(line.entries) for line in lines)
        each: Sequence[object] = ([0] * (len(lines) + 1), [-excess] * len(lines), [most + excess] * len(lines))
        for length in (-1, -excess, most + excess, True, 0.5, *each):
            declined(lambda length=length: cache.truncate(length), f"truncate({length!r})")  # type: ignore[misc]
        for indices in ([], [-1], [len(lines)], [True], [[0]]):
            declined(lambda indices=indices: cache.select(indices), f"select({indices})")  # type: ignore[misc]
        self.check(value)

    @precondition(lambda self: len(self.values) > 1)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """Forget a name: what only that name held is given back."""
        gone = self.values.pop(data.draw(st.integers(0, len(self.values) - 1), label="value"))
        self._did("drop", gone.kind)
        del gone
        self._balanced()

    def _balanced(self) -> None:
        """What is alive is what values and stores hold."""
        caches = [value.cache for value in self.values if hasattr(value.cache, "footprint")]
        held, live = live_bytes(*caches, *(known.store for known in self.stores), *self.pools), self.tally.cache_live
        must(held == live, f"{live} bytes are alive, but values and stores hold {held}")

    def teardown(self) -> None:
        """Read every value once more, drop all names, and find nothing left."""
        try:
            if self.tally is not None and sys.exc_info()[1] is None:
                for value in self.values:
                    self.check(value)
                    del value  # the last name may be this one
                self._balanced()
                self._emptied()
        finally:
            super().teardown()

    def _emptied(self) -> None:
        kinds = {value.kind for value in self.values}
        self.values.clear()
        self.stores.clear()
        # What a cycle holds is let go by a search of all memory, which is slow and nearly always needless.
        if any(any(pool.references) for pool in self.pools) or any(path.exists() for path in self.files):
            gc.collect()
        counts = [pool.references for pool in self.pools]
        must(not any(map(any, counts)), f"references must end at zero, got {counts}")
        left = [path.name for path in self.files if path.exists()]
        must(not left, f"files must go with the last value, got {left}")
        self.pools.clear()
        if self.tally.cache_live:
            gc.collect()
        must(self.tally.cache_live == 0, f"no byte must be held at the end, got {self.tally.cache_live}")
        for kind in kinds:
            self._did("end", kind)
