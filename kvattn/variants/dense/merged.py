"""Merged attention: a decoder's own keys and an encoder's keys share one softmax.

    o_h = softmax([mask(scale · q_h k_gᵀ) ; scale · q_h k'_gᵀ]) [v_g ; v'_g],     k' = memory W_k,  v' = memory W_v

Self-attention and cross-attention in one: the same matrices make keys and values of the decoder's tokens and of the
encoder's, the mask bounds the decoder's part alone, and a query shares its weight out between both.

Shapes: ``x [B, T, M]``, ``memory [B, S, M]``; heads as in `kvattn.variants.dense.grouped`.
Cached: ``Hkv · (D + Dv)`` numbers per decoded token, which grow and can be taken back, and as many per encoder token,
written once by `Merged.start`.
Cost: attention over each part, and joining the two by log-sum-exp (`kvattn.core.merge`), which is one softmax over
both up to rounding; `Merged.start_cost` is paid once before.

Source: Zhang et al. 2025, T5Gemma 2 (2512.14856), "merged attention".
Where libraries differ: known from transformers' T5Gemma2, where the encoder's keys stand behind the decoder's in one
array and one mask covers both.  Queries and the decoder's keys are normed and turned there, the encoder's keys are
normed and not turned: ``query_key=(norm, turn), memory_key=(norm,)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import shown
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.layered import Layered
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.caches.static import Static
from kvattn.core import streaming
from kvattn.core.accounting import attend_cost
from kvattn.core.definition import definition
from kvattn.core.merge import merge, merge_cost
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.masks.causal import Causal
from kvattn.masks.padding import Padding
from kvattn.typing import Answer, Array, Attended, Finish, Mask, Positions, QueryKey, Span, Visible
from kvattn.variants.dense import around
from kvattn.variants.dense.cross import read_lengths
from kvattn.variants.dense.projections import Projections, check_hidden


@dataclass(frozen=True)
class SideBySide:
    """A mask over own keys and keys beside them: those stand at positions below 0, in front of all own ones.

    Parameters
    ----------
    own
        For keys from position 0 on, or None.
    beside
        For the others, whose positions it sees counted from 0, or None.
    count
        How many there are: position ``-count`` is the first of them.

    Examples
    --------
    >>> from kvattn.masks import Causal, Window
    >>> SideBySide(Causal() & Window(1), None, count=2)(0, 0, np.array([[0], [1]]), np.array([[-2, -1, 0, 1]]))
    array([[ True,  True,  True, False],
           [ True,  True, False,  True]])
    """

    own: Mask | None
    beside: Mask | None
    count: int

    def __call__(self, b: Any, h: Any, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair."""
        away = k_positions + self.count
        own = True if self.own is None else self.own(b, h, q_positions, k_positions)
        beside = True if self.beside is None else self.beside(b, h, q_positions, away)
        return np.where(k_positions < 0, beside, own & np.ones(np.shape(q_positions), np.bool_))

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """Look: whole matrices have no blocks.

        >>> SideBySide(None, None, 1).block(0, Span(0, 0), Span(0, 0))
        <Answer.LOOK: 'look'>
        """
        return Answer.LOOK


def side_by_side(
    q: Array,
    own: KeyValue,
    beside: KeyValue,
    at: Positions,
    *,
    mask: Mask | None,
    beside_mask: Mask | None,
    **others: Any,
) -> Attended:
    """One softmax over own keys and keys beside them on whole matrices, for definitions.

    Parameters
    ----------
    q, own, beside
        ``[B, Hq, T, D]`` and rows ``[B, Hkv, T, …]`` and ``[B, Hkv, S, …]``.
    at
        ``[B, T]``, positions of queries and own keys.
    mask, beside_mask
        Who sees own keys, and who sees those beside, counted from 0.
    **others
        As for `kvattn.core.definition.definition`.

    Examples
    --------
    >>> one = np.ones((1, 1, 1, 1))
    >>> side_by_side(
    ...     one, KeyValue(one, one), KeyValue(one, 3 * one), np.zeros((1, 1), int), mask=None, beside_mask=None
    ... ).out
    array([[[[2.]]]])
    """
    count = beside.k.shape[2]
    before = np.broadcast_to(np.arange(-count, 0), (len(at), count))
    k, v = (np.concatenate([near, far], axis=2) for near, far in zip(own, beside, strict=True))
    both = SideBySide(mask, beside_mask, count)
    return definition(q, k, v, q_positions=at, k_positions=np.concatenate([at, before], axis=1), mask=both, **others)


def joined(
    q: Array,
    at: Positions,
    own: Sequence[Sequence[KeyBlock]],
    beside: Sequence[Sequence[KeyBlock]],
    *,
    mask: Mask | None,
    **others: Any,
) -> Attended:
    """The same over blocks, all of those beside seen: attend to each part and merge.

    >>> from kvattn.caches.blocks import blocks_of
    >>> one = np.ones((1, 1, 1))
    >>> near, far = blocks_of(one, one, np.arange(1)), blocks_of(one, 3 * one, np.arange(1))
    >>> at = np.zeros((1, 1), int)
    >>> joined(one[None], at, [near], [far], mask=None, value_width=1).out
    array([[[[2.]]]])
    """
    return merge(streaming.attend(q, at, own, mask=mask, **others), streaming.attend(q, at, beside, **others))


@dataclass(frozen=True, eq=False)
class Merged:
    """A layer of merged attention over one memory.

    Parameters
    ----------
    projections
        The four matrices, for both kinds of tokens.
    memory
        ``[B, S, M]``, the encoder's hidden states, S >= 1, copied; another memory is another value.
    mask
        Which of the decoder's keys a query sees.
    memory_lengths
        How many of each sequence's memory tokens are real, 0 .. S; all unless given.
    query_key
        What is done to queries and the decoder's keys, in order.
    memory_key
        What is done to the encoder's keys, in order; their positions count from 0.
    finish, scale, softcap, page
        As in `kvattn.variants.dense.grouped.Grouped`.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
    >>> layer = Merged(w, np.array([[[1.0], [3.0]]]), scale=0.0)
    >>> attended, cache = layer.step(layer.start(), np.array([[[5.0], [7.0]]]))
    >>> attended.out.ravel(), cache.length
    (array([3., 4.]), 2)
    """

    projections: Projections
    memory: Array
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    memory_lengths: Sequence[int] | None = None
    query_key: Sequence[QueryKey] = ()
    memory_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    scale: float | None = None
    softcap: float | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        settle(self, w.heads, w.dtype)
        parts = self.memory_key
        if not isinstance(parts, (tuple, list)) or any(isinstance(p, type) or not hasattr(p, "keys") for p in parts):
            raise ArgumentError(f"memory_key must be a sequence of schemes and norms, got {shown(parts)}")
        object.__setattr__(self, "memory_key", tuple(parts))
        memory = check_hidden("memory", self.memory, None, w.hidden, w.dtype).copy()
        if not memory.size:
            raise ArgumentError(f"memory must hold at least one token, got shape {memory.shape}")
        memory.flags.writeable = False
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "memory_lengths", read_lengths(self.memory_lengths, memory))

    def definition(self, x: Array, positions: Positions) -> Attended:
        """One softmax on whole matrices; ``positions`` are the decoder's.

        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> Merged(w, np.array([[[1.0]]]), scale=0.0).definition(np.array([[[5.0]]]), np.arange(1)).out
        array([[[3.]]])
        """
        w = self.projections
        check_hidden("x", x, len(self.memory), w.hidden, w.dtype)
        heads = around.whole_heads(self, x, positions)
        _, at, q, k, v = heads
        k_beside = np.einsum("bsm,mhd->bhsd", self.memory, w.key.reshape(w.hidden, w.kv_heads, w.width))
        v_beside = np.einsum("bsm,mhd->bhsd", self.memory, w.value.reshape(w.hidden, w.kv_heads, w.value_width))
        rows = KeyValue(k, v), KeyValue(self._beside(k_beside), v_beside)
        real = None if self.memory_lengths is None else Padding(self.memory_lengths)
        mixed, lse = side_by_side(q, *rows, at, beside_mask=real, **around.arguments(self))
        return Attended(around.whole_output(self, heads, mixed), lse)

    def start(self, batch: int | None = None) -> Layered:
        """The cache with the memory's keys and values in it and no token decoded.

        Parameters
        ----------
        batch
            Sequences; the memory's unless given, and nothing else is legal.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Merged(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((2, 5, 1)))
        >>> own, memory = layer.start().parts
        >>> own.length, memory.memory.length
        (0, 5)
        """
        w, count, schema = self.projections, self._batch(batch), around.schema_of(self)
        rows = KeyValue(self._beside(w.keys(self.memory)), w.values(self.memory))
        memory = Static.start(schema, rows, lengths=self.memory_lengths, page=self.page)
        return Layered((Paged.start(schema, count, self.page), memory))

    def step(self, cache: Layered, x: Array) -> tuple[Attended, Layered]:
        """Attend with any number of new tokens, and remember them.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.step`.

        >>> one = np.ones((1, 1))
        >>> layer = Merged(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((1, 5, 1)))
        >>> layer.step(layer.start(), np.ones((1, 2, 1)))[1].length
        2
        """
        heads = around.new_heads(self, cache.parts[0], x)
        _, at, q, k, v = heads
        own, memory = cache.parts
        cache = Layered((own.append(KeyValue(k, v), positions=at), memory.advance(q.shape[2])))
        blocks = ([held.blocks(b) for b in range(cache.batch)] for held in cache.parts)
        mixed, lse = joined(q, at, *blocks, value_width=v.shape[3], **around.arguments(self))
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int | None = None) -> Tally:
        """What `step` counts, in closed form; `start_cost` is paid once before.

        >>> one = np.ones((1, 1))
        >>> layer = Merged(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((1, 5, 1)))
        >>> layer.cost(past=2, new=1).pairs_computed
        8
        """
        w, count = self.projections, self._batch(batch)
        rows = count * new
        total = around.cost(self, rows)
        total += around.schema_of(self).append_cost(past=past, new=new, batch=count, page=self.page)
        total += attend_cost(around.shape_of(self, past, new, count), self.mask, **bends_of(self))
        for length in self.memory_lengths or (self.memory.shape[1],) * count:
            total += attend_cost(around.shape_of(self, past, new, 1, source=length), **bends_of(self))
        return total + merge_cost(rows * w.heads, parts=2, width=w.value_width)

    def start_cost(self) -> Tally:
        """What `start` counts: the memory's keys and values, computed and written.

        >>> one = np.ones((1, 1))
        >>> Merged(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((1, 5, 1))).start_cost().kv_written
        80
        """
        w = self.projections
        batch, length, _ = self.memory.shape
        total = w.cost(batch * length, "key", "value")
        width = w.width
        for part in self.memory_key:
            total += part.keys_cost(tokens=batch * length, heads=w.kv_heads, width=width)
            width = part.widened(width) if hasattr(part, "widened") else width
        return total + around.schema_of(self).append_cost(past=0, new=length, batch=batch, page=self.page)

    def _batch(self, batch: int | None) -> int:
        if isinstance(batch, bool) or batch not in (None, len(self.memory)):
            raise ArgumentError(f"batch must be that of the memory, {len(self.memory)}, got {batch}")
        return len(self.memory)

    def _beside(self, k: Array) -> Array:
        """The memory's keys as ``memory_key`` leaves them."""
        source = np.broadcast_to(np.arange(self.memory.shape[1]), self.memory.shape[:2])
        for part in self.memory_key:
            k = part.keys(k, source[:, None, :])
        return k
