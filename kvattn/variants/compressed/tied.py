"""Tied keys and values (K = V): one projection makes both, and the cache holds one row for them.

`SharedProjection`:  r = x W_kv,   v = RMSNorm(r),   k = R_j(v ⊙ w_k)
`SharedRow`:         r = bend_j(x W_kv),   k = v = r,   o ← R(-i) o

In the first, key and value are the same row normed twice, once with weights and turned, once without either.
Since the norm with weights is the norm without them times w_k, the normed row is all that has to be cached: keys are
made from it when they are read, D products and a rotation for each row.  Caching both would write and read ``2·D``
numbers per head instead of ``D``; caching the raw row would norm it again at every step.
In the second, norms and rotation come before the cache and the value is turned with the key; so the mix is turned back
to the query's position (`TurnBack`), after which each value's turn depends on its distance alone.

Shapes: as `kvattn.variants.dense.grouped` with Dv = D; the value matrix of `Projections` is the key matrix (`tied`).
Cached per token: ``Hkv · D`` numbers, half of what grouped attention holds; each is read once per step.
Cost of T tokens behind P: projections ``2·T·M·(2·Hq·D + Hkv·D)`` FLOPs; `SharedProjection` makes ``(P + T)·Hkv``
keys at every step.

Source: Gemma 4 as released (``attention_k_eq_v``, global layers of its large models); DeepSeek-V4 as released,
layers of sliding windows.  Both are known from code, not from a paper's equations.
Where libraries differ: Gemma-4 in transformers caches key and value, two tensors of equal size.  Its norms hold plain
weights where those of Gemma 3 hold weights less one.  DeepSeek-V4 turns the last features of a head
(``Rotary.of(r, layout="adjacent", start=-r)``), norms queries without weights, and has sinks; its fused low-rank
query path is no matrix, unless the norm of each query cancels the one on the way.  Its code turns back with the
same cosines, so a magnitude other than 1 would come in twice; `TurnBack` takes it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvattn import ops
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, Schema
from kvattn.caches.tables import RawBlock
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import arguments_of, bends_of, settle
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError
from kvattn.masks.ahead import check_cut
from kvattn.masks.causal import Causal
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Positions, QueryKey
from kvattn.variants.dense.projections import Projections, check_hidden
from kvattn.variants.dense.query_key_norm import HeadRmsNorm


class Tied(NamedTuple):
    """One row for key and value, ``[B, Hkv, T, D]``."""

    row: Array


def tied(query: Array, key: Array, output: Array, heads: int, kv_heads: int) -> Projections:
    """Projections whose value matrix is the key matrix.

    >>> one = np.ones((1, 1))
    >>> w = tied(one, 2 * one, one, heads=1, kv_heads=1)
    >>> w.value is w.key, w.value
    (False, array([[2.]]))
    """
    return Projections(query, key, key, output, heads, kv_heads)


@dataclass(frozen=True)
class TurnBack:
    """Turn a mix back to position 0, as a finish: the last step of a layer whose values are turned.

    Parameters
    ----------
    rotation
        What turned the values.

    Examples
    --------
    >>> turn, at = Rotary.of(2), np.array([[7]])
    >>> turned = turn.rotate(np.ones((1, 1, 1, 2)), at)
    >>> TurnBack(turn).finish(turned, np.ones((1, 1, 3)), at).round(12)
    array([[[[1., 1.]]]])
    """

    rotation: Rotary

    def finish(self, mixed: Array, x: Array, positions: Positions) -> Array:
        """``mixed [B, Hq, T, D]`` turned by minus its positions.

        >>> TurnBack(Rotary.of(2)).finish(np.ones((1, 1, 1, 2)), np.ones((1, 1, 3)), np.zeros((1, 1), int))
        array([[[[1., 1.]]]])
        """
        return self.rotation.unrotate(mixed, positions[:, None, :])

    def finish_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `finish` counts.

        >>> TurnBack(Rotary.of(2)).finish_cost(tokens=1, heads=2, width=2) == Rotary.of(2).cost(rows=2, positions=1)
        True
        """
        return self.rotation.cost(rows=tokens * heads, positions=tokens)


@dataclass(frozen=True, eq=False)
class SharedProjection:
    """Gemma-4's way: key and value are one projected row, normed apart.

    Parameters
    ----------
    projections
        From `tied`.
    norm
        What norms queries and keys; its ε norms values too.
    mask
        Who may see whom.
    rotation
        Turns queries and keys, or None.
    mods, scale, softcap, sinks, page
        As in `kvattn.variants.dense.grouped.Grouped`; Gemma-4's scale is 1.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        Projections whose value matrix is another one than the key matrix; norms that do not fit the heads.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = SharedProjection(tied(one, one, one, heads=1, kv_heads=1), HeadRmsNorm(eps=0.0))
    >>> attended, cache = layer.step(layer.start(), np.array([[[5.0], [-7.0]]]))
    >>> attended.out[0, 0], cache.rows().row.ravel()
    (array([1.]), array([ 1., -1.]))
    """

    projections: Projections
    norm: HeadRmsNorm
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    rotation: Rotary | None = None
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        _check(self)
        w, none = self.projections, np.zeros((1, 0), np.int64)
        self.norm.queries(np.zeros((1, w.heads, 0, w.width), w.dtype), none)  # refuses weights that do not fit
        self.norm.keys(np.zeros((1, w.kv_heads, 0, w.width), w.dtype), none)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """Whole matrices.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.definition`.

        >>> one = np.ones((1, 1))
        >>> layer = SharedProjection(tied(one, one, one, heads=1, kv_heads=1), HeadRmsNorm(eps=0.0))
        >>> layer.definition(np.array([[[5.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        x, at, q, row = _whole(self.projections, x, positions)
        value = row / np.sqrt(np.mean(np.square(row), axis=-1, keepdims=True) + self.norm.eps)
        q, k = self.norm.queries(q, at[:, None, :]), self.norm.keys(row, at[:, None, :])
        if self.rotation is not None:
            q, k = (self.rotation.rotate(rows, at[:, None, :]) for rows in (q, k))
        mixed, lse = definition(q, k, value, q_positions=at, k_positions=at, **arguments_of(self))
        return Attended(_projected(self.projections, mixed), lse)

    def start(self, batch: int = 1) -> Paged[Tied]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> SharedProjection(tied(one, one, one, heads=1, kv_heads=1), HeadRmsNorm()).start()
        Paged(Tied, page=256, lengths=(0,))
        """
        return Paged.start(_schema(self.projections), batch, self.page)

    def step(self, cache: Paged[Tied], x: Array) -> tuple[Attended, Paged[Tied]]:
        """Attend with any number of new tokens, and remember them.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.step`.

        >>> one = np.ones((1, 1))
        >>> layer = SharedProjection(tied(one, one, one, heads=1, kv_heads=1), HeadRmsNorm())
        >>> layer.step(layer.start(), np.ones((1, 3, 1)))[1].length
        3
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads)
        at = cache.coming(x.shape[1])
        q = self.norm.queries(w.queries(x), at[:, None, :])
        if self.rotation is not None:
            q = self.rotation.rotate(q, at[:, None, :])
        row = ops.rms_norm(w.keys(x), None, self.norm.eps)
        cache = cache.append(Tied(row), positions=at)
        blocks = [[self._block(raw) for raw in cache.raw_blocks(b)] if x.shape[1] else [] for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.width, **arguments_of(self))
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = SharedProjection(tied(one, one, one, heads=1, kv_heads=1), HeadRmsNorm())
        >>> layer.cost(past=9, new=1).kv_read  # ten rows of one number
        80
        """
        w = self.projections
        rows, held = batch * new, batch * (past + new) if new else 0
        total = _cost(self, past, new, batch)
        total += self.norm.queries_cost(tokens=rows, heads=w.heads, width=w.width)
        total += HeadRmsNorm().keys_cost(tokens=rows, heads=w.kv_heads, width=w.width)
        if self.norm.key is not None:
            total += Tally(arithmetic=held * w.kv_heads * w.width)
        if self.rotation is not None:
            total += self.rotation.queries_cost(tokens=rows, heads=w.heads, width=w.width)
            total += self.rotation.keys_cost(tokens=held, heads=w.kv_heads, width=w.width)
        return total

    def _block(self, raw: RawBlock) -> KeyBlock:
        """Values as they lie in the cache, and keys made from them."""
        values = raw.arrays[0]
        keys = values[:, : raw.key_count]
        if self.norm.key is not None:
            weight = self.norm.key if self.norm.key.ndim == 1 else self.norm.key[:, None, :]
            keys = keys * weight
            charge(Tally(arithmetic=keys.size))
        if self.rotation is not None:
            keys = self.rotation.rotate(keys, raw.positions[None, : raw.key_count])
        return _key_block(raw, keys)


@dataclass(frozen=True, eq=False)
class SharedRow:
    """DeepSeek-V4's way: the row that is cached is key and value.

    Parameters
    ----------
    projections
        From `tied`.
    mask
        Who may see whom.
    query_key
        What is done to queries and rows before the cache, in order: norms, `Rotary`.
    finish
        What is done to the mix: `TurnBack` where rows are turned.
    mods, scale, softcap, sinks, page
        As in `kvattn.variants.dense.grouped.Grouped`.

    Raises
    ------
    ArgumentError
        Projections whose value matrix is another one than the key matrix.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = SharedRow(tied(one, one, one, heads=1, kv_heads=1), scale=0.0)
    >>> layer.step(layer.start(), np.array([[[5.0], [7.0]]]))[0].out.ravel()
    array([5., 6.])
    """

    projections: Projections
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        _check(self)
        wide = [part for part in self.query_key if hasattr(part, "widened")]
        if wide:
            raise ArgumentError(
                f"query_key must leave rows as wide as they are, values being among them, got {wide[0]}"
            )

    def definition(self, x: Array, positions: Positions) -> Attended:
        """Whole matrices.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.definition`.

        >>> one = np.ones((1, 1))
        >>> SharedRow(tied(one, one, one, heads=1, kv_heads=1)).definition(np.array([[[5.0]]]), np.arange(1)).out
        array([[[5.]]])
        """
        x, at, q, row = _whole(self.projections, x, positions)
        for part in self.query_key:
            q, row = part.queries(q, at[:, None, :]), part.keys(row, at[:, None, :])
        mixed, lse = definition(q, row, row, q_positions=at, k_positions=at, **arguments_of(self))
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        return Attended(_projected(self.projections, mixed), lse)

    def start(self, batch: int = 1) -> Paged[Tied]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> SharedRow(tied(one, one, one, heads=1, kv_heads=1)).start()
        Paged(Tied, page=256, lengths=(0,))
        """
        return Paged.start(_schema(self.projections), batch, self.page)

    def step(self, cache: Paged[Tied], x: Array) -> tuple[Attended, Paged[Tied]]:
        """Attend with any number of new tokens, and remember them.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.step`.

        >>> one = np.ones((1, 1))
        >>> layer = SharedRow(tied(one, one, one, heads=1, kv_heads=1))
        >>> layer.step(layer.start(), np.ones((1, 3, 1)))[1].length
        3
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads)
        at = cache.coming(x.shape[1])
        q, row = w.queries(x), w.keys(x)
        for part in self.query_key:
            q, row = part.queries(q, at[:, None, :]), part.keys(row, at[:, None, :])
        cache = cache.append(Tied(row), positions=at)
        blocks = [
            [_key_block(raw, raw.arrays[0][:, : raw.key_count]) for raw in cache.raw_blocks(b)]
            for b in range(cache.batch)
        ]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.width, **arguments_of(self))
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> SharedRow(tied(one, one, one, heads=1, kv_heads=1)).cost(past=9, new=1).kv_read  # ten rows of one number
        80
        """
        w = self.projections
        rows, total = batch * new, _cost(self, past, new, batch)
        for part in self.query_key:
            total += part.queries_cost(tokens=rows, heads=w.heads, width=w.width)
            total += part.keys_cost(tokens=rows, heads=w.kv_heads, width=w.width)
        for last in self.finish:
            total += last.finish_cost(tokens=rows, heads=w.heads, width=w.width)
        return total


_Layer = SharedProjection | SharedRow


def _check(layer: _Layer) -> None:
    w = layer.projections
    if w.key.shape != w.value.shape or not np.array_equal(w.key, w.value, equal_nan=True):
        raise ArgumentError(
            f"projections must have their key matrix as value matrix, got {w.key.shape} and another one"
        )
    settle(layer, w.heads, w.dtype)


def _schema(w: Projections) -> Schema[Tied]:
    return Schema(Tied, (Field("row", w.kv_heads, w.width, w.dtype),))


def _whole(w: Projections, x: Array, positions: Positions) -> tuple[Array, Positions, Array, Array]:
    """Hidden states, positions, queries and raw rows of the whole sequence."""
    x = check_hidden("x", x, None, w.hidden, w.dtype)
    at = read_positions("positions", positions, x.shape[0], x.shape[1])
    q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
    return x, at, q, np.einsum("btm,mhd->bhtd", x, w.key.reshape(w.hidden, w.kv_heads, w.width))


def _projected(w: Projections, mixed: Array) -> Array:
    return np.asarray(np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.width, w.hidden)))


def _key_block(raw: RawBlock, keys: Array) -> KeyBlock:
    """A block whose values lie in the cache and whose keys ``[Hkv, held, D]`` are made from them."""
    values = raw.arrays[0]
    turned = np.zeros((len(values), values.shape[2], BLOCK), values.dtype)
    turned[:, :, : raw.key_count] = keys.swapaxes(1, 2)
    return KeyBlock(raw.start, turned, values, raw.positions, raw.held, inside=True)


def _cost(layer: _Layer, past: int, new: int, batch: int) -> Tally:
    """Projections, the cache, and attention over rows that are read once."""
    w = layer.projections
    total = w.cost(batch * new, "query", "key", "output")
    total += _schema(w).append_cost(past=past, new=new, batch=batch, page=layer.page)
    shape = Shape(w.heads, w.kv_heads, w.width, w.width, w.dtype.itemsize, past, new, batch, inside=True)
    return total + attend_cost(shape, layer.mask, **bends_of(layer))
