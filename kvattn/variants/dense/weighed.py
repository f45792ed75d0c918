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
import math

import numpy as np

from kvattn.arguments import shown
from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value
from kvattn.core import scored
from kvattn.core.accounting import Shape
from kvattn.core.pipeline import arguments_of, settle
from kvattn.core.scored import scored_cost
from kvattn.core.weights import Beside, Softmax, Weighing
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Place, Positions, QueryKey
from kvattn.variants.dense.projections import Projections, check_hidden


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
            self.weighing.check(heads=w.heads, width=w.width, dtype=w.dtype)
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
        x = check_hidden("x", x, None, w.hidden, w.dtype)
        batch, length, _ = x.shape
        at = read_positions("positions", positions, batch, length)
        q = np.einsum("btm,mhd->bhtd", x, w.query.reshape(w.hidden, w.heads, w.width))
        k = np.einsum("btm,mhd->bhtd", x, w.key.reshape(w.hidden, w.kv_heads, w.width))
        v = np.einsum("btm,mhd->bhtd", x, w.value.reshape(w.hidden, w.kv_heads, w.value_width))
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
        k, v = (np.repeat(rows, w.heads // w.kv_heads, axis=1) for rows in (k, v))
        scale = 1.0 / math.sqrt(w.width) if self.scale is None else self.scale
        scores = np.einsum("bhtd,bhsd->bhts", q, k) * scale
        if self.softcap is not None:
            scores = self.softcap * np.tanh(scores / self.softcap)
        heads = np.arange(w.heads)[:, None, None]
        mixed = np.zeros((batch, w.heads, length, w.value_width), x.dtype)
        lse = np.zeros(mixed.shape[:3], x.dtype)
        for b in range(batch):
            place = Place(b, heads, q[b], at[b][None, :, None], at[b][None, None, :], k[b].swapaxes(1, 2))
            bent = scores[b]
            for mod in self.mods:
                bent = mod(bent, place)
            seen = np.ones(bent.shape, np.bool_)
            if self.mask is not None:
                seen &= self.mask(b, heads, place.q_positions, place.k_positions)
            with np.errstate(all="ignore"):
                weights, lse[b] = self.weighing.definition(bent, seen, place)
            mixed[b] = np.einsum("hts,hsd->htd", weights, v[b])
            for further in self.beside:
                mixed[b] += further.definition(weights, place)
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Weighed(Projections(one, one, one, one, heads=1, kv_heads=1)).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        w = self.projections
        return Paged.start(key_value(w.kv_heads, w.width, w.value_width, w.dtype), batch, self.page)

    def step(self, cache: Paged[KeyValue], x: Array) -> tuple[Attended, Paged[KeyValue]]:
        """Attend with any number of new tokens, and remember them.

        Parameters
        ----------
        cache
            What `start` or an earlier step returned; it stays valid.
        x
            ``[B, T, M]``, T >= 0.

        Examples
        --------
        >>> one = np.ones((1, 1))
        >>> layer = Weighed(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        at = np.array(cache.lengths)[:, None] + np.arange(x.shape[1])
        q, k, v = w.queries(x), w.keys(x), w.values(x)
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
        cache = cache.append(KeyValue(k, v))
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        values = {"value_width": w.value_width, "weighing": self.weighing, "beside": self.beside}
        mixed, lse = scored.attend(q, at, blocks, **arguments_of(self, **values))
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Weighed(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.cost(past=9, new=1).pairs_computed
        10
        """
        w = self.projections
        rows = batch * new
        total = w.cost(rows, "query", "key", "value", "output")
        for part in self.query_key:
            total += part.queries_cost(tokens=rows, heads=w.heads, width=w.width)
            total += part.keys_cost(tokens=rows, heads=w.kv_heads, width=w.width)
        for last in self.finish:
            total += last.finish_cost(tokens=rows, heads=w.heads, width=w.value_width)
        schema = key_value(w.kv_heads, w.width, w.value_width, w.dtype)
        total += schema.append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(w.heads, w.kv_heads, w.width, w.value_width, w.dtype.itemsize, past, new, batch)
        return total + scored_cost(
            shape, self.weighing, self.mask, beside=self.beside, mods=self.mods, softcap=self.softcap is not None
        )
