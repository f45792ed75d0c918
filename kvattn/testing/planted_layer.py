"""One attention layer in plain NumPy into which known faults can be planted, to see a check name them.

Written apart from `kvattn.variants` and from `kvattn.testing.layer_diagnosis`: a loop over sequences, heads and
queries, with the rotation of `kvattn.testing.planted_rotation`.  Each field that differs from its default plants one
fault.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.typing import Array


def rms(x: Array, w: Array, eps: float) -> Array:
    """Divide by the root mean square of the last axis, times weights.

    >>> rms(np.array([3.0, 4.0]), np.ones(2), 0.0).round(3)
    array([0.849, 1.131])
    """
    return np.asarray(x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * w)


def press(heads: int) -> list[float]:
    """ALiBi's slopes as the paper's authors wrote them.

    >>> press(2)
    [0.0625, 0.00390625]
    """
    if math.log2(heads).is_integer():
        start = 2 ** -(2 ** -(math.log2(heads) - 3))
        return [start * start**i for i in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return press(power) + press(2 * power)[0::2][: heads - power]


def _normalise(x: Array, w: Array) -> Array:
    return rms(x, w, 1e-6)


def _head(h: int, hq: int, hkv: int) -> int:
    return h // (hq // hkv)


def _project(joined: Array, w_o: Array) -> Array:
    return joined @ w_o


def _scale(d: int, heads: int, hidden: int) -> float:  # noqa: ARG001 - others need more
    return 1 / math.sqrt(d)


def _cap(product: float, scale: float) -> float:
    return product * scale


def _sees(i: int, j: int) -> bool:
    return j <= i


def _pads(valid: Any) -> Any:
    return valid


def _part(before: Any, count: int, right: Any) -> Any:  # noqa: ARG001 - others need more
    return right


def _heads_order(h: int, hq: int, hkv: int) -> int:  # noqa: ARG001 - others need more
    return h


def _part_sees(i: int, j: int, begin: int, end: int) -> bool:  # noqa: ARG001 - others need more
    return j <= i


@dataclass
class PlantedLayer:
    """A callable of the contract's form (`kvattn.testing.layer_targets`) with planted faults.

    Attributes
    ----------
    rotate
        Rotation of queries and keys; None for none.
    rotates_values
        Values are turned as keys are.
    norm, normalise, norm_before
        Whether queries and keys are normed, how, and whether before the rotation.
    swaps_norms, norms_keys, norms_queries
        The weights are exchanged; whether each is normed.
    slopes
        ALiBi's slope of each head, as a function of their number; None for none.
    key_head, value_head
        Head of keys and of values for query head h, of Hq and Hkv.
    query_place, joined_place
        Which head of the columns of ``w_q`` query head h is; which head stands at place h of the joined ones.
    columns
        Order in which the columns of ``w_q``, ``w_k``, ``w_v`` hold heads and features: ``"hd"`` or ``"dh"`` each.
    rows
        Axes of the mix [B, H, T, D] before it is flattened to [B, T, H·D].
    project
        What is done to the joined heads, given ``w_o``.
    scale
        Of the scores, from D, Hq and M.
    cap
        Softcap: what becomes of the raw product and the scale.
    sees
        Whether a query at row i sees row j.
    pads
        What is visible, made of ``valid``.
    part
        Positions of a later call, made of how many tokens came before and the number of new ones, per row, given
        those that are right.
    keeps_given
        Whether positions that are given are used as they are in a later call.
    own
        Of a layer that shares another's keys and values: what its own matrices make, both in a ``"first"`` call or
        ``"always"``, ``"keys"`` or ``"values"``; nothing if empty.
    offset_after
        Where no positions are given, queries stand after the tokens of the call.
    part_sees
        As ``sees`` in a later call, with rows counted over all tokens, and the rows at which the call begins and ends.
    remembers
        Whether a later call sees what came before.
    counts_pads
        Whether a row of padding has a position of its own, in the first call and in later ones.
    dropout
        Share of weights that is dropped, always.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> PlantedLayer()(np.array([[[0.0], [4.0]]]), w_q=one, w_k=one, w_v=one, w_o=one, heads=1)[0, :, 0].round(4)
    array([0., 4.])
    """

    rotate: PlantedRotation | None = None
    rotates_values: bool = False
    norm: bool = False
    normalise: Callable[[Array, Array], Array] = field(default_factory=lambda: _normalise)
    norm_before: bool = True
    swaps_norms: bool = False
    norms_keys: bool = True
    norms_queries: bool = True
    slopes: Callable[[int], Any] | None = None
    key_head: Callable[[int, int, int], int] = field(default_factory=lambda: _head)
    value_head: Callable[[int, int, int], int] = field(default_factory=lambda: _head)
    query_place: Callable[[int, int, int], int] = field(default_factory=lambda: _heads_order)
    joined_place: Callable[[int, int, int], int] = field(default_factory=lambda: _heads_order)
    columns: tuple[str, str, str] = ("hd", "hd", "hd")
    rows: tuple[int, int, int, int] = (0, 2, 1, 3)
    project: Callable[[Array, Array], Array] = field(default_factory=lambda: _project)
    scale: Callable[[int, int, int], float] = field(default_factory=lambda: _scale)
    cap: Callable[[float, float], float] = field(default_factory=lambda: _cap)
    sees: Callable[[int, int], bool] = field(default_factory=lambda: _sees)
    pads: Callable[[Any], Any] = field(default_factory=lambda: _pads)
    part: Callable[[Any, int, Any], Any] = field(default_factory=lambda: _part)
    keeps_given: bool = False
    own: Literal["", "first", "always", "keys", "values"] = ""
    offset_after: bool = False
    part_sees: Callable[[int, int, int, int], bool] = field(default_factory=lambda: _part_sees)
    remembers: bool = True
    counts_pads: tuple[bool, bool] = (False, False)
    dropout: float = 0.0
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __call__(
        self,
        x: Array,
        *,
        w_q: Array,
        w_k: Array,
        w_v: Array,
        w_o: Array,
        heads: int,
        kv_heads: int | None = None,
        q_norm: Array | None = None,
        k_norm: Array | None = None,
        positions: NDArray[np.int64] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> Array:
        """Attend, without a cache."""
        norms = (q_norm, k_norm)
        return self.step(x, (w_q, w_k, w_v, w_o), (heads, kv_heads or heads), norms, positions, valid, None)[0]

    def cached(
        self,
        x: Array,
        *,
        w_q: Array,
        w_k: Array,
        w_v: Array,
        w_o: Array,
        heads: int,
        kv_heads: int,
        q_norm: Array | None = None,
        k_norm: Array | None = None,
        positions: NDArray[np.int64] | None = None,
        valid: NDArray[np.bool_] | None = None,
        cache: Any = None,
    ) -> tuple[Array, Any]:
        """Attend and remember.

        >>> one = np.ones((1, 1))
        >>> PlantedLayer().cached(np.ones((1, 1, 1)), w_q=one, w_k=one, w_v=one, w_o=one, heads=1, kv_heads=1)[0]
        array([[[1.]]])
        """
        return self.step(x, (w_q, w_k, w_v, w_o), (heads, kv_heads), (q_norm, k_norm), positions, valid, cache)

    def sharing(
        self,
        x: Array,
        *,
        w_q: Array,
        w_k: Array,
        w_v: Array,
        w_o: Array,
        heads: int,
        kv_heads: int,
        own_k: Array,
        own_v: Array,
        positions: NDArray[np.int64] | None = None,
        valid: NDArray[np.bool_] | None = None,
        cache: Any = None,
    ) -> tuple[Array, Any]:
        """Attend to the keys and values of another layer, which are made with ``w_k`` and ``w_v``.

        >>> one = np.ones((1, 1))
        >>> given = {"w_q": one, "w_k": one, "w_v": one, "w_o": one, "heads": 1, "kv_heads": 1}
        >>> PlantedLayer(own="first").sharing(one[None], **given, own_k=one, own_v=2 * one)[0]
        array([[[2.]]])
        """
        weights, norms = (w_q, w_k, w_v, w_o), (None, None)
        return self.step(x, weights, (heads, kv_heads), norms, positions, valid, cache, (own_k, own_v))

    def step(
        self,
        x: Array,
        weights: tuple[Array, ...],
        counts: tuple[int, int],
        norms: tuple[Array | None, Array | None],
        positions: NDArray[np.int64] | None,
        valid: NDArray[np.bool_] | None,
        cache: Any,
        own: tuple[Array, ...] = (),
    ) -> tuple[Array, Any]:
        """Attend with new tokens and a cache ``(k, v, valid, positions)``, or None.

        >>> one = np.ones((1, 1))
        >>> PlantedLayer().step(np.ones((1, 1, 1)), (one,) * 4, (1, 1), (None, None), None, None, None)[0]
        array([[[1.]]])
        """
        hq, hkv = counts
        batch, new, hidden = x.shape
        width = weights[0].shape[1] // hq
        q, k, v = (
            self._heads(x @ w, n, order) for w, n, order in zip(weights[:3], (hq, hkv, hkv), self.columns, strict=True)
        )
        q = np.stack([q[:, self.query_place(h, hq, hkv)] for h in range(hq)], 1)
        begin = 0 if cache is None else cache[0].shape[2]
        held = np.ones((batch, new), np.bool_) if valid is None else valid
        at = self._places(begin, new, held, positions, cache)
        late = new if self.offset_after and positions is None else 0
        own_k, own_v = self._own(x, own, (k, v), hkv, cache is None)
        source = list(self._bent(q, k, v, at, late, norms)[1:])
        q, k, v = self._bent(q, own_k, own_v, at, late, norms)
        at = at if at.ndim == 2 else at[0]
        all_at = at
        if cache is not None:
            k, v = np.concatenate([cache[0], k], 2), np.concatenate([cache[1], v], 2)
            source = [np.concatenate(pair, 2) for pair in zip(cache[:2], source, strict=True)]
            held, all_at = np.concatenate([cache[2], held], 1), np.concatenate([cache[3], at], 1)
        visible = held if held.all() else self.pads(held)
        tilt = np.zeros(hq) if self.slopes is None else np.asarray(self.slopes(hq))
        scale = self.scale(width, hq, hidden)
        mixed = np.zeros((batch, hq, new, width))
        for b, h, t in np.ndindex(batch, hq, new):
            i = begin + t
            keys = [
                j
                for j in range(begin + new)
                if (self.part_sees(i, j, begin, begin + new) if begin else self.sees(i, j))
                and visible[b, j]
                and (self.remembers or j >= begin)
            ]
            if not keys:
                continue
            raw = k[b, self.key_head(h, hq, hkv), keys] @ q[b, h, t]
            scores = np.array([self.cap(float(value), scale) for value in raw])
            scores = scores - tilt[h] * (at[b, t] - all_at[b, keys])
            weight = np.exp(scores - scores.max())
            weight = weight / weight.sum()
            if self.dropout:
                weight = weight * (self.random.random(weight.shape) >= self.dropout) / (1 - self.dropout)
            mixed[b, h, t] = weight @ v[b, self.value_head(h, hq, hkv), keys]
        mixed = np.stack([mixed[:, self.joined_place(h, hq, hkv)] for h in range(hq)], 1)
        joined = mixed.transpose(self.rows).reshape(batch, new, hq * width)
        kept = source if self.own == "first" else (k, v)
        return self.project(joined, weights[3]).astype(x.dtype), (*kept, held, all_at)

    def _places(self, begin: int, new: int, held: Any, positions: Any, cache: Any) -> Any:
        batch = held.shape[0]
        if positions is not None:
            right = positions
        else:
            before = np.zeros((batch, 1), np.int64) if cache is None else cache[2].sum(1, keepdims=True)
            right = np.maximum(np.cumsum(held, 1) - 1 + before, 0)
            if self.counts_pads[int(begin > 0)]:
                right = begin + np.arange(new) + np.zeros((batch, 1), np.int64)
        kept = positions is not None and self.keeps_given
        return self.part(begin, new, right) if begin and not kept else right

    def _bent(
        self, q: Array, k: Array, v: Array, at: Any, late: int, norms: tuple[Array | None, Array | None]
    ) -> tuple[Array, Array, Array]:
        """Norms and rotations."""
        if self.norm and self.norm_before:
            q, k = self._normed(q, k, norms)
        if self.rotate is not None:
            q, k = self.rotate(q, k, at + late)[0], self.rotate(q, k, at)[1]
            v = self.rotate(q, v, at)[1] if self.rotates_values else v
        if self.norm and not self.norm_before:
            q, k = self._normed(q, k, norms)
        return q, k, v

    def _own(self, x: Array, own: tuple[Array, ...], source: tuple[Array, Array], heads: int, first: bool) -> Any:
        """Keys and values that are attended to, before norms and rotations."""
        if not own or not self.own or (self.own == "first" and not first):
            return source
        k, v = (self._heads(x @ w, heads, "hd") for w in own)
        return (source[0] if self.own == "values" else k, source[1] if self.own == "keys" else v)

    def _heads(self, flat: Array, count: int, order: str) -> Array:
        batch, length, total = flat.shape
        if order == "dh":
            return flat.reshape(batch, length, total // count, count).transpose(0, 3, 1, 2)
        return flat.reshape(batch, length, count, total // count).transpose(0, 2, 1, 3)

    def _normed(self, q: Array, k: Array, norms: tuple[Array | None, Array | None]) -> tuple[Array, Array]:
        ones = np.ones(q.shape[3])
        w_q, w_k = (ones if w is None else w for w in (norms[::-1] if self.swaps_norms else norms))
        q = self.normalise(q, w_q) if self.norms_queries else q
        k = self.normalise(k, w_k) if self.norms_keys else k
        return q, k
