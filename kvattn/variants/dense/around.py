"""What stands around the heads of a layer, alike in every variant: projections before them, gates and W_o behind.

    q, k, v = x W_q, x W_k, x W_v,    q, k ← query_key(q, k),    [attention],    y = concat_h(finish(o)) W_o

A variant is what happens in between.  Each half exists twice: `whole_heads` and `whole_output` in
``einsum`` for definitions, `new_heads` and `new_output` in counted operations, whose rows do not feel
their neighbours, for steps; `cost` is what the second pair counts.

Shapes: ``x [B, T, M]``, ``q [B, Hq, T, D]``, ``k [B, Hkv, T, D]``, ``v [B, Hkv, T, Dv]``, mix ``[B, Hq, T, Dv]``.
"""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from kvattn.arrays import positions as read_positions
from kvattn.caches.cache import Cache
from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.core.accounting import Shape
from kvattn.core.pipeline import arguments_of
from kvattn.counting import Tally
from kvattn.masks.ahead import check_cut
from kvattn.typing import Array, Finish, Mask, Positions, QueryKey
from kvattn.variants.dense.projections import Projections, check_hidden


class Layer(Protocol):
    """What a layer must have to be surrounded."""

    @property
    def projections(self) -> Projections:
        """The four matrices."""

    @property
    def mask(self) -> Mask | None:
        """Who may see whom."""

    @property
    def query_key(self) -> Sequence[QueryKey]:
        """What is done to queries and keys."""

    @property
    def finish(self) -> Sequence[Finish]:
        """What is done to the mix."""


class Heads(NamedTuple):
    """A call's tokens in front of the attention.

    Attributes
    ----------
    x, positions
        ``[B, T, M]`` and ``[B, T]``, as they were read.
    q, k, v
        Rows for each head, queries and keys as ``query_key`` leaves them.
    """

    x: Array
    positions: Positions
    q: Array
    k: Array
    v: Array


def whole_heads(layer: Layer, x: Any, positions: Any) -> Heads:
    """Heads of a whole sequence, for a definition.

    Raises
    ------
    ShapeError, DtypeError, PositionError
        When x or positions do not fit.

    Examples
    --------
    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
    >>> whole_heads(layer, np.array([[[4.0], [5.0]]]), np.arange(2)).k.ravel()
    array([4., 5.])
    """
    w = layer.projections
    x = check_hidden("x", x, None, w.hidden, w.dtype)
    at = read_positions("positions", positions, *x.shape[:2])
    q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
    k = np.einsum("btm,mhd->bhtd", x, w.key.reshape(w.hidden, w.kv_heads, w.width))
    v = np.einsum("btm,mhd->bhtd", x, w.value.reshape(w.hidden, w.kv_heads, w.value_width))
    for part in layer.query_key:
        q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
    return Heads(x, at, q, k, v)


def new_heads(layer: Layer, cache: Cache, x: Any) -> Heads:
    """Heads of new tokens, for a step behind a cache.

    Raises
    ------
    ShapeError, DtypeError
        When x does not fit.
    PositionError
        When a token of an earlier step would have seen these (`kvattn.masks.ahead`).

    Examples
    --------
    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
    >>> _, cache = layer.step(layer.start(), np.ones((1, 3, 1)))
    >>> new_heads(layer, cache, np.ones((1, 2, 1))).positions
    array([[3, 4]])
    """
    w = layer.projections
    x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
    check_cut(layer.mask, cache.ends, x.shape[1], w.heads)
    at = cache.coming(x.shape[1])
    q, k, v = w.queries(x), w.keys(x), w.values(x)
    for part in layer.query_key:
        q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
    return Heads(x, at, q, k, v)


def whole_output(layer: Layer, heads: Heads, mixed: Array) -> Array:
    """The layer's output ``[B, T, M]`` from a mix, for a definition.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, 2 * one, heads=1, kv_heads=1))
    >>> heads = whole_heads(layer, np.array([[[4.0]]]), np.arange(1))
    >>> whole_output(layer, heads, heads.v)
    array([[[8.]]])
    """
    w = layer.projections
    for part in layer.finish:
        mixed = part.finish(mixed, heads.x, heads.positions)
    out: Array = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
    return out


def new_output(layer: Layer, heads: Heads, mixed: Array) -> Array:
    """The layer's output ``[B, T, M]`` from a mix, for a step.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, 2 * one, heads=1, kv_heads=1))
    >>> heads = new_heads(layer, layer.start(), np.array([[[4.0]]]))
    >>> new_output(layer, heads, heads.v)
    array([[[8.]]])
    """
    for part in layer.finish:
        mixed = part.finish(mixed, heads.x, heads.positions)
    return layer.projections.outputs(mixed)


def arguments(layer: Layer, **others: Any) -> dict[str, Any]:
    """The layer's pipeline (`kvattn.core.pipeline.arguments_of`); a scale not given is 1/sqrt(D) of the projection.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> arguments(Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)))["scale"]
    1.0
    """
    found = arguments_of(layer)
    if found["scale"] is None:
        found["scale"] = 1.0 / math.sqrt(layer.projections.width)  # as `attend` says it: ``width**-0.5`` is another bit
    return found | others


def widths(layer: Layer) -> list[int]:
    """The width of a head's rows before each value of ``query_key``, and behind the last: D unless one widens them.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> from kvattn.positions import Polar, Rotary
    >>> two = np.ones((2, 2))
    >>> widths(Grouped(Projections(two, two, two, two, heads=1, kv_heads=1), query_key=(Rotary.of(2), Polar.of(2, 1))))
    [2, 2, 4]
    """
    found = [layer.projections.width]
    for part in layer.query_key:
        found.append(part.widened(found[-1]) if hasattr(part, "widened") else found[-1])
    return found


def cost(layer: Layer, tokens: int) -> Tally:
    """What `new_heads` and `new_output` count for so many tokens, over all sequences.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> cost(Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)), 3).matmul  # four products of 2
    24
    """
    w = layer.projections
    total = w.cost(tokens, "query", "key", "value", "output")
    for part, width in zip(layer.query_key, widths(layer), strict=False):
        total += part.queries_cost(tokens=tokens, heads=w.heads, width=width)
        total += part.keys_cost(tokens=tokens, heads=w.kv_heads, width=width)
    for last in layer.finish:
        total += last.finish_cost(tokens=tokens, heads=w.heads, width=w.value_width)
    return total


def shape_of(layer: Layer, past: int, new: int, batch: int, source: int | None = None) -> Shape:
    """The sizes of one call of the attention in between.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> shape_of(Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)), past=5, new=2, batch=3).keys
    7
    """
    w = layer.projections
    sizes = w.heads, w.kv_heads, widths(layer)[-1], w.value_width, w.dtype.itemsize, past, new, batch
    return Shape(*sizes, source=source)


def schema_of(layer: Layer) -> Schema[KeyValue]:
    """What a token leaves in the cache: a key as ``query_key`` leaves it, and a value, for each key/value head.

    >>> from kvattn.variants.dense.grouped import Grouped
    >>> one = np.ones((1, 1))
    >>> schema_of(Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))).nbytes
    16
    """
    w = layer.projections
    return key_value(w.kv_heads, widths(layer)[-1], w.value_width, w.dtype)
