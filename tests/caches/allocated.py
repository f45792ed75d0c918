"""What tests of memory share: every storage through a life of appends, beams and branches, and what it then holds."""

from collections.abc import Callable
import tracemalloc
from typing import Any, NamedTuple

import numpy as np

from kvattn.caches import (
    BlockPool,
    ChunkedLocal,
    Coded,
    Contiguous,
    KiviCache,
    Layered,
    Paged,
    Ring,
    SharedLayers,
    SinkWindow,
    Snapshots,
    Static,
    Summaries,
    Tiered,
    key_value,
    live_bytes,
    placed,
)
from kvattn.caches.rows import KeyValue
from kvattn.codecs import Q8_0, Symmetric
from kvattn.codecs.kivi import Kivi

SCHEMA = key_value(4, 32)
PAGE = 32
LONG, SHORT = ([np.ones((2, 4, n, 32)), np.ones((2, 4, n, 32))] for n in (300, 7))
BEAMS = [np.ones((4, 4, 1, 32)), np.ones((4, 4, 1, 32))]


def lived(empty: Callable[[], Any], *, back: int = 3, parts: int = 0) -> Callable[[], list[Any]]:
    """A prompt, a few more tokens, beams that go on, and a rollback that goes on: all of them still held."""

    def life() -> list[Any]:
        long, short, beams = ([rows] * parts if parts else rows for rows in (LONG, SHORT, BEAMS))
        first = empty().append(long)
        second = first.append(short)
        spread = second.select([0, 1, 0, 1])
        rolled = second.truncate(second.length - back).append(short)
        return [first, second, spread, spread.append(beams), rolled]

    return life


def decoded() -> list[Any]:
    first = Static.start(SCHEMA, LONG, page=PAGE)
    return [first, first.advance(3), first.select([0, 1, 0]).truncate(0)]


def recurrent() -> list[Any]:
    def state(batch: int) -> KeyValue:
        return KeyValue(np.ones((batch, 4, 32, 32)), np.ones((batch, 4, 32)))

    first = Snapshots.start(state(2), rollback=2).append([state(2)] * 3)
    beams = first.select([0, 1, 0, 1])
    return [first, beams, beams.append([state(4)]), first.truncate(2)]


def pooled() -> list[Any]:
    pool = BlockPool(SCHEMA, blocks=64, size=PAGE)
    first = pool.allocate()
    pool.append(first, [x[:1] for x in LONG])
    pool.append(pool.fork(first), [x[:1] for x in SHORT])
    return [pool]


LIVES: dict[str, Callable[[], list[Any]]] = {
    "Paged": lived(lambda: Paged.start(SCHEMA, 2, PAGE)),
    "Paged, placed": lived(lambda: Paged.start(placed(SCHEMA), 2, PAGE)),
    "Paged, 256 tokens a page": lived(lambda: Paged.start(SCHEMA, 2)),
    "Contiguous": lived(lambda: Contiguous.start(SCHEMA, batch=2, room=PAGE)),
    "Ring": lived(lambda: Ring.start(SCHEMA, window=50, rollback=4, batch=2, page=PAGE)),
    "SinkWindow": lived(lambda: SinkWindow.start(SCHEMA, sinks=4, window=50, rollback=4, batch=2, page=PAGE)),
    "ChunkedLocal": lived(lambda: ChunkedLocal.start(SCHEMA, size=64, rollback=4, batch=2, page=PAGE)),
    "Summaries": lived(lambda: Summaries.start(SCHEMA, size=16, batch=2, page=PAGE)),
    "Tiered": lived(lambda: Tiered.start(SCHEMA, recent=40, batch=2, page=PAGE)),
    "Coded": lived(lambda: Coded.start(SCHEMA, keys=Q8_0(), values=Symmetric(4), batch=2, page=PAGE)),
    "KiviCache": lived(lambda: KiviCache.start(SCHEMA, Kivi(2, 16, 32), batch=2, page=PAGE)),
    "Static": decoded,
    "Snapshots": recurrent,
    "Layered": lived(lambda: Layered((Paged.start(SCHEMA, 2, PAGE), Contiguous.start(SCHEMA, batch=2))), parts=2),
    "SharedLayers": lived(lambda: SharedLayers(Layered((Paged.start(SCHEMA, 2, PAGE),)), (0, 0, 0)), parts=1),
    "BlockPool": pooled,
}
"""By name; what each returns is all that is held of it."""


class Memory(NamedTuple):
    """Bytes that tracemalloc saw, and what the caches say: ``objects`` pages, buffers or states hold ``live`` bytes.

    A page that lies in a file is an object that holds none of them.
    """

    allocated: int
    peak: int
    live: int
    objects: int


def measured(name: str) -> tuple[Memory, list[Any]]:
    """A life under tracemalloc, to which NumPy reports its arrays, and the caches at its end."""
    life = LIVES[name]
    life()  # imports and caches of the interpreter
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held = life()
        allocated, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    objects = {serial for cache in held for serial in getattr(cache, "memory", cache).footprint()}
    objects |= {serial for cache in held for serial in cache.footprint()}
    return Memory(allocated - before, peak - before, live_bytes(*held), len(objects)), held
