"""Memory rows: a few learned keys and values that every query sees beside those of the tokens.

    o_h = softmax([scale · q_h m_gᵀ ; mask(scale · q_h k_gᵀ)]) [n_g ; v_g],      m [m, D] and n [m, Dv] learned

They hold what does not depend on the input, as a feed-forward layer does, and take up weight that no token should have.

Shapes: as `kvattn.variants.dense.grouped`, and ``m [Hkv, m, D]``, ``n [Hkv, m, Dv]``.  Memory rows have no positions:
no mask hides them, and ``query_key`` leaves them as they are.
Cached per token: ``Hkv · (D + Dv)`` numbers; the memory rows are weights and are in no cache.
Cost: `Grouped`, attention over m more keys, whose bytes count as read like those of cached rows, and joining the
two parts by log-sum-exp (`kvattn.core.merge`).

Source: Sukhbaatar et al. 2019 (1907.01470) §3 (persistent vectors).
Where libraries differ: x-transformers (``num_mem_kv``) puts them in front of the tokens, torch's ``add_bias_kv`` one
row behind them: the same sum.  With query-key norm x-transformers norms them like keys.  One row of zeros is
torch's ``add_zero_attn``, softmax with one added to its denominator, or a sink of logit 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.axes import sizes
from kvattn.caches.blocks import BLOCK, blocks_of
from kvattn.caches.cache import C
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue
from kvattn.core.accounting import attend_cost
from kvattn.core.merge import merge_cost
from kvattn.core.pipeline import bends_of, settle
from kvattn.counting import Tally
from kvattn.errors import DtypeError
from kvattn.masks.causal import Causal
from kvattn.typing import Array, Attended, Finish, Mask, Positions, QueryKey
from kvattn.variants.dense import around
from kvattn.variants.dense.merged import joined, side_by_side
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import weights_of


@dataclass(frozen=True, eq=False)
class MemoryRows:
    """A grouped layer with learned rows beside its tokens.

    Parameters
    ----------
    projections
        The four matrices and the head counts.
    keys, values
        ``[Hkv, m, D]`` and ``[Hkv, m, Dv]``, m >= 1; D is that of keys as ``query_key`` leaves them.
    mask, query_key, finish, scale, softcap, page
        As in `kvattn.variants.dense.grouped.Grouped`; none but ``finish`` touches the memory rows.

    Raises
    ------
    ShapeError, DtypeError
        Rows that do not fit the projections.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
    >>> layer = MemoryRows(w, np.zeros((1, 1, 1)), np.full((1, 1, 1), 9.0), scale=0.0)
    >>> layer.step(layer.start(), np.array([[[1.0], [5.0]]]))[0].out.ravel()
    array([5., 5.])
    """

    projections: Projections
    keys: Array
    values: Array
    mask: Mask | None = Causal()  # noqa: RUF009 a frozen value
    query_key: Sequence[QueryKey] = ()
    finish: Sequence[Finish] = ()
    scale: float | None = None
    softcap: float | None = None
    page: int = BLOCK

    def __post_init__(self) -> None:
        w = self.projections
        settle(self, w.heads, w.dtype)
        rows = {name: weights_of(name, getattr(self, name), 3) for name in ("keys", "values")}
        sizes(
            ("keys", rows["keys"], f"{w.kv_heads} m {around.widths(self)[-1]}"),
            ("values", rows["values"], f"{w.kv_heads} m {w.value_width}"),
        )
        for name, held in rows.items():
            if held.dtype != w.dtype:
                raise DtypeError(f"{name} must have the dtype of the weights, {w.dtype}, got {held.dtype}")
            object.__setattr__(self, name, held)

    def definition(self, x: Array, positions: Positions) -> Attended:
        """One softmax on whole matrices.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.definition`.

        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = MemoryRows(w, np.zeros((1, 1, 1)), np.full((1, 1, 1), 9.0), scale=0.0)
        >>> layer.definition(np.array([[[1.0]]]), np.arange(1)).out
        array([[[5.]]])
        """
        heads = around.whole_heads(self, x, positions)
        _, at, q, k, v = heads
        beside = KeyValue(*(np.broadcast_to(rows, (len(q), *rows.shape)) for rows in (self.keys, self.values)))
        mixed, lse = side_by_side(q, KeyValue(k, v), beside, at, beside_mask=None, **around.arguments(self))
        return Attended(around.whole_output(self, heads, mixed), lse)

    def start(self, batch: int = 1) -> Paged[KeyValue]:
        """The empty cache for ``batch`` sequences.

        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> MemoryRows(w, np.ones((1, 1, 1)), np.ones((1, 1, 1))).start(2)
        Paged(KeyValue, page=256, lengths=(0, 0))
        """
        return Paged.start(around.schema_of(self), batch, self.page)

    def step(self, cache: C, x: Array) -> tuple[Attended, C]:
        """Attend with any number of new tokens, and remember them.

        Parameters are those of `kvattn.variants.dense.grouped.Grouped.step`.

        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> layer = MemoryRows(w, np.ones((1, 1, 1)), np.ones((1, 1, 1)))
        >>> layer.step(layer.start(), np.ones((1, 3, 1)))[1].length
        3
        """
        heads = around.new_heads(self, cache, x)
        _, at, q, k, v = heads
        cache = cache.append(KeyValue(k, v), positions=at)
        own = [cache.blocks(b) for b in range(cache.batch)]
        rows = blocks_of(self.keys, self.values, np.arange(self.keys.shape[1]))
        mixed, lse = joined(q, at, own, [rows] * cache.batch, value_width=v.shape[3], **around.arguments(self))
        return Attended(around.new_output(self, heads, mixed), lse), cache

    def cost(self, *, past: int, new: int, batch: int = 1) -> Tally:
        """What `step` counts, in closed form, for a cache that nobody else has extended.

        >>> one = np.ones((1, 1))
        >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
        >>> MemoryRows(w, np.ones((1, 3, 1)), np.ones((1, 3, 1))).cost(past=9, new=1).pairs_computed
        13
        """
        w, rows = self.projections, batch * new
        total = around.cost(self, rows)
        total += around.schema_of(self).append_cost(past=past, new=new, batch=batch, page=self.page)
        total += attend_cost(around.shape_of(self, past, new, batch), self.mask, **bends_of(self))
        total += attend_cost(around.shape_of(self, past, new, batch, source=self.keys.shape[1]), **bends_of(self))
        return total + merge_cost(rows * w.heads, parts=2, width=w.value_width)
