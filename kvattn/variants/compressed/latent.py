"""Multi-head latent attention (MLA): every head's keys and values come out of one small latent.

    c_s = RMSNorm(x_s W_dkv),   k_h,s = [c_s W_uk,h ; R_s(x_s W_kr)],   v_h,s = c_s W_uv,h
    o_h = softmax(mask(scale · [q_n ; R_t(q_r)]_h k_hᵀ)) v_h,           y = concat_h(o_h) W_o

Two forms of it that differ in what they cache.  `Expanded` makes keys and values of a token when it
comes and caches those.  `Absorbed` caches the normed latent with the turned rope key, and moves the
up-projections to the queries and to the mix: ``score = (q_n W_uk,hᵀ) · c + q_r · k_r``, so that one
row per token is the key of all heads and its first r numbers are their value.

Shapes: ``x [B, T, M]``; latents ``[B, T, r]``; heads as in `kvattn.variants.compressed.latent_projections`.
Cached per token: `Expanded` ``Hq · (Dn + Dr + Dv)`` numbers, `Absorbed` ``r + Dr``; for DeepSeek-V3:

>>> from kvattn.caches.rows import key_value, latent
>>> heads, r, Dn, Dr, Dv = 128, 512, 128, 64, 128
>>> [schema.nbytes // 8 for schema in (key_value(heads, Dn + Dr, Dv), latent(r + Dr))]
[40960, 576]

Cost per computed pair and head: ``2·(Dn + Dr + Dv)`` FLOPs against ``2·(2r + Dr)``, 640 against 2,176
there: absorbing reads 71 times fewer bytes and computes 3.4 times more.
Scale: ``1 / sqrt(Dn + Dr)`` in both forms, whatever r is; YaRN models multiply it by mscale² (``scale=``).
The two forms agree within rounding; each is exact to the bit under any cut.

Source: DeepSeek-V2 (2405.04434) §2.1.2 eq. 9-13, §2.1.3 eq. 14-19; full formulas in its appendix.
Where libraries differ: DeepSeek turns adjacent pairs (``Rotary.of(Dr, layout="adjacent")``), converted
checkpoints halves; transformers cached expanded keys and values, later the latent, expanded at each
step; vLLM, SGLang, FlashMLA and mlx-lm absorb in decoding and expand in prefill; Kimi-Linear turns nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math
from typing import Any, TypeAlias

import numpy as np

from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, Latent, key_value, latent
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import arguments_of, bends_of, settle
from kvattn.counting import Tally
from kvattn.masks.ahead import check_cut
from kvattn.masks.causal import Causal
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Attended, Mask, Mod, Positions
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.compressed.latent_rows import (
    check_rotation,
    latent_blocks,
    query_and_row,
    query_and_row_cost,
    turned,
    turned_cost,
)
from kvattn.variants.dense.projections import check_hidden


@dataclass(frozen=True, eq=False)
class Expanded:
    """Latent attention that caches the keys and values of every head.

    Parameters
    ----------
    projections
        The matrices and the head count.
    mask
        Who may see whom; None lets every query see every key held at its step.
    rotation
        Turns the rope parts, of Dr features, or None.
    mods
        Bend the scores, in order.
    scale
        ``1 / sqrt(Dn + Dr)`` unless given.
    softcap, sinks
        As in `kvattn.attend`.
    page
        Tokens per cache page; invisible in the result.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Expanded(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1))
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: LatentProjections
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    rotation: Rotary | None = None
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        _check(self)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on the whole sequence.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Expanded(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0))
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        return _definition(self, x, positions)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Expanded(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        w = self.projections
        return Paged.start(key_value(w.heads, w.width, w.value_width, w.dtype), batch, self.page)

    def step(self, cache: Paged[KeyValue], x: Array) -> tuple[Attended, Paged[KeyValue]]:
        """Attend with any number of new tokens, and remember their keys and values.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Expanded(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads)
        at = cache.coming(x.shape[1])
        nope, rope = w.queries(w.query_latents(x))
        q = np.concatenate([nope, turned(self.rotation, rope, at[:, None, :])], axis=-1)
        k, v = w.expand(w.latents(x))
        shared = turned(self.rotation, w.rope_keys(x), at)[:, None]  # [B, 1, T, Dr]
        k = np.concatenate([k, np.broadcast_to(shared, (*k.shape[:-1], w.rope_width))], axis=-1)
        cache = cache.append(KeyValue(k, v), positions=at)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.value_width, **_pipeline(self))
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Expanded(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1))
        >>> layer.cost(past=9, new=1).kv_read == 10 * (2 + 1) * 8
        True
        """
        w = self.projections
        rows = batch * new
        total = w.cost(rows, "query_latents", "queries", "latents", "rope_keys", "expand", "outputs")
        total += turned_cost(self.rotation, rows, w.heads) + turned_cost(self.rotation, rows, 1)
        schema = key_value(w.heads, w.width, w.value_width, w.dtype)
        total += schema.append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(w.heads, w.heads, w.width, w.value_width, w.dtype.itemsize, past, new, batch)
        return total + attend_cost(shape, self.mask, **bends_of(self))


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Latent attention that caches the latent and attends to it.

    Parameters
    ----------
    projections
        The matrices and the head count.
    mask
        Who may see whom; None lets every query see every key held at its step.
    rotation
        Turns the rope parts, of Dr features, or None.
    mods
        Bend the scores, in order; the queries that they are shown are those to latents, ``[…, r + Dr]``.
    scale
        ``1 / sqrt(Dn + Dr)`` unless given.
    softcap, sinks
        As in `kvattn.attend`.
    page
        Tokens per cache page; invisible in the result.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Absorbed(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1))
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: LatentProjections
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    rotation: Rotary | None = None
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        _check(self)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on the whole sequence, the same as of `Expanded`.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Absorbed(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0))
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        return _definition(self, x, positions)

    def start(self, batch: int = 1) -> Paged[Latent]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Absorbed(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)).start(2)
        Paged(Latent, page=256, lengths=(0, 0))
        """
        w = self.projections
        return Paged.start(latent(w.rank + w.rope_width, w.dtype), batch, self.page)

    def step(self, cache: Paged[Latent], x: Array) -> tuple[Attended, Paged[Latent]]:
        """Attend with any number of new tokens, and remember their latents.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Absorbed(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads)
        at = cache.coming(x.shape[1])
        q, row = query_and_row(w, self.rotation, x, w.query_latents(x), at)
        cache = cache.append(Latent(row), positions=at)
        blocks = [latent_blocks(cache.raw_blocks(b), w.rank) for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.rank, **_pipeline(self))
        return Attended(w.outputs(w.release(mixed)), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Absorbed(LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1))
        >>> layer.cost(past=9, new=1).kv_read == 10 * (1 + 1) * 8
        True
        """
        w = self.projections
        rows = batch * new
        total = query_and_row_cost(w, self.rotation, rows) + w.cost(rows, "query_latents", "release", "outputs")
        wide = w.rank + w.rope_width
        total += latent(wide, w.dtype).append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(w.heads, 1, wide, w.rank, w.dtype.itemsize, past, new, batch, inside=True)
        return total + attend_cost(shape, self.mask, **bends_of(self))


_Form: TypeAlias = Expanded | Absorbed


def whole_heads(
    w: LatentProjections, rotation: Rotary | None, x: Array, positions: Positions
) -> tuple[Array, Array, Array]:
    """Queries, keys ``[B, Hq, T, Dn + Dr]`` and values ``[B, Hq, T, Dv]`` as the paper writes them, for definitions.

    >>> one = np.ones((1, 1))
    >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1, eps=0)
    >>> whole_heads(w, None, np.full((1, 1, 1), 5.0), np.zeros((1, 1), int))
    (array([[[[5., 5.]]]]), array([[[[1., 5.]]]]), array([[[[1.]]]]))
    """
    q = np.einsum("btm,mhd->bhtd", whole_query_latents(w, x), w.query.reshape(-1, w.heads, w.width))
    c = _normed(np.einsum("btm,mr->btr", x, w.kv_down), w.kv_norm, w.eps)
    k = np.einsum("btr,rhd->bhtd", c, w.key_up.reshape(w.rank, w.heads, w.nope_width))
    v = np.einsum("btr,rhd->bhtd", c, w.value_up.reshape(w.rank, w.heads, w.value_width))
    rope_q, rope_k = q[..., w.nope_width :], np.einsum("btm,md->btd", x, w.key_rope)
    if rotation is not None:
        rope_q, rope_k = rotation.rotate(rope_q, positions[:, None, :]), rotation.rotate(rope_k, positions)
    every = np.repeat(rope_k[:, None], w.heads, axis=1)
    return np.concatenate([q[..., : w.nope_width], rope_q], -1), np.concatenate([k, every], -1), v


def whole_query_latents(w: LatentProjections, x: Array) -> Array:
    """What queries are made of, ``[B, T, rq]``, or ``x`` itself without a low-rank path; for definitions.

    >>> one = np.ones((1, 1))
    >>> w = LatentProjections(one, np.ones(1), one, one, one, np.ones((1, 2)), one, heads=1)
    >>> whole_query_latents(w, np.full((1, 1, 1), 5.0))
    array([[[5.]]])
    """
    if w.query_down is None or w.query_norm is None:
        return x
    return _normed(np.einsum("btm,mr->btr", x, w.query_down), w.query_norm, w.eps)


def _normed(rows: Array, weight: Array, eps: float) -> Array:
    """RMSNorm in one line."""
    normed: Array = rows * weight / np.sqrt(np.mean(np.square(rows), axis=-1, keepdims=True) + eps)
    return normed


def _definition(layer: _Form, x: Array, positions: Positions) -> Attended:
    """Expanded heads, whole matrices."""
    w = layer.projections
    x = check_hidden("x", x, None, w.hidden, w.dtype)
    at = read_positions("positions", positions, x.shape[0], x.shape[1])
    q, k, v = whole_heads(w, layer.rotation, x, at)
    mixed, lse = definition(q, k, v, q_positions=at, k_positions=at, **_pipeline(layer))
    out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
    return Attended(out, lse)


def _check(layer: _Form) -> None:
    settle(layer, layer.projections.heads, layer.projections.dtype)
    check_rotation(layer.projections, layer.rotation)


def _pipeline(layer: _Form) -> dict[str, Any]:
    """How scores are bent; the scale is that of the heads' width, also where rows are wider."""
    return arguments_of(layer, scale=1.0 / math.sqrt(layer.projections.width) if layer.scale is None else layer.scale)
