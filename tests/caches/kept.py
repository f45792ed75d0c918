"""What tests of saving share: caches with everything that can happen to them, and what it means to be the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st
import numpy as np

from kvattn.caches import Layered, Paged, Schema, SinkWindow, Snapshots, Static, key_value, latent
from kvattn.caches.rows import placed
from kvattn.typing import Array


class State(NamedTuple):
    """A recurrent state and the last inputs of a convolution."""

    s: Array
    inputs: Array


def drawn(schema: Schema[Any], batch: int, count: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(scale=100.0, size=(batch, f.heads, count, f.width)).astype(f.dtype) for f in schema.fields]


@st.composite
def paged(draw: st.DrawFn) -> Paged[Any]:
    """A paged cache after a few operations: shared and broken pages, holes, positions with gaps."""
    schema: Schema[Any] = draw(
        st.sampled_from(
            [key_value(2, 3, 1), key_value(1, 2, dtype=np.float32), latent(2, np.int16), latent(1, np.float16)]
        )
    )
    if draw(st.booleans()):
        schema = placed(schema)
    page = draw(st.sampled_from([1, 2, 3, 256]))
    batch = draw(st.integers(1, 3))
    cache: Paged[Any] = Paged.start(schema, batch, page)
    for seed in range(draw(st.integers(0, 5))):
        verb = draw(st.sampled_from(["append", "append", "select", "truncate", "release", "evict", "shift"]))
        if verb == "append":
            new = draw(st.integers(0, 5))
            counts = draw(st.lists(st.integers(0, new), min_size=cache.batch, max_size=cache.batch))
            cache = cache.append(drawn(schema, cache.batch, new, seed), counts=counts)
        elif verb == "select":
            cache = cache.select(draw(st.lists(st.integers(0, cache.batch - 1), min_size=1, max_size=4)))
        elif verb == "truncate":
            lengths = [draw(st.integers(max(0, n - 2), n)) for n in cache.lengths]
            if all(cache.held(b).all() for b in range(cache.batch)):
                cache = cache.truncate(lengths)
        elif verb == "release":
            cache = cache.release(draw(st.integers(0, 2)), [draw(st.integers(0, n)) for n in cache.lengths])
        elif schema.placed and verb == "evict":
            cache = cache.evict([cache.held(b) & (np.arange(n) % 3 != 1) for b, n in enumerate(cache.lengths)])
        elif schema.placed:
            cache = cache.shift(draw(st.integers(0, 5)))
    return cache


def static() -> Static[Any]:
    schema = key_value(1, 2)
    cache = Static.start(schema, drawn(schema, 2, 7, 1), lengths=[7, 4], page=4)
    return cache.advance(3).select([1, 0, 1]).truncate([3, 2, 1])


def ring() -> SinkWindow[Any]:
    schema = latent(2)
    cache = SinkWindow.start(schema, sinks=1, window=3, rollback=2, batch=2, page=2)
    for n, new in enumerate((4, 1, 6, 1, 2)):
        cache = cache.append(drawn(schema, 2, new, n))
    return cache.truncate([13, 14])


def recurrent() -> Snapshots[Any]:
    def state(n: int) -> State:
        return State(np.full((2, 1, 2), n / 3), np.arange(6, dtype=np.float32).reshape(2, 3) + n)

    cache = Snapshots.start(state(0), rollback=2)
    return cache.append([state(n) for n in (1, 2, 3)]).append([state(9)], tokens=2).select([1, 0, 1])


def stack() -> Layered:
    one = Paged.start(key_value(1, 2), 2, page=4).append(drawn(key_value(1, 2), 2, 5, 8))
    other = Paged.start(latent(3), 2, page=2).append(drawn(latent(3), 2, 5, 9))
    return Layered((one, other, one, Static(static().memory.select([0, 1]), (5, 5))))


KINDS: dict[str, Callable[[], Any]] = {"static": static, "ring": ring, "recurrent": recurrent, "stack": stack}


def empty_like(cache: Any) -> Any:
    """The empty cache of the same kind, as a layer would start with."""
    if isinstance(cache, Layered):
        return Layered(tuple(Paged.start(p.schema) if isinstance(p, Paged) else _unread(p) for p in cache.parts))
    return Paged.start(cache.schema) if isinstance(cache, Paged) else _unread(cache)


def _unread(cache: Any) -> Any:
    if isinstance(cache, Static):
        return Static.start(cache.memory.schema, drawn(cache.memory.schema, 1, 1, 0))
    if isinstance(cache, SinkWindow):
        return SinkWindow.start(cache.memory.schema, sinks=cache.sinks, window=cache.window, rollback=cache.rollback)
    return Snapshots.start(cache.row(*(np.zeros_like(x[:1]) for x in cache.state)), rollback=cache.rollback)


def same_bits(left: Array, right: Array) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def same(left: Any, right: Any) -> bool:
    """Whether two caches hold the same rows in the same pages shared alike, whatever the pages' own numbers."""
    if type(left) is not type(right) or tuple(left.lengths) != tuple(right.lengths):
        return False
    if isinstance(left, Paged):
        one, two = left.parts(), right.parts()
        return (
            left.schema == right.schema
            and one[:-1] == two[:-1]
            and len(one.rows) == len(two.rows)
            and all(same_bits(a, b) for x, y in zip(one.rows, two.rows, strict=True) for a, b in zip(x, y, strict=True))
        )
    if isinstance(left, Static):
        return same(left.memory, right.memory)
    if isinstance(left, SinkWindow):
        settings = [(c.sinks, c.window, c.rollback, c.forgotten) for c in (left, right)]
        return settings[0] == settings[1] and same(left.memory, right.memory)
    if isinstance(left, Layered):
        pairs = list(zip(left.parts, right.parts, strict=True))
        alike = [[a is b for b in left.parts] for a in left.parts] == [
            [a is b for b in right.parts] for a in right.parts
        ]
        return alike and all(same(a, b) for a, b in pairs)
    return left.rollback == right.rollback and _same_histories(left, right)


def _same_histories(left: Snapshots[Any], right: Snapshots[Any]) -> bool:
    def told(cache: Snapshots[Any]) -> list[Any]:
        numbers: dict[int, int] = {}
        return [
            [
                (n, numbers.setdefault(s.serial, len(numbers)), [(x.dtype, x.shape, x.tobytes()) for x in s.arrays])
                for n, s in h
            ]
            for h in cache.histories
        ]

    return told(left) == told(right)


def goes_on(cache: Any, seed: int = 77) -> Any:
    """The cache after a few more tokens."""
    if isinstance(cache, Paged):
        return cache.append(drawn(cache.schema, cache.batch, 3, seed))
    if isinstance(cache, SinkWindow):
        return cache.append(drawn(cache.memory.schema, cache.batch, 3, seed))
    if isinstance(cache, Static):
        return cache.advance(2)
    if isinstance(cache, Layered):
        return Layered(
            tuple(part.advance(3) if isinstance(part, Static) else goes_on(part, seed) for part in cache.parts)
        )
    return cache.append([cache.row(*(x + 1 for x in cache.state))])


def readable(cache: Any) -> list[bytes]:
    """Every row, position and hole that a cache shows."""
    if isinstance(cache, Paged):
        shown = [x.tobytes() for b in range(cache.batch) for x in (cache.held(b), cache.positions(b))]
        for b in range(cache.batch):
            for block in cache.raw_blocks(b):
                shown += [x.tobytes() for x in (*block.arrays, block.positions)]
        return [*shown, repr(cache).encode()]
    if isinstance(cache, Static | SinkWindow):
        return [*readable(cache.memory), repr(cache).encode()]
    if isinstance(cache, Layered):
        return [x for part in cache.parts for x in readable(part)]
    return [*(x.tobytes() for x in cache.state), repr([cache.remembered(b) for b in range(cache.batch)]).encode()]
