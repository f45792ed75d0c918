"""Longformer: a local window, and a few global tokens with projections of their own.

    local i:    o_i = softmax(scale · (x_i W_q)(X W_k)ᵀ) X W_v        over j in the window of i or j global
    global i:   o_i = softmax(scale · (x_i G_q)(X G_k)ᵀ) X G_v        over all j

both ``and order(i, j)``, and both then through ``W_o``.  A global *key* read by a local query comes from the
local matrices: only who asks decides.

Encoder: ``window=Window(r + 1, ahead=r)``; the whole sequence comes in one step, a second step is refused,
because earlier tokens see later ones.  Decoder: ``order=Causal(), window=Window(w)``, cut anywhere.

Shapes: ``x [B, T, M]``; heads as in `kvattn.variants.dense.grouped`.
Cached per token: two keys and two values for each key/value head, ``2 · Hkv · (D + Dv)`` numbers: any
later token may be a global query.
Cost: projections as `Grouped`, with ``G_k`` and ``G_v`` for every token and ``G_q`` for global ones; attention
over the blocks that the window and the global keys touch, and over all blocks for tiles that hold a
global query.

Source: Beltagy et al. 2020 (arXiv 2004.05150) §3.1.
Where libraries differ: ``attention_window`` of transformers counts both sides, r = window / 2; its
LongformerSelfAttention has no output projection; its LED decoder is fully causal, which is `Grouped`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, integers, shown
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks import Everything, KeysAt, QueriesAt, both, either, inverse
from kvattn.masks.ahead import check_cut
from kvattn.typing import Array, Attended, Mask, Positions
from kvattn.variants.dense.projections import Projections, check_hidden, split


@dataclass(frozen=True, eq=False)
class Longformer:
    """Local attention with global tokens.

    Parameters
    ----------
    projections
        The four matrices and the head counts, for local queries.
    global_query, global_key, global_value
        ``[M, Hq·D]``, ``[M, Hkv·D]``, ``[M, Hkv·Dv]``, for global queries.
    tokens
        Positions of the global tokens, at least one.
    window
        What a local token sees beside global keys.
    order
        What nobody sees past: `Everything` for an encoder, `Causal` for a decoder; padding goes here.
    page
        Tokens per cache page; invisible in the result.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        One sentence that names the argument.

    Examples
    --------
    >>> from kvattn.masks import Causal, Window
    >>> one = np.ones((1, 1))
    >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
    >>> layer = Longformer(w, one, one, 10 * one, tokens=[2], window=Window(1), order=Causal())
    >>> attended, cache = layer.step(layer.start(), np.ones((1, 5, 1)))
    >>> attended.out.ravel(), np.exp(attended.lse).round(12).ravel() / np.exp(1)
    (array([ 1.,  1., 10.,  1.,  1.]), array([1., 1., 3., 2., 2.]))
    """

    projections: Projections
    global_query: Array
    global_key: Array
    global_value: Array
    tokens: Sequence[int]
    window: Mask
    order: Mask = Everything()  # noqa: RUF009 a frozen value
    page: int = BLOCK
    _over: Projections = field(init=False, repr=False)

    def __post_init__(self) -> None:
        w = self.projections
        for name in ("query", "key", "value"):
            held, wanted = np.asarray(getattr(self, f"global_{name}")), getattr(w, name)
            if held.shape != wanted.shape:
                raise ShapeError(f"global_{name} must have the shape of {name}, {wanted.shape}, got {held.shape}")
            if held.dtype != wanted.dtype:
                raise DtypeError(f"global_{name} must have the dtype of {name}, {wanted.dtype}, got {held.dtype}")
        over = Projections(self.global_query, self.global_key, self.global_value, w.output, w.heads, w.kv_heads)
        for name in ("query", "key", "value"):
            object.__setattr__(self, f"global_{name}", getattr(over, name))
        for name in ("window", "order"):
            mask = getattr(self, name)
            if isinstance(mask, type) or not callable(mask) or not hasattr(mask, "block"):
                raise ArgumentError(f"{name} must be a mask of kvattn.masks, got {shown(mask)}")
        object.__setattr__(self, "_over", over)
        object.__setattr__(self, "tokens", tuple(sorted(set(integers("tokens", self.tokens, 0)))))
        object.__setattr__(self, "page", integer("page", self.page, 1))

    @property
    def mask(self) -> Mask:
        """Who may see whom.

        >>> from kvattn.masks import Window
        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> Longformer(w, one, one, one, tokens=[0], window=Window(3, ahead=2)).mask
        Everything() & (Window(3, ahead=2) | KeysAt([0]) | QueriesAt([0]))
        """
        local = either(self.window, KeysAt(self.tokens))
        return both(self.order, either(local, QueriesAt(self.tokens)))

    @property
    def _parts(self) -> tuple[Mask, Mask]:
        """The masks of local and of global queries; a row that is not theirs sees nothing."""
        listed = QueriesAt(self.tokens)
        local = both(self.order, either(self.window, KeysAt(self.tokens)))
        return both(local, inverse(listed)), both(self.order, listed)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """Both attentions on the whole sequence, then every token takes its own.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``.

        Examples
        --------
        >>> from kvattn.masks import Window
        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = Longformer(w, one, one, 10 * one, tokens=[0], window=Window(1))
        >>> layer.definition(np.ones((1, 2, 1)), np.arange(2)).out.ravel()
        array([10.,  1.])
        """
        w = self.projections
        x = check_hidden("x", x, None, w.hidden, w.dtype)
        at = read_positions("positions", positions, x.shape[0], x.shape[1])
        both_ways = []
        for one in (w, self._over):
            q = np.einsum("btm,mhd->bhtd", x, one.query.reshape(w.hidden, w.heads, w.width))
            k = np.einsum("btm,mhd->bhtd", x, one.key.reshape(w.hidden, w.kv_heads, w.width))
            v = np.einsum("btm,mhd->bhtd", x, one.value.reshape(w.hidden, w.kv_heads, w.value_width))
            both_ways.append(definition(q, k, v, q_positions=at, k_positions=at, mask=self.mask))
        local, over = both_ways
        listed = np.isin(at, self.tokens)[:, None, :]
        mixed = np.where(listed[..., None], over.out, local.out)
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, np.where(listed, over.lse, local.lse))

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache: local heads, then global ones.

        >>> from kvattn.masks import Causal, Window
        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> Longformer(w, one, one, one, tokens=[0], window=Window(4), order=Causal()).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        return Paged.start(self._schema, batch, self.page)

    @property
    def _schema(self) -> Schema[KeyValue]:
        w = self.projections
        return key_value(2 * w.kv_heads, w.width, w.value_width, w.dtype)

    def step(self, cache: C, x: Array) -> tuple[Attended, C]:
        """Attend with any number of new tokens, and remember them.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Raises
        ------
        PositionError
            When a token of an earlier step would have seen these (`kvattn.masks.ahead`).

        Examples
        --------
        >>> from kvattn.masks import Window
        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = Longformer(w, one, one, 10 * one, tokens=[0], window=Window(1))
        >>> attended, cache = layer.step(layer.start(), np.ones((1, 2, 1)))
        >>> attended.out.ravel()
        array([10.,  1.])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.ends, x.shape[1], w.heads)
        at = cache.coming(x.shape[1])
        k = np.concatenate([w.keys(x), self._over.keys(x)], axis=1)  # [B, 2·Hkv, T, D]
        v = np.concatenate([w.values(x), self._over.values(x)], axis=1)
        cache = cache.append(KeyValue(k, v), positions=at)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        mine, theirs = ([[_part(block, half, w.kv_heads) for block in held] for held in blocks] for half in (0, 1))
        local, over = self._parts
        mixed, lse = streaming.attend(w.queries(x), at, mine, value_width=w.value_width, mask=local)
        listed = np.isin(at, self.tokens)
        if listed.any():
            q = np.zeros((*x.shape[:2], w.heads * w.width), w.dtype)
            q[listed] = ops.contract(x[listed], self.global_query, weights=True)
            found = streaming.attend(split(q, w.heads), at, theirs, value_width=w.value_width, mask=over)
            mixed = np.where(listed[:, None, :, None], found.out, mixed)
            lse = np.where(listed[:, None, :], found.lse, lse)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> from kvattn.masks import Causal, Window
        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = Longformer(w, one, one, one, tokens=[0, 7], window=Window(2), order=Causal())
        >>> [layer.cost(past=past, new=1).pairs_visible for past in (6, 7, 8)]
        [3, 8, 3]
        """
        w = self.projections
        total = w.cost(batch * new, "query", "key", "value", "output") + self._over.cost(batch * new, "key", "value")
        total += self._schema.append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(w.heads, w.kv_heads, w.width, w.value_width, w.dtype.itemsize, past, new, batch)
        local, over = self._parts
        total += attend_cost(shape, local)
        listed = sum(past <= token < past + new for token in self.tokens)
        if listed:
            total += self._over.cost(batch * listed, "query") + attend_cost(shape, over)
        return total


def _part(block: KeyBlock, half: int, heads: int) -> KeyBlock:
    """The local heads of a block, or the global ones."""
    mine = slice(half * heads, (half + 1) * heads)
    return block._replace(k=block.k[mine], v=block.v[mine])
