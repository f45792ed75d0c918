"""Attention sinks and a window (StreamingLLM): the first tokens and the last W, nothing between.

    visible(i, j) = j <= i  and  (j < n  or  i - j < W)

Two layers, for the two positions that a sink can have.  `KeptSinks` leaves every key where it was
written, so the distance to a sink grows for ever.  `ReindexedSinks` counts positions inside the
cache, as the paper does: a query never stands further than ``n + W - 1`` from the first sink.  To a
window key that is the same distance; so it turns each query twice, to its own position for the
window and to ``min(i, n + W - 1)`` for the sinks, and merges the two parts by log-sum-exp.  Cached
keys are never turned again.

Shapes: as `kvattn.variants.dense.grouped`.
Cached: ``min(S, n + W - 1)`` rows of ``Hkv · (D + Dv)`` numbers, and ``rollback`` more; forgotten
before each step, whole pages at a time (`kvattn.caches.sink_window`).
Cost: `Grouped` with at most ``n + W`` visible pairs per query head; re-indexing reads a block that
holds sinks and window keys twice and merges.

Source: Xiao et al. 2023 (2309.17453) §3.2, and §3.2 "positional encoding" for re-indexing.
Where libraries differ: mlx-lm's RotatingKVCache(keep=n) keeps positions; the paper's code and the
removed SinkCache of transformers re-index; W counts the current token here, in some it does not.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integer
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK
from kvattn.caches.rows import KeyValue, key_value
from kvattn.caches.sink_window import SinkWindow
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.merge import merge, merge_cost
from kvattn.counting import Tally
from kvattn.masks import Causal, Sink, Window
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Attended, Mask, Positions
from kvattn.variants.dense.projections import Projections, check_hidden


@dataclass(frozen=True, eq=False)
class KeptSinks:
    """Sinks and window with every key at the position where it was written.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    sinks, window
        n and W.
    rotation
        Turns queries and keys, or None.
    rollback
        Tokens that `truncate` can always take back.
    page
        Tokens per cache page; invisible in the result.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = KeptSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2)
    >>> attended, cache = layer.step(layer.start(), np.zeros((1, 5, 1)))
    >>> np.exp(attended.lse).round(12)
    array([[[1., 2., 3., 3., 3.]]])
    """

    projections: Projections
    sinks: int
    window: int
    rotation: Rotary | None = None
    rollback: int = 0
    page: int = BLOCK

    def __post_init__(self) -> None:
        _check(self)

    @property
    def mask(self) -> Mask:
        """Who may see whom.

        >>> one = np.ones((1, 1))
        >>> KeptSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2).mask
        Causal() & (Sink(1) | Window(2))
        """
        return Causal() & (Sink(self.sinks) | Window(self.window))

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The whole sequence under the mask; nothing is forgotten.

        >>> one = np.ones((1, 1))
        >>> layer = KeptSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2)
        >>> layer.definition(np.ones((1, 3, 1)), np.arange(3)).out.ravel()
        array([1., 1., 1.])
        """
        q, k, v, at = _whole(self, x, positions)
        if self.rotation is not None:
            q, k = (self.rotation.rotate(rows, at[:, None, :]) for rows in (q, k))
        attended = definition(q, k, v, q_positions=at, k_positions=at, mask=self.mask)
        return _project(self.projections, attended)

    def start(self, batch: int = 1) -> SinkWindow[KeyValue]:
        """The empty cache.

        >>> one = np.ones((1, 1))
        >>> KeptSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2).start().lengths
        (0,)
        """
        return _start(self, batch)

    def step(self, cache: SinkWindow[KeyValue], x: Array) -> tuple[Attended, SinkWindow[KeyValue]]:
        """Attend with any number of new tokens; what no later query needs is forgotten before they come.

        >>> one = np.ones((1, 1))
        >>> layer = KeptSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2)
        >>> layer.step(layer.start(), np.ones((1, 3, 1)))[0].out.ravel()
        array([1., 1., 1.])
        """
        w = self.projections
        q, cache, at = _append(self, cache, x)
        if self.rotation is not None:
            q = self.rotation.rotate(q, at[:, None, :])
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.value_width, mask=self.mask)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form.

        >>> one = np.ones((1, 1))
        >>> layer = KeptSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2, page=1)
        >>> layer.cost(past=1000, new=1).pairs_visible
        3
        """
        shape, forgotten = _shape(self, past, new, batch)
        total = _append_cost(self, past, new, batch) + attend_cost(shape, self.mask, forgotten=forgotten)
        if self.rotation is not None:
            total += self.rotation.cost(rows=batch * new * self.projections.heads, positions=batch * new)
        return total


@dataclass(frozen=True, eq=False)
class ReindexedSinks:
    """Sinks and window with positions counted inside the cache.

    Parameters are those of `KeptSinks`.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = ReindexedSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2)
    >>> attended, cache = layer.step(layer.start(), np.zeros((1, 5, 1)))
    >>> np.exp(attended.lse).round(12)
    array([[[1., 2., 3., 3., 3.]]])
    """

    projections: Projections
    sinks: int
    window: int
    rotation: Rotary | None = None
    rollback: int = 0
    page: int = BLOCK

    def __post_init__(self) -> None:
        _check(self)

    @property
    def masks(self) -> tuple[Mask, Mask]:
        """Who may see a sink, and who may see any other key.

        >>> one = np.ones((1, 1))
        >>> ReindexedSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2).masks
        (Causal() & Sink(1), Causal() & Window(2) & ~Sink(1))
        """
        return Causal() & Sink(self.sinks), Causal() & Window(self.window) & ~Sink(self.sinks)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """Query by query: gather its sinks and its window, number them 0, 1, 2, …, turn, attend.

        >>> one = np.ones((1, 1))
        >>> layer = ReindexedSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2)
        >>> layer.definition(np.ones((1, 3, 1)), np.arange(3)).out.ravel()
        array([1., 1., 1.])
        """
        q, k, v, at = _whole(self, x, positions)
        out = np.zeros((*q.shape[:3], v.shape[3]), q.dtype)
        lse = np.zeros(q.shape[:3], q.dtype)
        for b in range(q.shape[0]):
            for t, i in enumerate(at[b]):
                kept = np.flatnonzero((at[b] <= i) & ((at[b] < self.sinks) | (i - at[b] < self.window)))
                kept = kept[np.argsort(at[b][kept], kind="stable")]
                number = np.arange(len(kept))[None]
                one, keys = q[b : b + 1, :, t : t + 1], k[b : b + 1, :, kept]
                if self.rotation is not None:
                    one, keys = self.rotation.rotate(one, number[:, -1:]), self.rotation.rotate(keys, number)
                part = definition(one, keys, v[b : b + 1, :, kept], q_positions=number[:, -1:], k_positions=number)
                out[b, :, t], lse[b, :, t] = part.out[0, :, 0], part.lse[0, :, 0]
        return _project(self.projections, Attended(out, lse))

    def start(self, batch: int = 1) -> SinkWindow[KeyValue]:
        """The empty cache.

        >>> one = np.ones((1, 1))
        >>> ReindexedSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2).start().lengths
        (0,)
        """
        return _start(self, batch)

    def step(self, cache: SinkWindow[KeyValue], x: Array) -> tuple[Attended, SinkWindow[KeyValue]]:
        """Attend with any number of new tokens: to the sinks, to the window, and merged.

        >>> one = np.ones((1, 1))
        >>> layer = ReindexedSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2)
        >>> layer.step(layer.start(), np.ones((1, 3, 1)))[0].out.ravel()
        array([1., 1., 1.])
        """
        w = self.projections
        q, cache, at = _append(self, cache, x)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        parts = []
        for mask, standing in zip(self.masks, (np.minimum(at, self.sinks + self.window - 1), at), strict=True):
            turned = q if self.rotation is None else self.rotation.rotate(q, standing[:, None, :])
            parts.append(streaming.attend(turned, at, blocks, value_width=w.value_width, mask=mask))
        mixed, lse = merge(*parts)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form.

        >>> one = np.ones((1, 1))
        >>> layer = ReindexedSinks(Projections(one, one, one, one, heads=1, kv_heads=1), sinks=1, window=2, page=1)
        >>> layer.cost(past=1000, new=1).pairs_visible
        3
        """
        w = self.projections
        shape, forgotten = _shape(self, past, new, batch)
        rows = batch * new * w.heads
        total = _append_cost(self, past, new, batch) + merge_cost(rows, parts=2, width=w.value_width)
        for mask in self.masks:
            total += attend_cost(shape, mask, forgotten=forgotten)
            if self.rotation is not None:
                total += self.rotation.cost(rows=rows, positions=batch * new)
        return total


_Layer = KeptSinks | ReindexedSinks


def _check(layer: _Layer) -> None:
    integer("sinks", layer.sinks, 0)
    integer("window", layer.window, 1)
    integer("rollback", layer.rollback, 0)
    integer("page", layer.page, 1)


def _start(layer: _Layer, batch: int) -> SinkWindow[KeyValue]:
    w = layer.projections
    schema = key_value(w.kv_heads, w.width, w.value_width, w.dtype)
    kept: dict[str, Any] = {"sinks": layer.sinks, "window": layer.window, "rollback": layer.rollback}
    return SinkWindow.start(schema, **kept, batch=batch, page=layer.page)


def _append(layer: _Layer, cache: SinkWindow[KeyValue], x: Array) -> tuple[Array, SinkWindow[KeyValue], Positions]:
    """Queries not yet turned, the cache with the new keys, and where the new tokens stand."""
    w = layer.projections
    x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
    at = np.array(cache.lengths)[:, None] + np.arange(x.shape[1])
    q, k, v = w.queries(x), w.keys(x), w.values(x)
    if layer.rotation is not None:
        k = layer.rotation.rotate(k, at[:, None, :])
    return q, cache.append(KeyValue(k, v)), at


def _append_cost(layer: _Layer, past: int, new: int, batch: int) -> Tally:
    w = layer.projections
    rows = batch * new
    total = w.cost(rows, "query", "key", "value", "output")
    if layer.rotation is not None:
        total += layer.rotation.cost(rows=rows * w.kv_heads, positions=rows)
    schema = key_value(w.kv_heads, w.width, w.value_width, w.dtype)
    return total + schema.append_cost(past=past, new=new, batch=batch, page=layer.page)


def _shape(layer: _Layer, past: int, new: int, batch: int) -> tuple[Shape, tuple[int, int]]:
    """The sizes, and the slots of the whole pages that are gone when the step runs."""
    w = layer.projections
    stop = min(max(layer.sinks, past - (layer.window - 1 + layer.rollback)), past) if new else 0
    first, last = -(-layer.sinks // layer.page), stop // layer.page
    gone = (first * layer.page, max(first, last) * layer.page)
    return Shape(w.heads, w.kv_heads, w.width, w.value_width, w.dtype.itemsize, past, new, batch), gone


def _whole(layer: _Layer, x: Array, positions: Positions) -> tuple[Array, Array, Array, Positions]:
    """Queries, keys and values of the whole sequence, not turned, for `definition`."""
    w = layer.projections
    x = check_hidden("x", x, None, w.hidden, w.dtype)
    at = read_positions("positions", positions, x.shape[0], x.shape[1])
    q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
    k = np.einsum("btm,mhd->bhtd", x, w.key.reshape(w.hidden, w.kv_heads, w.width))
    v = np.einsum("btm,mhd->bhtd", x, w.value.reshape(w.hidden, w.kv_heads, w.value_width))
    return q, k, v, at


def _project(w: Projections, attended: Attended) -> Attended:
    out = np.einsum("bhtd,hdm->btm", attended.out, w.output.reshape(w.heads, w.value_width, w.hidden))
    return Attended(out, attended.lse)
