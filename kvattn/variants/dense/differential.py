"""Differential attention: each pair of heads subtracts one attention map from another.

    o_p = (softmax(mask(scale · q_2p k_2gᵀ)) - λ · softmax(mask(scale · q_2p+1 k_2g+1ᵀ))) v_g,      g = p // G
    y = concat_p((1 - λ_init) · RMSNorm(o_p) · w) W_o,      λ = exp(a_1 · b_1) - exp(a_2 · b_2) + λ_init

What both maps see alike, the noise, cancels.  λ_init grows with the depth of the layer, from 0.2 towards 0.8.

Shapes: as `kvattn.variants.dense.projections`, with ``Hq / 2`` pairs of query heads and ``Hkv / 2`` of key heads; head
2p is the first of pair p.  A pair's value is as wide as two heads: ``v [B, Hkv / 2, S, 2·Dv]``, its mix too; masks and
mods see the number of the pair.  ``lse [B, Hq, T]`` has both maps' rows, pair by pair.
Cached per token: ``Hkv · (D + Dv)`` numbers, as in grouped attention of as many heads.
Cost: two attentions of half the heads over values of twice the width, so values are read and mixed twice; then per
mixed number 2 FLOPs for the difference, one for ``1 - λ_init``, and an RMSNorm for each pair.

Source: Ye et al. 2024 (2410.05258) §2.1; the authors' released code (Diff-Transformer, two files).
Where libraries differ: in the paper's code a pair is heads 2p and 2p + 1; in transformers' DiffLlama it is heads p and
p + Hq/2, and a value is value heads g and g + Hkv/2 (`from_halves` reorders such weights).  With fewer key heads than
query heads the paper's plain code repeats single keys, so that both maps of a pair can read the same key, where its
flash code, DiffLlama and this file repeat pairs.  The norm has weights in the paper's code and none in DiffLlama.
Depth counts from 0 in code, from 1 in the paper, for the same λ_init.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, real
from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, KeyValue, Schema
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError
from kvattn.masks.ahead import check_cut
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Positions, QueryKey
from kvattn.variants.dense import around
from kvattn.variants.dense.projections import Projections, check_hidden, split
from kvattn.variants.dense.query_key_norm import weights_of


def initial(depth: int) -> float:
    """λ_init of the layer at a depth that counts from 0.

    >>> round(initial(0), 12), round(initial(1), 12), round(initial(100), 12)
    (0.2, 0.355509067591, 0.8)
    """
    return 0.8 - 0.6 * math.exp(-0.3 * integer("depth", depth, 0))


def learned(a_1: Array, b_1: Array, a_2: Array, b_2: Array, start: float) -> float:
    """λ of four learned vectors ``[D]`` and λ_init, in float64.

    >>> learned(np.array([1.0]), np.array([0.0]), np.array([0.0]), np.array([1.0]), start=0.2)
    0.2
    """
    vectors = [np.asarray(x, np.float64) for x in (a_1, b_1, a_2, b_2)]
    sizes(*zip(("a_1", "b_1", "a_2", "b_2"), vectors, ("D",) * 4, strict=True))
    one, two = (math.exp(math.fsum(a * b)) for a, b in (vectors[:2], vectors[2:]))
    return one - two + real("start", start)


def from_halves(w: Projections) -> Projections:
    """Weights whose pairs are heads p and p + H/2, as DiffLlama stores them, with each pair side by side.

    >>> w = Projections(np.arange(4.0)[None], np.arange(2.0)[None], np.arange(2.0)[None], np.ones((4, 1)), 4, 2)
    >>> from_halves(w).query
    array([[0., 2., 1., 3.]])
    """

    def paired(matrix: Array, heads: int) -> Array:
        halves = matrix.reshape(len(matrix), 2, heads // 2, -1)
        return halves.swapaxes(1, 2).reshape(len(matrix), -1)

    _check_pairs(w)
    query = paired(w.query, w.heads)
    key, value = (paired(matrix, w.kv_heads) for matrix in (w.key, w.value))
    return Projections(query, key, value, w.output, w.heads, w.kv_heads)


@dataclass(frozen=True, eq=False)
class Differential:
    """A layer of differential attention.

    Parameters
    ----------
    projections
        The four matrices; Hq and Hkv are even and count single heads.
    weight
        λ, for instance from `learned`.
    initial_weight
        λ_init, below 1, for instance from `initial`.
    norm
        ``[2·Dv]``, the weights of the norm of a pair's mix, or None.
    eps
        Added to the mean square there.
    mask, query_key, finish, mods, scale, softcap, page
        As in `kvattn.variants.dense.grouped.Grouped`; mask, mods and finish see pairs as heads.

    Examples
    --------
    >>> one = np.ones((1, 2))
    >>> layer = Differential(Projections(one, one, one, np.ones((2, 1)), heads=2, kv_heads=2), 0.5, 0.2, eps=0.0)
    >>> layer.step(layer.start(), np.array([[[1.0], [3.0]]]))[0].out.round(12)
    array([[[1.6],
            [1.6]]])
    """

    projections: Projections
    weight: float
    initial_weight: float
    norm: Array | None = None
    eps: float = 1e-5
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        _check_pairs(w)
        settle(self, w.heads // 2, w.dtype)
        object.__setattr__(self, "weight", real("weight", self.weight))
        start = real("initial_weight", self.initial_weight)
        if start >= 1.0:
            raise ArgumentError(f"initial_weight must be below 1, got {start}")
        object.__setattr__(self, "initial_weight", start)
        object.__setattr__(self, "eps", real("eps", self.eps, least=0.0))
        if self.norm is not None:
            norm = weights_of("norm", self.norm, 1)
            sizes(("norm", norm, str(2 * w.value_width)))
            if norm.dtype != w.dtype:
                raise DtypeError(f"norm must have the dtype of the weights, {w.dtype}, got {norm.dtype}")
            object.__setattr__(self, "norm", norm)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on whole matrices.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.definition`.

        >>> one = np.ones((1, 2))
        >>> w = Projections(one, one, one, np.ones((2, 1)), heads=2, kv_heads=2)
        >>> Differential(w, 0.5, 0.2, eps=0.0).definition(np.array([[[7.0]]]), np.arange(1)).out.round(12)
        array([[[1.6]]])
        """
        w = self.projections
        x = check_hidden("x", x, None, w.hidden, w.dtype)
        batch, length, _ = x.shape
        at = read_positions("positions", positions, batch, length)
        q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
        k = np.einsum("btm,mhd->bhtd", x, w.key.reshape(w.hidden, w.kv_heads, w.width))
        v = np.einsum("btm,mhd->bhtd", x, w.value.reshape(w.hidden, w.kv_heads // 2, -1))
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
        same: dict[str, Any] = {"q_positions": at, "k_positions": at, **around.arguments(self)}
        (first, lse_1), (second, lse_2) = (definition(q[:, n::2], k[:, n::2], v, **same) for n in (0, 1))
        mixed = first - self.weight * second
        mixed = mixed / np.sqrt(np.mean(np.square(mixed), axis=-1, keepdims=True) + self.eps)
        mixed = mixed * (1.0 if self.norm is None else self.norm) * (1.0 - self.initial_weight)
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads // 2, -1, w.hidden))
        return Attended(out, np.stack([lse_1, lse_2], axis=2).reshape(batch, w.heads, length))

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 2))
        >>> Differential(Projections(one, one, one, np.ones((2, 1)), heads=2, kv_heads=2), 0.5, 0.2).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        return Paged.start(self._schema(), batch, self.page)

    def step(self, cache: C, x: Array) -> tuple[Attended, C]:
        """Attend with any number of new tokens, and remember them.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.step`.

        >>> one = np.ones((1, 2))
        >>> layer = Differential(Projections(one, one, one, np.ones((2, 1)), heads=2, kv_heads=2), 0.5, 0.2)
        >>> layer.step(layer.start(), np.ones((1, 3, 1)))[1].length
        3
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads // 2)
        at = cache.coming(x.shape[1])
        q, k = w.queries(x), w.keys(x)
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
        v = split(ops.contract(x, w.value, weights=True), w.kv_heads // 2)
        # stored first keys before second keys, so that each half is one piece of memory
        cache = cache.append(KeyValue(np.concatenate([k[:, 0::2], k[:, 1::2]], axis=1), v), positions=at)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        pairs = w.kv_heads // 2
        (first, lse_1), (second, lse_2) = (
            streaming.attend(
                np.ascontiguousarray(q[:, n::2]),
                at,
                [_half(held, slice(n * pairs, (n + 1) * pairs)) for held in blocks],
                value_width=2 * w.value_width,
                **around.arguments(self),
            )
            for n in (0, 1)
        )
        charge(Tally(arithmetic=3 * first.size))
        mixed = ops.rms_norm(first - self.weight * second, self.norm, self.eps) * (1.0 - self.initial_weight)
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        lse = np.stack([lse_1, lse_2], axis=2).reshape(cache.batch, w.heads, x.shape[1])
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 2))
        >>> layer = Differential(Projections(one, one, one, np.ones((2, 1)), heads=2, kv_heads=2), 0.5, 0.2)
        >>> layer.cost(past=9, new=1).pairs_computed
        20
        """
        w = self.projections
        rows, pairs, wide = batch * new, w.heads // 2, 2 * w.value_width
        total = w.cost(rows, "query", "key", "value", "output")
        for part, width in zip(self.query_key, around.widths(self), strict=False):
            total += part.queries_cost(tokens=rows, heads=w.heads, width=width)
            total += part.keys_cost(tokens=rows, heads=w.kv_heads, width=width)
        total += self._schema().append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(pairs, w.kv_heads // 2, around.widths(self)[-1], wide, w.dtype.itemsize, past, new, batch)
        once = attend_cost(shape, self.mask, **bends_of(self))
        per_number = 3 + 3 + (self.norm is not None)  # difference and factor, norm, weights
        after = Tally(arithmetic=rows * pairs * (per_number * wide + 2), transcendental=rows * pairs)
        for last in self.finish:
            after += last.finish_cost(tokens=rows, heads=pairs, width=wide)
        return total + once + once + after

    def _schema(self) -> Schema[KeyValue]:
        w = self.projections
        value = Field("v", w.kv_heads // 2, 2 * w.value_width, w.dtype)
        return Schema(KeyValue, (Field("k", w.kv_heads, around.widths(self)[-1], w.dtype, keys=True), value))


def _half(blocks: Sequence[KeyBlock], heads: slice) -> list[KeyBlock]:
    """The same blocks with some of the key heads."""
    return [block._replace(k=block.k[heads]) for block in blocks]


def _check_pairs(w: Projections) -> None:
    if w.heads % 2 or w.kv_heads % 2:
        raise ArgumentError(f"projections must have even head counts, got {w.heads} and {w.kv_heads}")
