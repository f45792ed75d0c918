"""Attention whose queries bring their own bias over distance: relative projection (Inkling).

    r_i  =  x_i W_r,      s[h, i, j]  =  scale · q_i k_jᵀ  +  Σ_r  r_i[h, r] · curves[r, i - j],    0 <= i - j < extent

Shapes: ``x [B, T, M]``, ``W_r [M, Hq·R]``, curves ``[R, extent]``; the rest as in `kvattn.variants.dense.grouped`.
Cached per token: a key and a value for each key/value head, ``Hkv · (D + Dv)`` numbers; r belongs to a
query and is not kept.
Cost of T new tokens: as grouped attention, ``2·T·M·Hq·R`` for r, and ``2·R + 1`` per computed pair.

Source: Thinking Machines 2026, Inkling, as implemented in transformers (``InklingAttention``); no paper.
Where libraries differ: Inkling has no rotation, norms queries and keys per head and therefore scales
by 1/D; short convolutions over keys and values come before them.  In its global layers a temperature
multiplies queries and bias alike: give it in ``query_key`` and in ``relative_key``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn import ops
from kvattn.axes import sizes
from kvattn.caches.blocks import BLOCK
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.core import streaming
from kvattn.core.accounting import attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally
from kvattn.errors import DtypeError
from kvattn.masks.causal import Causal
from kvattn.positions.relative_projection import RelativeProjection
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Positions, QueryKey
from kvattn.variants.dense import around
from kvattn.variants.dense.projections import Projections, split


@dataclass(frozen=True, eq=False)
class RelativeProjected:
    """A layer with a relative projection bias.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    relative
        ``[M, Hq·R]``, W_r; copied.
    curves
        The mod that mixes them, as `kvattn.positions.relative_projection.RelativeProjection`.
    relative_key
        What is done to r, in order, as queries: temperatures.
    mask, query_key, finish, mods, scale, softcap, sinks, page
        As in `kvattn.variants.dense.grouped.Grouped`; ``mods`` come after the bias.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = RelativeProjected(
    ...     Projections(one, one, one, one, heads=1, kv_heads=1), one, RelativeProjection([[0.0, 2.0]])
    ... )
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: Projections
    relative: Array
    curves: RelativeProjection
    relative_key: Sequence[QueryKey] = ()
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
        object.__setattr__(self, "relative_key", tuple(self.relative_key))
        held = np.array(self.relative)
        if held.dtype != w.dtype:
            raise DtypeError(f"relative must have the dtype of the weights, {w.dtype}, got {held.dtype}")
        sizes(("relative", held, f"{w.hidden} {w.heads * len(self.curves.curves)}"))
        held.flags.writeable = False
        object.__setattr__(self, "relative", held)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The equation on the whole sequence.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> weights = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = RelativeProjected(weights, one, RelativeProjection([[1.0]]))
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).lse
        array([[[2.]]])
        """
        w = self.projections
        heads = around.whole_heads(self, x, positions)
        x, at, q, k, v = heads
        r = np.einsum("btm,mhr->bhtr", x, self.relative.reshape(w.hidden, w.heads, -1))
        for part in self.relative_key:
            r = part.queries(r, at[:, None, :])
        mods = (self.curves, *self.mods)
        mixed, lse = definition(
            q, k, v, q_positions=at, k_positions=at, query_notes=r, **around.arguments(self, mods=mods)
        )
        return Attended(around.whole_output(self, heads, mixed), lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> weights = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> RelativeProjected(weights, one, RelativeProjection([[1.0]])).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        return Paged.start(around.schema_of(self), batch, self.page)

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
        >>> one = np.ones((1, 1))
        >>> weights = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = RelativeProjected(weights, one, RelativeProjection([[1.0]]))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].lse
        array([[[2.]]])
        """
        w = self.projections
        heads = around.new_heads(self, cache, x)
        x, at, q, k, v = heads
        r = split(ops.contract(x, self.relative, weights=True), w.heads)
        for part in self.relative_key:
            r = part.queries(r, at[:, None, :])
        cache = cache.append(KeyValue(k, v), positions=at)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        arguments = around.arguments(self, mods=(self.curves, *self.mods))
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.value_width, query_notes=r, **arguments)
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> weights = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> RelativeProjected(weights, one, RelativeProjection([[1.0]])).cost(past=9, new=1).pairs_computed
        10
        """
        w = self.projections
        rows = batch * new
        total = around.cost(self, rows)
        total += ops.contract_cost(rows, self.relative.shape, self.relative.itemsize)
        for part in self.relative_key:
            total += part.queries_cost(tokens=rows, heads=w.heads, width=len(self.curves.curves))
        total += around.schema_of(self).append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = around.shape_of(self, past, new, batch)
        return total + attend_cost(shape, self.mask, **(bends_of(self) | {"mods": (self.curves, *self.mods)}))
