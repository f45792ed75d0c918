"""Cross-attention: queries of the decoder meet keys and values of an encoder, computed once.

    o_h = softmax(mask(scale · q_h k_{h // G}ᵀ)) v_{h // G},   q = x W_q,   k = memory W_k,   v = memory W_v

Norms (``query_key``) and gates (``finish``) stand where they do in `kvattn.variants.dense.grouped`; the
memory's keys have positions 0 .. S-1.

Shapes: ``x [B, T, M]``, ``memory [B, S, Me]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``.
Cached: ``Hkv · (D + Dv)`` numbers per encoder token, written once by `Cross.start`; nothing per
decoded token.  Rolling back crops nothing but the count of decoded tokens.
Cost of T new tokens: projections ``4·T·M·Hq·D`` FLOPs for D = Dv, attention ``2·(D + Dv)·Hq·S·T``.

Source: Vaswani et al. 2017 (1706.03762) §3.2.3.
Where libraries differ: T5 gives cross-attention no position bias; Whisper's keys have no bias
vector; Llama-3.2-Vision norms queries and keys, has a tanh gate behind the output
projection, and sets the rows of a text without an image to zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integers
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK
from kvattn.caches.rows import KeyValue, Schema, key_value
from kvattn.caches.static import Static
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import arguments_of, bends_of, settle
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.masks.combine import both
from kvattn.masks.padding import Padding
from kvattn.typing import Array, Attended, Finish, Mask, Positions, QueryKey
from kvattn.variants.dense.projections import Projections, check_hidden


def read_lengths(lengths: Sequence[int] | None, memory: Array) -> tuple[int, ...] | None:
    """How many tokens of each sequence of a memory are real, or None for all.

    Raises
    ------
    ArgumentError
        When they are not one integer in 0 .. S for each sequence.

    Examples
    --------
    >>> read_lengths([2, 0], np.ones((2, 3, 1)))
    (2, 0)
    """
    if lengths is None:
        return None
    found = integers("memory_lengths", lengths, 0)
    if len(found) != len(memory) or max(found) > memory.shape[1]:
        sizes = f"one integer in 0 .. {memory.shape[1]} for each of {len(memory)} sequences"
        raise ArgumentError(f"memory_lengths must be {sizes}, got {found}")
    return found


@dataclass(frozen=True, eq=False)
class Cross:
    """A cross-attention layer over one memory.

    Parameters
    ----------
    projections
        ``query [M, Hq·D]``, ``key`` and ``value`` over ``[Me, …]``, ``output [Hq·Dv, M]``.
    memory
        ``[B, S, Me]``, the encoder's hidden states, copied; another memory is another value.
    memory_lengths
        How many of each sequence's memory tokens are real, 0 .. S; all unless given.
    mask
        Who may see whom: decoder positions against 0 .. S-1.  A mask that asks which sequence it is does not
        travel when beams are reordered; ``memory_lengths`` do.
    query_key
        What is done to queries and to the memory's keys, in order.
    finish
        What is done to the mix before the output projection, in order.
    scale, softcap
        As in `kvattn.attend`.
    page
        Tokens per cache page; invisible in the result.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Cross(Projections(one, one, one, one, heads=1, kv_heads=1), np.array([[[1.0], [3.0]]]), scale=0.0)
    >>> attended, cache = layer.step(layer.start(), np.array([[[7.0]]]))
    >>> attended.out, cache.length
    (array([[[2.]]]), 1)
    """

    projections: Projections
    memory: Array
    mask: Mask | None = None
    memory_lengths: Sequence[int] | None = None
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    scale: float | None = None
    softcap: float | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        settle(self, w.heads, w.dtype)
        memory = check_hidden("memory", self.memory, None, int(w.key.shape[0]), w.dtype).copy()
        memory.flags.writeable = False
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "memory_lengths", read_lengths(self.memory_lengths, memory))

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on whole matrices; ``positions`` are the decoder's.

        >>> one = np.ones((1, 1))
        >>> layer = Cross(Projections(one, one, one, one, heads=1, kv_heads=1), np.array([[[1.0], [3.0]]]), scale=0.0)
        >>> layer.definition(np.array([[[7.0]]]), np.arange(1)).out
        array([[[2.]]])
        """
        w = self.projections
        x = check_hidden("x", x, len(self.memory), w.hidden, w.dtype)
        batch, length, _ = x.shape
        at = read_positions("positions", positions, batch, length)
        source = self._source()
        q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
        k = np.einsum("bsm,mhd->bhsd", self.memory, w.key.reshape(-1, w.kv_heads, w.width))
        v = np.einsum("bsm,mhd->bhsd", self.memory, w.value.reshape(-1, w.kv_heads, w.value_width))
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, source[:, None, :])
        mask = self.mask
        if self.memory_lengths is not None:
            real = Padding(self.memory_lengths)
            mask = real if mask is None else both(mask, real)
        mixed, lse = definition(q, k, v, q_positions=at, k_positions=source, **arguments_of(self, mask=mask))
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, lse)

    def start(self, batch: int | None = None) -> Static[KeyValue]:
        """The cache with the memory's keys and values in it and no token decoded.

        Parameters
        ----------
        batch
            Sequences; the memory's unless given, and nothing else is legal.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Cross(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((2, 5, 1)))
        >>> cache = layer.start()
        >>> cache.memory.length, cache.length
        (5, 0)
        """
        if batch is not None and (isinstance(batch, bool) or batch != len(self.memory)):
            raise ArgumentError(f"batch must be that of the memory, {len(self.memory)}, got {batch}")
        w = self.projections
        k = w.keys(self.memory)
        for part in self.query_key:
            k = part.keys(k, self._source()[:, None, :])
        rows = KeyValue(k, w.values(self.memory))
        return Static.start(self._schema(), rows, lengths=self.memory_lengths, page=self.page)

    def step(self, cache: Static[KeyValue], x: Array) -> tuple[Attended, Static[KeyValue]]:
        """Attend from any number of new tokens.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Cross(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((1, 5, 1)))
        >>> layer.step(layer.start(), np.ones((1, 2, 1)))[1].length
        2
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        at = np.array(cache.lengths)[:, None] + np.arange(x.shape[1])
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        q = w.queries(x)
        for part in self.query_key:
            q = part.queries(q, at[:, None, :])
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.value_width, **arguments_of(self))
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        return Attended(w.outputs(mixed), lse), cache.advance(x.shape[1])

    def cost(self, *, past: int, new: int, batch: int | None = None) -> Tally:
        """What `step` counts, in closed form; `start_cost` is paid once before.

        >>> one = np.ones((1, 1))
        >>> layer = Cross(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((1, 5, 1)))
        >>> layer.cost(past=0, new=2).pairs_computed
        10
        """
        w = self.projections
        count = self._batch(batch)
        total = w.cost(count * new, "query", "output")
        for part in self.query_key:
            total += part.queries_cost(tokens=count * new, heads=w.heads, width=w.width)
        for last in self.finish:
            total += last.finish_cost(tokens=count * new, heads=w.heads, width=w.value_width)
        sizes = (w.heads, w.kv_heads, w.width, w.value_width, w.dtype.itemsize, past, new)
        if self.memory_lengths is None:
            return total + attend_cost(Shape(*sizes, count, source=self.memory.shape[1]), self.mask, **bends_of(self))
        each = (Shape(*sizes, source=length) for length in self.memory_lengths)
        return sum((attend_cost(shape, self.mask, **bends_of(self)) for shape in each), total)

    def start_cost(self) -> Tally:
        """What `start` counts: the memory's keys and values, computed and written.

        >>> one = np.ones((1, 1))
        >>> Cross(Projections(one, one, one, one, heads=1, kv_heads=1), np.ones((1, 5, 1))).start_cost().kv_written
        80
        """
        batch, length, _ = self.memory.shape
        w = self.projections
        total = w.cost(batch * length, "key", "value")
        for part in self.query_key:
            total += part.keys_cost(tokens=batch * length, heads=w.kv_heads, width=w.width)
        return total + self._schema().append_cost(past=0, new=length, batch=batch, page=self.page)

    def _source(self) -> Positions:
        """Positions of the memory's tokens, ``[B, S]``."""
        return np.broadcast_to(np.arange(self.memory.shape[1]), self.memory.shape[:2])

    def _batch(self, batch: int | None) -> int:
        if batch not in (None, len(self.memory)):
            raise ArgumentError(f"batch must be that of the memory, {len(self.memory)}, got {batch}")
        return len(self.memory)

    def _schema(self) -> Schema[KeyValue]:
        w = self.projections
        return key_value(w.kv_heads, w.width, w.value_width, w.dtype)
