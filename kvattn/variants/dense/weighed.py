"""Grouped-query attention with another function in the softmax's place: a sigmoid, ReLU, sparsemax, a broken stick.

    o_h = weigh(mask(scale · q_h k_{h // G}ᵀ)) v_{h // G},    y = concat_h(o_h) W_o

The function is a value, one file each: `kvattn.variants.dense.sigmoid`, `kvattn.variants.dense.relu`,
`kvattn.variants.dense.softpick`, `kvattn.variants.dense.entmax`, `kvattn.variants.dense.stick_breaking`,
`kvattn.variants.dense.talking_heads`, `kvattn.variants.dense.contextual_positions`.

Shapes: ``x [B, T, M]``, ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``, weights ``[Hq, T, S]``.
Cached per token: a key and a value for each key/value head, ``Hkv · (D + Dv)`` numbers, whatever the weighing.
Cost: that of `kvattn.variants.dense.grouped` with the weighing's in the softmax's place; memory holds the
scores of about 256 / G queries with all keys.

Source: the weighings name theirs; grouped heads: Ainslie et al. 2023 (2305.13245) §2.
Where libraries differ: a row that sees no key mixes nothing, 0, for every weighing here; lse is NaN where
no softmax is taken, so that such parts cannot be merged by mistake.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import shown
from kvattn.caches.blocks import BLOCK
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.core import scored
from kvattn.core.pipeline import settle
from kvattn.core.scored import scored_cost
from kvattn.core.weights import Beside, Softmax, Weighing
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Place, Positions, QueryKey
from kvattn.variants.dense import around
from kvattn.variants.dense.projections import Projections


@dataclass(frozen=True, eq=False)
class Weighed:
    """An attention layer whose weights are made by a value.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    weighing
        Makes weights of scores: `kvattn.variants.dense.sigmoid.Sigmoid` and its like.
    mask
        Who may see whom; None lets every query see every key held at its step.
    beside
        What is mixed with the weights besides values: `kvattn.variants.dense.relative_values.RelativeValues`.
    query_key, finish, mods, scale, softcap, page
        As in `kvattn.variants.dense.grouped.Grouped`.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        A field that does not fit, named.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Weighed(Projections(one, one, one, one, heads=1, kv_heads=1))
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: Projections
    weighing: Weighing = Softmax()  # noqa: RUF009 a frozen value
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    beside: Sequence[Beside] = ()
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        settle(self, w.heads, w.dtype)
        if isinstance(self.weighing, type) or not hasattr(self.weighing, "weigh"):
            raise ArgumentError(f"weighing must be a value that makes weights of scores, got {shown(self.weighing)}")
        given = self.beside
        if not isinstance(given, (tuple, list)) or any(isinstance(b, type) or not hasattr(b, "mix") for b in given):
            raise ArgumentError(f"beside must be a sequence of what is mixed besides values, got {shown(given)}")
        object.__setattr__(self, "beside", tuple(given))
        if hasattr(self.weighing, "check"):
            self.weighing.check(heads=w.heads, width=around.widths(self)[-1], dtype=w.dtype)
        for further in given:
            if hasattr(further, "check"):
                further.check(heads=w.heads, value_width=w.value_width, dtype=w.dtype)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """The papers' equation on the whole sequence.

        Parameters
        ----------
        x
            ``[B, T, M]``.
        positions
            ``[T]`` or ``[B, T]``.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Weighed(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        w = self.projections
        heads = around.whole_heads(self, x, positions)
        at, q = heads.positions, heads.q
        k, v = (np.repeat(rows, w.heads // w.kv_heads, axis=1) for rows in (heads.k, heads.v))
        scores = np.einsum("bhtd,bhsd->bhts", q, k) * around.arguments(self)["scale"]
        if self.softcap is not None:
            scores = self.softcap * np.tanh(scores / self.softcap)
        every = np.arange(w.heads)[:, None, None]
        mixed, lse = np.zeros((*q.shape[:3], w.value_width), q.dtype), np.zeros(q.shape[:3], q.dtype)
        for b in range(len(q)):
            place = Place(b, every, q[b], at[b][None, :, None], at[b][None, None, :], k[b].swapaxes(1, 2))
            bent = scores[b]
            for mod in self.mods:
                bent = mod(bent, place)
            seen = np.ones(bent.shape, np.bool_)
            if self.mask is not None:
                seen &= self.mask(b, every, place.q_positions, place.k_positions)
            with np.errstate(all="ignore"):
                weights, lse[b] = self.weighing.definition(bent, seen, place)
            mixed[b] = np.einsum("hts,hsd->htd", weights, v[b])
            for further in self.beside:
                mixed[b] += further.definition(weights, place)
        return Attended(around.whole_output(self, heads, mixed), lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Weighed(Projections(one, one, one, one, heads=1, kv_heads=1)).start(2)
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
        >>> layer = Weighed(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        heads = around.new_heads(self, cache, x)
        cache = cache.append(KeyValue(heads.k, heads.v), positions=heads.positions)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        values = {"value_width": self.projections.value_width, "weighing": self.weighing, "beside": self.beside}
        mixed, lse = scored.attend(heads.q, heads.positions, blocks, **around.arguments(self, **values))
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Weighed(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.cost(past=9, new=1).pairs_computed
        10
        """
        total = around.cost(self, batch * new)
        total += around.schema_of(self).append_cost(past=past, new=new, batch=batch, page=self.page)
        shape, capped = around.shape_of(self, past, new, batch), self.softcap is not None
        return total + scored_cost(shape, self.weighing, self.mask, beside=self.beside, mods=self.mods, softcap=capped)
