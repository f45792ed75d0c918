"""Attention in a stated `kvattn.testing.arithmetic`: every operation rounded to its format, sums in their order.

With ``fl`` rounding to ``compute``, ``+`` and ``·`` in ``accumulate``, for the tiles of keys one after the other::

    q, k, v   rounded to `inputs`
    s_j     = fl(fl(Σ_d q_d · k_jd) × fl(scale));  fl(cap × fl(tanh(fl(s / cap))));  fl(s + fl(bias))
    m'      = max(m, max_j s_j)                     a sink is the first m, with the total 1
    w_j     = fl(exp(fl(s_j - m')));                r = fl(exp(fl(m - m')))
    total   = r·total + Σ_j w_j                    p_j instead, where `totals` are "rounded"
    mix     = r·mix + Σ_j p_j · v_j                 p_j = w_j rounded to `probabilities`
    out     = fl(mix / total) rounded to `store`;   lse = fl(m + fl(log total))

Without tiles (0) the weights are divided by the total before they are rounded and mixed.  With one merge the weights
are ``fl(exp(fl(s_j - lse)))``; with more, as many parts of the keys are attended to apart, and their outputs added
with the weights ``fl(exp(fl(lse_i - lse)))``.

Shapes: ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``; scores of all pairs are held at once, so take
few queries where there are many keys.  Cost: a step of Python for each key and each of D, elementwise in all else.

Rounding a float64 result is rounding the exact one, for sums, products and quotients of numbers with up to 24 digits
(Figueroa 1995: 53 ≥ 2·24 + 2); where ``compute`` or ``accumulate`` is float64, float64 it is.  exp, tanh and log
are NumPy's in float64, rounded: as good as an ``exp_ulp`` of 0.5.  Sums with a ``sum_ulp`` of 1 or more are cut off,
towards zero.
"""

from collections.abc import Callable
from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import numpy as np

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.typing import Array, Attended, Visible

Round = Callable[[Any], Array]


class _Steps(NamedTuple):
    """The operations of an arithmetic, on numbers that are in its formats."""

    compute: Round
    product: Round
    addition: Round
    probabilities: Round
    store: Round
    arithmetic: Arithmetic

    def exp(self, x: Array) -> Array:
        return self.compute(np.exp(self.compute(x)))

    def sum(self, start: Any, term: Callable[[int], Array], count: int) -> Array:
        """``start`` and ``count`` products, in the order of the arithmetic."""

        def between(first: int, end: int) -> Array:
            if end - first == 1:
                return self.product(term(first))
            middle = (first + end + 1) // 2
            return self.addition(between(first, middle) + between(middle, end))

        found: Array = np.asarray(start)
        if self.arithmetic.order == "pairwise":
            return self.addition(found + between(0, count)) if count else found
        for n in range(count):
            found = self.addition(found + self.product(term(n)))
        return found

    def weights(self, start: Array, w: Array) -> Array:
        """Their running sum, ``[B, Hq, T]``."""
        return self.sum(start, lambda j: w[..., j], w.shape[3])

    def mix(self, start: Array, p: Array, v: Array) -> Array:
        """The running sum of weighted values; those without weight are not looked at."""
        return self.sum(
            start, lambda j: np.where(p[..., j, None] == 0, 0.0, p[..., j, None] * v[:, :, None, j]), p.shape[3]
        )


def emulate(
    q: Any,
    k: Any,
    v: Any,
    *,
    arithmetic: Arithmetic,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Any = None,
    visible: Visible | None = None,
    sinks: Any = None,
) -> Attended:
    """Attend in a stated arithmetic.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; Hq is a multiple of Hkv.
    arithmetic
        Formats, order and tiles.
    scale, softcap, sinks
        As in `kvattn.attend`.
    bias, visible
        Broadcast to ``[B, Hq, T, S]``; None for none, and where every key is seen.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]``, in the numbers of ``store``, and ``lse [B, Hq, T]`` in those of ``compute``, as float64.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 1, 2))
    >>> k, v = np.zeros((1, 1, 3, 2)), np.array([1.0, 1.0, 1.01])[None, None, :, None]
    >>> [emulate(q, k, v, arithmetic=Arithmetic(name)).out.item() for name in ("float32", "float16", "bfloat16")]
    [1.003333330154419, 1.0029296875, 1.0]
    """
    at = _steps(arithmetic)
    enter = _rounding(arithmetic.inputs)
    group = np.shape(q)[1] // max(np.shape(k)[1], 1)
    shape = (*np.shape(q)[:3], np.shape(k)[2])
    seen: Visible = np.ones(shape, np.bool_) if visible is None else np.broadcast_to(visible, shape)
    with np.errstate(all="ignore"):  # what overflows is meant to
        if bias is not None:
            bias = np.broadcast_to(np.asarray(bias, np.float64), shape)
            seen = seen & ~np.isneginf(bias)
            bias = at.compute(np.where(seen, bias, 0.0))
        q = enter(q)
        k, v = (enter(np.repeat(np.asarray(x, np.float64), group, axis=1)) for x in (k, v))
        factor = at.compute(1.0 / math.sqrt(max(q.shape[3], 1)) if scale is None else scale)
        s = at.sum(np.zeros(shape), lambda d: q[..., d, None] * k[:, :, None, :, d], q.shape[3])
        s = at.compute(at.compute(s) * factor)
        if softcap is not None:
            cap = at.compute(softcap)
            s = at.compute(cap * at.compute(np.tanh(at.compute(s / cap))))
        if bias is not None:
            s = at.compute(s + bias)
        s = np.where(seen, s, -np.inf)
        sink = None if sinks is None else at.compute(np.asarray(sinks, np.float64))[:, None]  # [Hq, 1]
        parts = np.array_split(np.arange(shape[3]), max(arithmetic.merges, 1))
        attend = _online if arithmetic.tiles and arithmetic.merges != 1 else _after
        found = [attend(at, s[..., part], v[:, :, part], None if n else sink) for n, part in enumerate(parts)]
        out, lse = _merged(at, found) if len(found) > 1 else found[0]
        return Attended(at.store(out), lse)


def _online(at: _Steps, s: Array, v: Array, sink: Array | None) -> Attended:
    """One tile of keys after the other; scores ``[B, Hq, T, S]``, -inf where hidden."""
    top, total = _opening(s, sink)
    mix: Array = np.zeros((*s.shape[:3], v.shape[3]))
    for tile in np.array_split(np.arange(s.shape[3]), min(at.arithmetic.tiles, max(s.shape[3], 1))):
        above = np.maximum(top, s[..., tile].max(axis=3, initial=-np.inf))
        safe = np.where(np.isneginf(above), 0.0, above)
        again, w = at.exp(top - safe), at.exp(s[..., tile] - safe[..., None])
        p = at.probabilities(w)
        total = at.weights(at.product(total * again), p if at.arithmetic.totals == "rounded" else w)
        mix = at.mix(at.product(mix * again[..., None]), p, v[:, :, tile])
        top = above
    some = np.where(total == 0, 1.0, total)[..., None]
    return Attended(at.compute(mix / some), _lse(at, top, total))


def _after(at: _Steps, s: Array, v: Array, sink: Array | None) -> Attended:
    """The whole softmax first, then the product."""
    first, start = _opening(s, sink)
    top = np.maximum(first, s.max(axis=3, initial=-np.inf))
    safe = np.where(np.isneginf(top), 0.0, top)
    w = at.exp(s - safe[..., None])
    total = at.weights(at.product(start * at.exp(first - safe)), w)
    lse = _lse(at, top, total)
    if at.arithmetic.merges == 1:
        p = at.exp(s - np.where(np.isneginf(lse), 0.0, lse)[..., None])
    else:
        p = at.compute(w / np.where(total == 0, 1.0, total)[..., None])
    mix: Array = np.zeros((*s.shape[:3], v.shape[3]))
    return Attended(at.compute(at.mix(mix, at.probabilities(p), v)), lse)


def _opening(s: Array, sink: Array | None) -> tuple[Array, Array]:
    """The first maximum and total: those of a sink, where there is one."""
    shape = s.shape[:3]
    if sink is None:
        return np.full(shape, -np.inf), np.zeros(shape)
    return np.broadcast_to(sink, shape), np.ones(shape)


def _lse(at: _Steps, top: Array, total: Array) -> Array:
    return at.compute(np.where(total == 0, 0.0, top) + at.compute(np.log(total)))


def _merged(at: _Steps, parts: list[Attended]) -> Attended:
    """Add results of parts of the keys, weighed by their log-sum-exps."""
    top = np.maximum.reduce([part.lse for part in parts])
    safe = np.where(np.isneginf(top), 0.0, top)
    total = at.sum(np.zeros_like(top), lambda n: at.exp(parts[n].lse - safe), len(parts))
    lse = at.compute(safe + at.compute(np.log(total)))
    whole = np.where(np.isneginf(lse), 0.0, lse)
    out = at.sum(
        np.zeros_like(parts[0].out), lambda n: at.exp(parts[n].lse - whole)[..., None] * parts[n].out, len(parts)
    )
    return Attended(at.compute(out), lse)


def _rounding(name: str) -> Round:
    """Rounding to a format; float64 is what all is computed in, and NumPy rounds to float32 itself, faster."""
    if name == "float32":
        return lambda x: np.asarray(x, np.float32).astype(np.float64)
    return np.asarray if name == "float64" else format_of(name).round


def _steps(arithmetic: Arithmetic) -> _Steps:
    compute, accumulate, probabilities, store = (
        _rounding(getattr(arithmetic, name)) for name in ("compute", "accumulate", "probabilities", "store")
    )
    cuts = arithmetic.sum_ulp >= 1 and arithmetic.accumulate != "float64"
    addition = format_of(arithmetic.accumulate).cut if cuts else accumulate
    return _Steps(compute, accumulate, addition, probabilities, store, arithmetic)


@dataclass(frozen=True)
class Emulated:
    """`emulate` as a callable of the plain contract (`kvattn.testing.targets`): something to check.

    Attributes
    ----------
    arithmetic
        Formats, order and tiles.

    Examples
    --------
    >>> from kvattn.testing.arithmetic import FLOAT32_BLAS
    >>> q = k = np.zeros((1, 1, 2, 2))
    >>> Emulated(FLOAT32_BLAS)(q, k, np.eye(2)[None, None], causal=True).out[0, 0]
    array([[1. , 0. ],
           [0.5, 0.5]])
    """

    arithmetic: Arithmetic

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
        bias: Array | None = None,
        mask: Visible | None = None,
    ) -> Attended:
        """Attend; shapes as in `kvattn.testing.targets`."""
        queries, keys = q.shape[2], k.shape[2]
        back = np.arange(queries)[:, None] + keys - queries - np.arange(keys)  # [T, S]
        seen = (back >= 0) | (not causal)
        if window is not None:
            seen &= back < window
        if mask is not None:
            seen = seen & mask
        more: dict[str, Any] = {"scale": scale, "softcap": softcap, "bias": bias, "sinks": sinks}
        return emulate(q, k, v, arithmetic=self.arithmetic, visible=seen, **more)
