"""Grouped-query attention: G query heads share one key/value head.

    o_h = softmax(mask(scale · q_h k_{h // G}ᵀ)) v_{h // G},    y = concat_h(o_h) W_o

With Hkv = Hq this is multi-head attention (MHA), with Hkv = 1 multi-query attention (MQA).

Between projection and product come norms, rotations and temperatures (``query_key``), between the mix
and ``W_o`` gates (``finish``), each in the order given.

Shapes: ``x [B, T, M]``, ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``.
Cached per token: a key as ``query_key`` leaves it and a value for each key/value head,
``Hkv · (D + Dv)`` numbers.
Cost of T new tokens behind P: projections ``2·T·M·(Hq·D + Hkv·(D + Dv) + Hq·Dv)`` FLOPs, attention
``2·(D + Dv)·Hq`` per computed pair, and the cache is read once per step.

Source: Ainslie et al. 2023 (2305.13245) §2; MHA: Vaswani et al. 2017 (1706.03762) §3.2; MQA: Shazeer
2019 (1911.02150) §3.
Where libraries differ: a repeated key/value head must stay next to its copies (query head h reads
``h // G``); ONNX before 1.19 tiled them (``h % Hkv``).  Whether rotation comes before or after
caching, and which pairs rotate, differs by model; here keys are cached rotated, and
`kvattn.variants.dense.before_rotation` caches them as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arrays import positions as read_positions
from kvattn.caches.blocks import BLOCK
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, key_value
from kvattn.core import streaming
from kvattn.core.accounting import Shape, attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import arguments_of, bends_of, settle
from kvattn.counting import Tally
from kvattn.masks.ahead import check_cut
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Positions, QueryKey
from kvattn.variants.dense.projections import Projections, check_hidden


@dataclass(frozen=True, eq=False)
class Grouped:
    """A grouped-query attention layer.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    mask
        Who may see whom; None lets every query see every key held at its step.
    query_key
        What is done to queries and keys, in order: `kvattn.positions.Rotary`, norms, temperatures.
    finish
        What is done to the mix before the output projection, in order: gates.
    mods
        Bend the scores, in order.
    scale, softcap, sinks
        As in `kvattn.attend`.
    page
        Tokens per cache page; invisible in the result.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
    >>> x = np.array([[[1.0], [3.0]]])
    >>> attended, cache = layer.step(layer.start(), x)
    >>> bool(np.allclose(attended.out, layer.definition(x, np.arange(2)).out)), cache.length
    (True, 2)
    """

    projections: Projections
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    mods: Sequence[Mod] = ()
    scale: float | None = None
    softcap: float | None = None
    sinks: Array | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        settle(self, self.projections.heads, self.projections.dtype)

    @property
    def key_width(self) -> int:
        """Features of a cached key: D, unless a value of ``query_key`` widens rows.

        >>> from kvattn.positions import Polar
        >>> w = Projections(*(np.ones((1, 3)), np.ones((1, 3)), np.ones((1, 1)), np.ones((1, 1))), heads=1, kv_heads=1)
        >>> Grouped(w).key_width, Grouped(w, query_key=(Polar.of(3, 1),)).key_width
        (3, 6)
        """
        return self._widths[-1]

    def _arguments(self) -> dict[str, Any]:
        """The pipeline's; a scale that is not given is 1/sqrt(D) of the projection, however wide rows become."""
        return arguments_of(self) if self.scale is not None else arguments_of(self, scale=self.projections.width**-0.5)

    @property
    def _widths(self) -> list[int]:
        """The width that each value of ``query_key`` meets, and the last one's."""
        widths = [self.projections.width]
        for part in self.query_key:
            widths.append(part.widened(widths[-1]) if hasattr(part, "widened") else widths[-1])
        return widths

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
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
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
        mixed, lse = definition(q, k, v, q_positions=at, k_positions=at, **self._arguments())
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        out = np.einsum("bhtd,hdm->btm", mixed, w.output.reshape(w.heads, w.value_width, w.hidden))
        return Attended(out, lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        w = self.projections
        return Paged.start(key_value(w.kv_heads, self.key_width, w.value_width, w.dtype), batch, self.page)

    def step(self, cache: Paged[KeyValue], x: Array) -> tuple[Attended, Paged[KeyValue]]:
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
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        w = self.projections
        x = check_hidden("x", x, cache.batch, w.hidden, w.dtype)
        check_cut(self.mask, cache.lengths, x.shape[1], w.heads)
        at = np.array(cache.lengths)[:, None] + np.arange(x.shape[1])
        q, k, v = w.queries(x), w.keys(x), w.values(x)
        for part in self.query_key:
            q, k = part.queries(q, at[:, None, :]), part.keys(k, at[:, None, :])
        cache = cache.append(KeyValue(k, v))
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=w.value_width, **self._arguments())
        for last in self.finish:
            mixed = last.finish(mixed, x, at)
        return Attended(w.outputs(mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.cost(past=9, new=1).pairs_computed
        10
        """
        w = self.projections
        rows = batch * new
        total = w.cost(rows, "query", "key", "value", "output")
        for part, width in zip(self.query_key, self._widths, strict=False):
            total += part.queries_cost(tokens=rows, heads=w.heads, width=width)
            total += part.keys_cost(tokens=rows, heads=w.kv_heads, width=width)
        for last in self.finish:
            total += last.finish_cost(tokens=rows, heads=w.heads, width=w.value_width)
        schema = key_value(w.kv_heads, self.key_width, w.value_width, w.dtype)
        total += schema.append_cost(past=past, new=new, batch=batch, page=self.page)
        shape = Shape(w.heads, w.kv_heads, self.key_width, w.value_width, w.dtype.itemsize, past, new, batch)
        return total + attend_cost(shape, self.mask, **bends_of(self))
