"""What tests of saving share: caches with everything that can happen to them, and what it means to be the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st
import numpy as np

from kvattn.caches import (
    ChunkedLocal,
    Coded,
    Contiguous,
    KiviCache,
    Layered,
    Paged,
    Ring,
    Schema,
    SharedLayers,
    SinkWindow,
    Snapshots,
    Static,
    Summaries,
    Tiered,
    key_value,
    latent,
)
from kvattn.caches.rows import placed
from kvattn.codecs import Symmetric
from kvattn.codecs.kivi import Kivi
from kvattn.errors import RollbackError
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


EMPTY: dict[str, Callable[..., Any]] = {
    "Ring": lambda batch=1, width=2: Ring.start(latent(width), window=3, rollback=2, batch=batch, page=2),
    "ChunkedLocal": lambda batch=1, width=2: ChunkedLocal.start(
        latent(width, np.float32), size=3, rollback=1, batch=batch, page=2
    ),
    "Contiguous": lambda batch=1, width=2: Contiguous.start(key_value(2, width, 1), batch=batch, room=2),
    "Summaries": lambda batch=1, width=2: Summaries.start(key_value(1, width), size=4, batch=batch, page=2),
    "Tiered": lambda batch=1, width=2: Tiered.start(placed(key_value(1, width)), recent=2, batch=batch, page=2),
    "Coded": lambda batch=1, width=2: Coded.start(
        key_value(2, 2 * width), keys=Symmetric(8), values=Symmetric(4), batch=batch, page=2
    ),
    "KiviCache": lambda batch=1, width=2: KiviCache.start(
        key_value(1, 2 * width), Kivi(bits=4, group=2, residual=4), batch=batch, page=4
    ),
    "SharedLayers": lambda batch=1, width=2: SharedLayers(
        Layered((Paged.start(latent(width), batch, 2), Ring.start(latent(width), window=2, batch=batch, page=2))),
        reads=(0, 1, 0),
    ),
}
"""Storages by the name of their kind; of another width where that is to be another schema."""


def fresh(cache: Any, new: int, seed: int) -> Any:
    """Rows for ``new`` tokens of every sequence, as the cache's own ``append`` takes them."""
    if isinstance(cache, SharedLayers):
        return [fresh(part, new, seed + n) for n, part in enumerate(cache.memory.parts)]
    whole = next(getattr(cache, name) for name in ("schema", "memory", "recent") if hasattr(cache, name))
    return drawn(whole if isinstance(whole, Schema) else whole.schema, cache.batch, new, seed)


@st.composite
def stored(draw: st.DrawFn, kind: str) -> Any:
    """A storage of `EMPTY` after a few operations: shared and broken pages, rolled back, reordered."""
    cache = EMPTY[kind](draw(st.integers(1, 3)))
    for seed in range(draw(st.integers(1, 6))):
        verb = draw(st.sampled_from(["append", "append", "append", "select", "truncate"]))
        if verb == "append":
            cache = cache.append(fresh(cache, draw(st.sampled_from([0, 1, 2, 3, 5, 9])), seed))
        elif verb == "select":
            cache = cache.select(draw(st.lists(st.integers(0, cache.batch - 1), min_size=1, max_size=4)))
        else:
            try:
                cache = cache.truncate([max(0, n - draw(st.integers(0, 3))) for n in cache.lengths])
            except RollbackError:
                cache = cache.truncate(0)
    return cache


def with_a_past(kind: str) -> Callable[[], Any]:
    """A storage of which everything that is saved matters."""

    def made() -> Any:
        cache = EMPTY[kind](2)
        for n, new in enumerate((5, 1, 4)):
            cache = cache.append(fresh(cache, new, n))
        one, two, three = cache.lengths[0], cache.lengths[1] - 1, cache.lengths[0]
        return cache.select([1, 0, 1]).truncate([one, two, three])

    return made


KINDS: dict[str, Callable[[], Any]] = {
    "static": static,
    "ring": ring,
    "recurrent": recurrent,
    "stack": stack,
    **{kind: with_a_past(kind) for kind in EMPTY},
}


def empty_like(cache: Any) -> Any:
    """The empty cache of the same kind, as a layer would start with."""
    if isinstance(cache, Layered):
        return Layered(tuple(Paged.start(p.schema) if isinstance(p, Paged) else _unread(p) for p in cache.parts))
    if type(cache).__name__ in EMPTY:
        return EMPTY[type(cache).__name__]()
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
    if type(left).__name__ in EMPTY:
        return readable(left) == readable(right) and _allocated(left) == _allocated(right)
    return left.rollback == right.rollback and _same_histories(left, right)


def _allocated(cache: Any) -> list[Any]:
    """Bytes of all pages that are held, and which sequences share what they have."""
    alone = [cache.select([b]).footprint() for b in range(cache.batch)]
    common = [[sum(n for serial, n in one.items() if serial in other) for other in alone] for one in alone]
    return [sorted(cache.footprint().values()), common, getattr(cache, "stored", 0), getattr(cache, "padded", 0)]


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
    if type(cache).__name__ in EMPTY:
        return cache.append(fresh(cache, 3, seed))
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
    if isinstance(cache, SharedLayers):
        return [*readable(cache.memory), repr(cache.reads).encode()]
    if type(cache).__name__ in EMPTY:
        return _stored_rows(cache)
    return [*(x.tobytes() for x in cache.state), repr([cache.remembered(b) for b in range(cache.batch)]).encode()]


def returned(cache: Any, lengths: Any) -> list[bytes] | str:
    """What a cache shows when it goes back to these lengths, or why it cannot."""
    try:
        return readable(cache.truncate(lengths))
    except RollbackError as refused:
        return str(refused)


def _stored_rows(cache: Any) -> list[bytes]:
    """Every row that a storage of `EMPTY` gives, block by block too where it can, and its public numbers."""
    numbers = [(name, getattr(cache, name, None)) for name in ("lengths", "ends", "earliest", "settled", "capacities")]
    shown = [repr(numbers).encode()]
    for b in range(cache.batch):
        shown += [x.tobytes() for x in cache.rows(sequence=b)]
        if hasattr(cache, "raw_blocks"):
            shown += [x.tobytes() for block in cache.raw_blocks(b) for x in (*block.arrays, block.positions)]
        elif hasattr(cache, "blocks"):
            shown += [x.tobytes() for block in cache.blocks(b) for x in (block.k, block.v, block.positions)]
        if hasattr(cache, "summary"):
            shown += [x.tobytes() for x in cache.summary(b)]
    return shown
