"""Keys cached before rotation, and turned when they are read: for frequencies that change with the length.

    o_t = softmax(mask(scale · R_n(t) q_t · (R_n(j) k_j)ᵀ)) v,        n = t + 1

R_n is the rotation for a sequence of n tokens.  Dynamic NTK and LongRoPE have a different one for each length, or
for each of two; a rotated key in the cache would be stale as soon as that changes.  **Policy:** a query, and every key
that it meets, turns by the frequencies of the query's own length, whoever came in the same step.

Exactness: exact given the policy.  Every way of cutting the sequence gives the same bits, which no other policy does:
turning keys once, by the length at their arrival (`kvattn.variants.dense.grouped` with another rotation at each
step), or turning everything by the length of the step, gives an early token another result in another cut.  One
rotation chosen for the whole sequence and cached is exact as well.

Shapes: ``x [B, T, M]``, ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``.
Cached per token: an unturned key and a value for each key/value head, ``Hkv · (D + Dv)`` numbers.
Cost of T new tokens behind P: that of grouped-query attention, and for each run of queries with one rotation (one run
up to the trained length, behind it one for each token with dynamic NTK): the queries turn, every block of keys that
one of them may see turns, ``6`` FLOPs per key, head and pair, and the cache is read once more.

Source: Peng et al. 2023 (arXiv 2309.00071) §3.3: cache "before applying RoPE"; LongRoPE: Ding et al. 2024 (2402.13753).
Where libraries differ: transformers caches rotated keys under dynamic NTK and LongRoPE, so that decoding and
recomputing differ once the length passes the trained one; vLLM chooses one rotation from its configured maximum;
onnxruntime-genai recomputes the prompt when LongRoPE switches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from kvattn.arguments import shown
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.core import streaming
from kvattn.core.accounting import attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.masks.causal import Causal
from kvattn.positions.rotary import Rotary
from kvattn.typing import Answer, Array, Attended, Finish, Mask, Mod, Positions, QueryKey, Span
from kvattn.variants.dense import around
from kvattn.variants.dense._turned import turned
from kvattn.variants.dense.projections import Projections


class ByLength(Protocol):
    """A rotation for every length of a sequence, such as `DynamicNTK` and `LongRope`."""

    def rotary_at(self, length: int) -> Rotary:
        """The rotation for a sequence of ``length`` tokens."""


@dataclass(frozen=True)
class Unchanging:
    """One rotation for every length.

    >>> Unchanging(Rotary.of(2)).rotary_at(7) == Rotary.of(2)
    True
    """

    rotary: Rotary

    def __post_init__(self) -> None:
        if not isinstance(self.rotary, Rotary):
            raise ArgumentError(f"rotary must be a Rotary, got {shown(self.rotary)}")

    def rotary_at(self, length: int) -> Rotary:
        """The rotation, whatever the length.

        >>> Unchanging(Rotary((0.5,))).rotary_at(0).frequencies
        (0.5,)
        """
        return self.rotary


@dataclass(frozen=True, eq=False)
class BeforeRotation:
    """A grouped-query attention layer whose cached keys are not turned.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    scheme
        What turns queries and keys, given the query's length: `kvattn.positions.DynamicNTK`,
        `kvattn.positions.LongRope`, `Unchanging`, or anything with ``rotary_at``.
    mask
        Who may see whom; None lets every query see every key held at its step.
    query_key
        What is done to queries and keys before caching, in order: norms.
    finish, mods, scale, softcap, sinks, page
        As in `kvattn.variants.dense.grouped.Grouped`.

    Raises
    ------
    ArgumentError
        When the scheme has no ``rotary_at``.

    Examples
    --------
    >>> from kvattn.positions import DynamicNTK
    >>> some = np.ones((4, 4))
    >>> layer = BeforeRotation(Projections(some, some, some, some, 1, 1), DynamicNTK(4, factor=2.0, trained=2))
    >>> x = np.eye(4)[None]
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(4)).out)), cache.length
    (True, 4)
    """

    projections: Projections
    scheme: ByLength
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        if isinstance(self.scheme, type) or not callable(getattr(self.scheme, "rotary_at", None)):
            hint = "; one rotation for all lengths is Unchanging(rotary)" if isinstance(self.scheme, Rotary) else ""
            raise ArgumentError(f"scheme must have rotary_at(length), got {shown(self.scheme)}{hint}")
        settle(self, self.projections.heads, self.projections.dtype)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The equation on the whole sequence: everything turned anew for each query.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``, from 0 on.

        Examples
        --------
        >>> some = np.ones((2, 2))
        >>> layer = BeforeRotation(Projections(some, some, some, some, 1, 1), Unchanging(Rotary.of(2)))
        >>> layer.definition(np.array([[[1.0, 0.0]]]), np.arange(1)).out
        array([[[2., 2.]]])
        """
        w = self.projections
        heads = around.whole_heads(self, x, positions)
        x, at, q, k, v = heads
        batch, length, _ = x.shape
        mixed = np.empty((batch, w.heads, length, w.value_width), w.dtype)
        lse = np.empty((batch, w.heads, length), w.dtype)
        for t in range(length):
            now = slice(t, t + 1)
            turns = [self.scheme.rotary_at(int(p) + 1) for p in at[:, t]]
            own = [turn.rotate(q[b, :, now], at[b, now]) for b, turn in enumerate(turns)]
            all_keys = [turn.rotate(k[b], at[b]) for b, turn in enumerate(turns)]
            mixed[:, :, now], lse[:, :, now] = definition(
                np.stack(own), np.stack(all_keys), v, q_positions=at[:, now], k_positions=at, **around.arguments(self)
            )
        return Attended(around.whole_output(self, heads, mixed), lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> some = np.ones((2, 2))
        >>> BeforeRotation(Projections(some, some, some, some, 1, 1), Unchanging(Rotary.of(2))).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        return Paged.start(around.schema_of(self), batch, self.page)

    def step(self, cache: C, x: Array) -> tuple[Attended, C]:
        """Attend with any number of new tokens, and remember them unturned.

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
        >>> some = np.ones((2, 2))
        >>> layer = BeforeRotation(Projections(some, some, some, some, 1, 1), Unchanging(Rotary.of(2)))
        >>> _, cache = layer.step(layer.start(), np.array([[[0.0, 0.0], [1.0, 0.0]]]))
        >>> cache.rows().k[0, 0]
        array([[0., 0.],
               [1., 1.]])
        """
        w = self.projections
        heads = around.new_heads(self, cache, x)
        x, at, q, k, v = heads
        cache = cache.append(KeyValue(k, v), positions=at)
        held = [cache.blocks(b) for b in range(cache.batch)]
        mixed = np.empty((cache.batch, w.heads, x.shape[1], w.value_width), w.dtype)
        lse = np.empty((cache.batch, w.heads, x.shape[1]), w.dtype)
        for run, turns in self._runs(at):
            turned_queries = np.stack([turn.rotate(q[b, :, run], at[b, run]) for b, turn in enumerate(turns)])
            blocks = [[self._turned(b, block, turn, at[b, run]) for block in held[b]] for b, turn in enumerate(turns)]
            mixed[:, :, run], lse[:, :, run] = streaming.attend(
                turned_queries, at[:, run], blocks, value_width=w.value_width, **around.arguments(self)
            )
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> some = np.ones((2, 2))
        >>> layer = BeforeRotation(Projections(some, some, some, some, 1, 1), Unchanging(Rotary.of(2)))
        >>> layer.cost(past=9, new=1).transcendental  # cosines and sines of 1 query and 10 keys, and the softmax
        34
        """
        w = self.projections
        total = around.cost(self, batch * new)
        total += around.schema_of(self).append_cost(past=past, new=new, batch=batch, page=self.page)
        keys = past + new
        for run, (turn,) in self._runs(np.arange(past, keys)[None]):
            count = run.stop - run.start
            total += turn.cost(rows=batch * w.heads * count, positions=batch * count)
            near = Span(past + run.start, past + run.stop - 1)
            met = sum(
                min(BLOCK, keys - start)
                for b in range(batch)
                for start in range(0, keys, BLOCK)
                if self._may_see(b, near, Span(start, min(start + BLOCK, keys) - 1))
            )
            total += turn.cost(rows=w.kv_heads * met, positions=met)
            shape = around.shape_of(self, near.low, count, batch, source=keys)
            total += attend_cost(shape, self.mask, **bends_of(self))
        return total

    def _runs(self, at: Positions) -> Iterator[tuple[slice, tuple[Rotary, ...]]]:
        """Neighbouring tokens that turn alike: where they stand, and the rotation of each sequence."""
        turns = [tuple(self.scheme.rotary_at(int(p) + 1) for p in column) for column in at.T]
        start = 0
        for turn, run in groupby(turns):
            stop = start + sum(1 for _ in run)
            yield slice(start, stop), turn
            start = stop

    def _may_see(self, b: int, q: Span, k: Span) -> bool:
        return self.mask is None or self.mask.block(b, q, k) is not Answer.NONE

    def _turned(self, b: int, block: KeyBlock, turn: Rotary, at: Any) -> KeyBlock:
        """The block with its keys turned, or as it is where none of these queries may see it."""
        near = Span(int(at.min()), int(at.max()))
        if not self._may_see(b, near, Span(int(block.positions.min()), int(block.positions.max()))):
            return block
        return turned(block, turn, block.positions)
