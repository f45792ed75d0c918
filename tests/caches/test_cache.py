"""A layer steps any storage that is a `Cache`, and what it computes does not depend on where rows are kept."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches import (
    Cache,
    ChunkedLocal,
    Coded,
    Contiguous,
    KeyValue,
    KiviCache,
    Paged,
    Ring,
    Schema,
    SinkWindow,
    Summaries,
    Tiered,
    placed,
)
from kvattn.codecs import Symmetric
from kvattn.codecs.kivi import Kivi
from kvattn.masks import Causal, Chunked, Sink, Window
from kvattn.positions import Rotary
from kvattn.typing import Array, Mask
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections

Start = Callable[[Schema[KeyValue]], Cache]

EXACT: dict[str, tuple[Mask, Start]] = {
    "Paged, placed": (Causal(), lambda schema: Paged.start(placed(schema), 2, 3)),
    "Contiguous": (Causal(), lambda schema: Contiguous.start(schema, batch=2, room=2)),
    "Summaries": (Causal(), lambda schema: Summaries.start(schema, size=3, batch=2, page=4)),
    "Tiered": (Causal(), lambda schema: Tiered.start(schema, recent=3, batch=2, page=2)),
    "Ring": (Causal() & Window(4), lambda schema: Ring.start(schema, window=4, batch=2, page=3)),
    "SinkWindow": (
        Causal() & (Sink(2) | Window(4)),
        lambda schema: SinkWindow.start(schema, sinks=2, window=4, batch=2, page=3),
    ),
    "ChunkedLocal": (Causal() & Chunked(5), lambda schema: ChunkedLocal.start(schema, size=5, batch=2, page=3)),
}
"""Storages that keep rows as they came, and the mask under which what they forget is not missed."""

ROUNDED: dict[str, Start] = {
    "Coded": lambda schema: Coded.start(schema, keys=Symmetric(8), values=Symmetric(8), batch=2, page=3),
    "KiviCache": lambda schema: KiviCache.start(schema, Kivi(8, 4, 4), batch=2, page=4),
}


def layer_of(mask: Mask) -> Grouped:
    random = np.random.default_rng(3)
    query, key, value, output = (random.normal(size=shape) for shape in ((6, 24), (6, 8), (6, 8), (24, 6)))
    weights = Projections(query, key, value, output, heads=6, kv_heads=2)
    return Grouped(weights, mask, query_key=(Rotary.of(4),), page=5)


def stepped(layer: Grouped, cache: Cache, x: Array, cuts: Sequence[int]) -> Array:
    outs, done = [], 0
    for new in cuts:
        attended, cache = layer.step(cache, x[:, done : done + new])
        outs.append(attended.out)
        done += new
    assert cache.ends == (done,) * 2
    return np.concatenate(outs, axis=1)


CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@pytest.mark.law("caches/cache", "a layer over any storage computes what it computes over pages", "bits")
@pytest.mark.parametrize("name", EXACT)
@given(cuts=CUTS)
def test_where_rows_are_kept_is_invisible(name: str, cuts: list[int]) -> None:
    mask, start = EXACT[name]
    layer = layer_of(mask)
    x = np.random.default_rng(4).normal(size=(2, sum(cuts), 6))
    wanted = stepped(layer, layer.start(2), x, cuts)
    assert stepped(layer, start(layer.start().schema), x, cuts).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ROUNDED)
def test_what_is_rounded_is_near(name: str) -> None:
    """Their bounds are tested where they are stated; here, that a layer steps them and they are not exact."""
    layer = layer_of(Causal())
    x = np.random.default_rng(4).normal(size=(2, 14, 6))
    wanted, found = (
        stepped(layer, cache, x, [5, 1, 8]) for cache in (layer.start(2), ROUNDED[name](layer.start().schema))
    )
    assert 0 < np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()


class ForgetsTooMuch:
    """A cache in the sense of the protocol, whose newest block is missing: the law above rejects it."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def append(self, rows: Any, positions: Any = None) -> "ForgetsTooMuch":
        return ForgetsTooMuch(self.cache.append(rows, positions))

    def blocks(self, sequence: int) -> Any:
        (block,) = self.cache.blocks(sequence)
        held = np.arange(256) < block.key_count
        held[0] = False
        return (block._replace(held=held),)


def test_a_cache_that_forgets_a_row_is_rejected() -> None:
    layer = layer_of(Causal())
    x = np.random.default_rng(4).normal(size=(2, 7, 6))
    wanted = stepped(layer, layer.start(2), x, [3, 4])
    broken: Any = ForgetsTooMuch(layer.start(2))
    assert stepped(layer, broken, x, [3, 4]).tobytes() != wanted.tobytes()
