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
``h // G``); ONNX before 1.19 tiled them (``h % Hkv``), and x-transformers does.  Whether rotation comes
before or after caching, and which pairs rotate, differs by model; here keys are cached rotated, and
`kvattn.variants.dense.before_rotation` caches them as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kvattn.caches.blocks import BLOCK
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.core import streaming
from kvattn.core.accounting import attend_cost
from kvattn.core.definition import definition
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Finish, Mask, Mod, Positions, QueryKey
from kvattn.variants.dense import around
from kvattn.variants.dense.projections import Projections


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
    >>> import numpy as np
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
        >>> import numpy as np
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[1.]]])
        """
        heads = around.whole_heads(self, x, positions)
        _, at, q, k, v = heads
        mixed, lse = definition(q, k, v, q_positions=at, k_positions=at, **around.arguments(self))
        return Attended(around.whole_output(self, heads, mixed), lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> import numpy as np
        >>> one = np.ones((1, 1))
        >>> Grouped(Projections(one, one, one, one, heads=1, kv_heads=1)).start(2)
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
        >>> import numpy as np
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.step(layer.start(), np.array([[[1.0]]]))[0].out
        array([[[1.]]])
        """
        heads = around.new_heads(self, cache, x)
        _, at, q, k, v = heads
        cache = cache.append(KeyValue(k, v), positions=at)
        blocks = [cache.blocks(b) for b in range(cache.batch)]
        mixed, lse = streaming.attend(q, at, blocks, value_width=v.shape[3], **around.arguments(self))
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> import numpy as np
        >>> one = np.ones((1, 1))
        >>> layer = Grouped(Projections(one, one, one, one, heads=1, kv_heads=1))
        >>> layer.cost(past=9, new=1).pairs_computed
        10
        """
        total = around.cost(self, batch * new)
        total += around.schema_of(self).append_cost(past=past, new=new, batch=batch, page=self.page)
        return total + attend_cost(around.shape_of(self, past, new, batch), self.mask, **bends_of(self))
