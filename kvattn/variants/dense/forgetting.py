"""Forgetting attention (FoX): each token sets, for each head, how much of everything before it stays.

    f_t  =  sigmoid(x_t W_f + b_f),      s[h, i, j]  =  scale · q_i k_jᵀ  +  Σ_(t = j+1 .. i)  ln f_t[h]

The sum is ``c_i - c_j`` with the running sum ``c_t = ln f_1 + … + ln f_t``, so a cached key needs its own c_j
and nothing about later tokens.  It is ALiBi with a slope that the data choose, and is also known as
data-dependent ALiBi.  Keys ahead of the query would be rewarded: the mask is causal.

Shapes: ``x [B, T, M]``, ``W_f [M, Hq]``, ``b_f [Hq]``; the rest as in `kvattn.variants.dense.grouped`.
Cached per token: a key and a value for each key/value head and c for each query head, in float64
whatever the layer's dtype: ``Hkv · (D + Dv)`` numbers and Hq doubles.  c grows with the sequence while
differences of neighbours stay small: in float32 10,000 tokens with f = 1/2 leave 4 digits of them.
c is added one token after the other, from the cached last one on, so no cut shows in its bits; taking
tokens back takes their c back.
Cost of T new tokens: as grouped attention, ``2·T·M·Hq`` for the gates, 4 operations and 2
transcendental ones for each gate, 2 per computed pair.

Source: Lin et al. 2025 (arXiv 2503.02130) §3; one gate for each query head: its released code.
Where libraries differ: the FLA reference and x-transformers keep the running sum in float32, as whole
sequences go through at once; x-transformers can do both directions, and starts b_f at 5.  FoX "Pro" adds
norms of queries and keys, a norm and a gate of the output (``query_key``, ``finish``) and a shift of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvattn import ops
from kvattn.axes import sizes
from kvattn.caches.blocks import BLOCK, KeyBlock
from kvattn.caches.paged import Paged
from kvattn.caches.rows import Field, Schema
from kvattn.core import streaming
from kvattn.core.accounting import attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError
from kvattn.masks.causal import Causal
from kvattn.mods.bias import Bias
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Place, Positions, QueryKey
from kvattn.variants.dense import around
from kvattn.variants.dense.projections import Projections


class KeyValueFade(NamedTuple):
    """Keys ``[B, Hkv, T, D]``, values ``[B, Hkv, T, Dv]`` and running sums ``[B, 1, T, Hq]`` in float64."""

    k: Array
    v: Array
    fade: Array


@dataclass(frozen=True)
class Faded:
    """``c_i - c_j`` from the notes of queries and keys, as a mod.

    Raises
    ------
    ArgumentError
        Later, when a caller has no notes.

    Examples
    --------
    >>> at = np.zeros((1, 1, 1), np.int64)
    >>> place = Place(0, at, None, at, at, query_notes=np.array([[[-3.0]]]), key_notes=np.array([[-1.0, -3.0]]))
    >>> Faded()(np.zeros((1, 1, 2)), place)
    array([[[-2.,  0.]]])
    """

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the difference of running sums, rounded once to their dtype."""
        if place.query_notes is None or place.key_notes is None:
            raise ArgumentError("place must have query_notes and key_notes with running sums, got None")
        fade = place.query_notes[..., :1] - place.key_notes[np.asarray(place.heads)[..., 0]]
        bent: Array = scores + fade.astype(scores.dtype, copy=False)
        return bent

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference and an addition for each score.

        >>> Faded().cost(pairs=4, width=8)
        Tally(arithmetic=8)
        """
        return Tally(arithmetic=2 * pairs)


@dataclass(frozen=True, eq=False)
class Forgetting:
    """A layer with forget gates.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    gate, gate_bias
        ``[M, Hq]`` and ``[Hq]``, W_f and b_f; copied.
    mask, query_key, finish, mods, scale, softcap, sinks, page
        As in `kvattn.variants.dense.grouped.Grouped`; ``mods`` come after the fade.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Forgetting(Projections(one, one, one, one, heads=1, kv_heads=1), one, np.zeros(1))
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: Projections
    gate: Array
    gate_bias: Array
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        settle(self, w.heads, w.dtype)
        for name, wanted in (("gate", f"{w.hidden} {w.heads}"), ("gate_bias", f"{w.heads}")):
            held = np.array(getattr(self, name))
            if held.dtype != w.dtype:
                raise DtypeError(f"{name} must have the dtype of the weights, {w.dtype}, got {held.dtype}")
            sizes((name, held, wanted))
            held.flags.writeable = False
            object.__setattr__(self, name, held)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The paper's equation on the whole sequence: each pair's sum of logarithms, added by itself.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``, increasing.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Forgetting(Projections(one, one, one, one, heads=1, kv_heads=1), one, np.zeros(1))
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        heads = around.whole_heads(self, x, positions)
        x, at, q, k, v = heads
        length = x.shape[1]
        kept = -np.logaddexp(
            0.0, -(np.einsum("btm,mh->bht", x, self.gate) + self.gate_bias[:, None]).astype(np.float64)
        )
        later = np.tri(length, k=-1, dtype=np.bool_)  # [t, j]: token t comes after token j
        fade = np.where(later, kept[..., None], 0.0).cumsum(axis=2)  # [B, Hq, i, j], 0 where j is not before i
        fade -= fade.swapaxes(2, 3)
        arguments = around.arguments(self, mods=(Bias(fade, at, at), *self.mods))
        mixed, lse = definition(q, k, v, q_positions=at, k_positions=at, **arguments)
        return Attended(around.whole_output(self, heads, mixed), lse)

    @property
    def schema(self) -> Schema[KeyValueFade]:
        """What a token leaves in the cache.

        >>> one = np.ones((1, 1), np.float32)
        >>> weights = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> Forgetting(weights, one, np.zeros(1, np.float32)).schema.nbytes  # two floats and a double
        16
        """
        w = self.projections
        return Schema(
            KeyValueFade,
            (
                Field("k", w.kv_heads, w.width, w.dtype, keys=True),
                Field("v", w.kv_heads, w.value_width, w.dtype),
                Field("fade", 1, w.heads, np.float64, keys=True),
            ),
        )

    def start(self, batch: int = 1) -> Paged[KeyValueFade]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Forgetting(Projections(one, one, one, one, heads=1, kv_heads=1), one, np.zeros(1)).start(2)
        Paged(KeyValueFade, page=256, lengths=(0, 0))
        """
        return Paged.start(self.schema, batch, self.page)

    def step(self, cache: Paged[KeyValueFade], x: Array) -> tuple[Attended, Paged[KeyValueFade]]:
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
        >>> one = np.ones((1, 1))
        >>> layer = Forgetting(Projections(one, one, one, one, heads=1, kv_heads=1), one, np.zeros(1))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        w = self.projections
        heads = around.new_heads(self, cache, x)
        x, at, q, k, v = heads
        fade = self._fade(cache, x)  # [B, T, Hq]
        cache = cache.append(KeyValueFade(k, v, fade[:, None]), positions=at)
        blocks = [_blocks(cache, b) for b in range(cache.batch)]
        notes = np.ascontiguousarray(fade.swapaxes(1, 2))[..., None]
        arguments = around.arguments(self, mods=(Faded(), *self.mods))
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.value_width, query_notes=notes, **arguments)
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def _fade(self, cache: Paged[KeyValueFade], x: Array) -> Array:
        """Running sums of the new tokens, ``[B, T, Hq]``, from the last cached one on."""
        gates = (ops.contract(x, self.gate, weights=True) + self.gate_bias).astype(np.float64)
        kept = -ops.softplus(-gates)
        charge(Tally(arithmetic=2 * kept.size))  # the bias, and the running sum
        last = np.zeros((len(x), 1, kept.shape[2]))
        for b, length in enumerate(cache.lengths):
            if length:
                last[b] = cache.rows(length - 1, length, sequence=b).fade[0, 0]
        return np.add.accumulate(np.concatenate([last, kept], axis=1), axis=1)[:, 1:]

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Forgetting(Projections(one, one, one, one, heads=1, kv_heads=1), one, np.zeros(1))
        >>> layer.cost(past=9, new=1).pairs_computed
        10
        """
        w = self.projections
        rows = batch * new
        total = around.cost(self, rows)
        total += ops.contract_cost(rows, self.gate.shape, self.gate.itemsize)
        total += Tally(arithmetic=4 * rows * w.heads, transcendental=2 * rows * w.heads)
        total += self.schema.append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = around.shape_of(self, past, new, batch)
        bends = bends_of(self) | {"mods": (Faded(), *self.mods)}
        return total + attend_cost(shape, self.mask, notes=8 * w.heads, **bends)


def _blocks(cache: Paged[KeyValueFade], sequence: int) -> tuple[KeyBlock, ...]:
    """A sequence's keys and values, with running sums as notes."""
    return tuple(
        KeyBlock(block.start, block.arrays[0], block.arrays[1], block.positions, block.held, notes=block.arrays[2][0])
        for block in cache.raw_blocks(sequence)
    )
