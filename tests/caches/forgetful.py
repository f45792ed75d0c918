"""A machine for caches that forget: any earlier value may be used again, and each is read at birth.

The model is a plain list of tokens for each sequence, which forgets nothing; every token is a number that no other
ever had, so it says its position and its owner as well.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule
import numpy as np

from kvattn.caches import KeyValue, key_value
from kvattn.errors import KvattnError, RollbackError

SCHEMA = key_value(2, 2, 1)


def rows(tokens: list[list[int]]) -> KeyValue:
    """Keys and values that say their token, head and column, ``[B, 2, T, 2]`` and ``[B, 2, T, 1]``."""
    numbers = np.array(tokens, float).reshape(len(tokens), 1, -1, 1)
    heads = np.array([0.25, 0.75]).reshape(1, 2, 1, 1)
    return KeyValue(np.concatenate([numbers + heads, heads - numbers], 3), -numbers - heads)


class Known(NamedTuple):
    """A cache, the tokens that it has seen, and the lengths that it has promised to go back to."""

    cache: Any
    tokens: tuple[tuple[int, ...], ...]
    promised: tuple[int, ...]


class ForgetfulMachine(RuleBasedStateMachine):
    """Append, truncate and select from any earlier value."""

    values: Bundle[Known] = Bundle("values")
    sizes: ClassVar[tuple[int, ...]] = (3, 2, 6, 1)
    pages: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 256)
    cache: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.born: list[Known] = []
        self.fresh = 1
        self.size = self.rollback = self.page = 1

    def start_cache(self, batch: int) -> Any:
        """The empty cache for ``self.size``, ``self.rollback`` and ``self.page``."""
        raise AssertionError(batch)

    def sees(self, query: int) -> range:
        """Slots that a query may see, itself included."""
        raise AssertionError(query)

    @initialize(target=values, data=st.data())
    def begin(self, data: st.DataObject) -> Any:
        self.size = data.draw(st.sampled_from(self.sizes), label="size")
        self.rollback = data.draw(st.integers(0, 3), label="rollback")
        self.page = data.draw(st.sampled_from(self.pages), label="page")
        batch = data.draw(st.integers(1, 3), label="batch")
        empty = self.check(Known(self.start_cache(batch), ((),) * batch, (0,) * batch))
        return multiple(empty, self.appended(empty, data.draw(st.sampled_from(self.counts()), label="tokens")))

    def counts(self) -> list[int]:
        near = {0, 1, self.size - 1, self.size, self.size + 1, 2 * self.size + 3}
        return sorted(near | ({self.page - 1, self.page, self.page + 1} if self.page < 100 else set()))

    @rule(target=values, known=values, data=st.data())
    def append(self, known: Known, data: st.DataObject) -> Known:
        return self.appended(known, data.draw(st.sampled_from(self.counts()), label="tokens"))

    def appended(self, known: Known, count: int) -> Known:
        new = []
        for _ in known.tokens:
            new.append(list(range(self.fresh, self.fresh + count)))
            self.fresh += count
        given = rows(new)
        cache = known.cache.append(given)
        for array in given:
            array[...] = -7.0  # the caller's memory is the caller's
        before = [len(t) for t in known.tokens]
        promised = known.promised
        if count:
            promised = tuple(max(p, n - self.rollback) for p, n in zip(promised, before, strict=True))
        tokens = tuple((*old, *more) for old, more in zip(known.tokens, new, strict=True))
        for b, (first, whole) in enumerate(zip(before, tokens, strict=True)):
            there = set(cache.remembered(b).tolist())
            for query in range(first, len(whole)):
                lost = set(self.sees(query)) - there
                assert not lost, f"query {query} of {first} .. {len(whole) - 1} misses slots {sorted(lost)}"
            if count:
                least = min(self.sees(back).start for back in range(max(0, first - self.rollback), first + 1))
                assert min(there) >= least, f"slot {min(there)} must be forgotten, nobody sees anything below {least}"
        return self.bear(known, Known(cache, tokens, promised))

    @rule(target=values, known=values, data=st.data())
    def truncate(self, known: Known, data: st.DataObject) -> Known:
        """Go back by about the rollback or the size, or to nothing."""
        lengths = []
        for row, least in zip(known.tokens, known.promised, strict=True):
            near = {least - 1, least, len(row) - self.rollback, len(row) - self.size, len(row) - 1, len(row), 0}
            lengths.append(data.draw(st.sampled_from(sorted(n for n in near if 0 <= n <= len(row))), label="length"))
        try:
            cache = known.cache.truncate(lengths)
        except RollbackError:
            lost = [n for n, p in zip(lengths, known.promised, strict=True) if n < p and len(self.sees(n)) > 1]
            assert lost, f"a length that needs nothing or was promised was refused, one of {lengths}"
            self.check(known)
            return known
        tokens = tuple(row[:n] for row, n in zip(known.tokens, lengths, strict=True))
        for b, n in enumerate(lengths):
            missed = set(self.sees(n)) - {n} - set(cache.remembered(b).tolist())
            assert not missed, f"the query at {n} misses slots {sorted(missed)}"
        promised = tuple(map(min, known.promised, lengths))
        return self.bear(known, Known(cache, tokens, promised))

    @rule(target=values, known=values, data=st.data())
    def select(self, known: Known, data: st.DataObject) -> Known:
        chosen = data.draw(st.lists(st.integers(0, len(known.tokens) - 1), min_size=1, max_size=3), label="indices")
        cache = known.cache.select(chosen)
        assert set(cache.footprint()) <= set(known.cache.footprint())
        return self.bear(
            known, Known(cache, tuple(known.tokens[i] for i in chosen), tuple(known.promised[i] for i in chosen))
        )

    @rule(known=values)
    def refusals(self, known: Known) -> None:
        """What is wrong is refused, and nothing is written."""
        good = rows([[1, 2]] * len(known.tokens))
        wrong: list[Any] = [
            [good.k],
            [good.k, good.v[0]],
            [good.k, good.v[:, :, 1:]],
            [good.k.astype(np.float32), good.v],
        ]
        most = max(map(len, known.tokens))
        actions: list[tuple[Callable[[Any], Any], Any]] = [(known.cache.append, each) for each in wrong]
        actions += [(known.cache.truncate, n) for n in (-1, most + 1, True, 0.5)]
        actions += [(known.cache.select, indices) for indices in ([], [-1], [len(known.tokens)], [True])]
        for action, argument in actions:
            try:
                action(argument)
            except KvattnError:
                continue
            raise AssertionError(f"a bad argument was taken: {argument!r}")
        self.check(known)

    def bear(self, parent: Known, child: Known) -> Known:
        self.check(child)
        self.check(parent)
        self.born.append(child)
        return child

    def check(self, known: Known) -> Known:
        """Compare what is held with the tokens, however it is read."""
        cache, tokens, _ = known
        assert cache.lengths == tuple(map(len, tokens))
        for b, row in enumerate(tokens):
            slots = cache.remembered(b).tolist()
            wanted = rows([[row[slot] for slot in slots]])
            for got, expected in zip(cache.rows(sequence=b), wanted, strict=True):
                assert np.array_equal(got, expected), f"slots {slots} must hold {expected}, got {got}"
                assert not got.flags.writeable
            found = []
            for block in cache.blocks(b):
                assert block.start % 256 == 0
                held = np.ones(256, bool) if block.held is None else block.held
                assert not block.k[:, :, ~held].any()
                assert not block.v[:, ~held].any()
                at = block.start + held.nonzero()[0]
                assert np.array_equal(block.positions[held], at)
                k, v = rows([[row[slot] for slot in at]])
                assert np.array_equal(block.k[:, :, held].swapaxes(1, 2), k[0])
                assert np.array_equal(block.v[:, held], v[0])
                found += at.tolist()
            assert found == slots
        assert cache.nbytes == sum(cache.footprint().values())
        return known

    def teardown(self) -> None:
        """Read every value once more: none may have changed."""
        for known in self.born:
            self.check(known)
