"""How far correct code may stand from the exact answer: two bounds from the data and the arithmetic.

For one query, with ``s_j`` the scores that the softmax sees (scaled, capped, biased), ``m`` their maximum,
``p = softmax(s)`` and ``o = sum_j p_j v_j``, an error ``δ_j`` in score j moves the output by
``sum_j p_j δ_j (v_j - o)``: the softmax's derivative, in which whatever all scores share cancels.

**Worst case** (`Bounds.worst`; beyond it code is wrong).  A dot product of D terms has the error
``γ_D |q|·|k|``, ``γ_n = n u / (1 - n u)`` (Higham, *Accuracy and Stability*, 2nd ed., Lemma 3.1); conversion of the two
inputs, the scale and its product add ``5 u``; division by the cap, tanh and the product with it add
``u |s| + 4 u c``; conversion and addition of the bias ``2 u (|b| + |s|)``; the shift by the maximum
``u |s_j - m|``; exp its own ``c_exp u``, once more for every tile of an online softmax; probabilities as
``exp(s - lse)`` ``u (|lse| + |m|)``, shared by the row.  Normalising and mixing over n keys add
``(2 γ_n + 4 u) sum_j p_j |v_j|``, storing ``u_store |o|``, underflow n times the smallest normal number.

**Statistical** (`Bounds.statistical`; inside it code passes).  The same roundings as independent errors of
variance ``u²/3``, with partial sums in order; eight standard deviations, plus storing and underflow.
A bias common to all roundings is not seen by it.

Both are to first order; the worst case is raised by a tenth for what is left out.
"""

from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.typing import Array, Visible

_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_TINY = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}


@dataclass(frozen=True)
class Arithmetic:
    """Number formats of the tested code.

    Attributes
    ----------
    compute
        Format of scores, exponentials and probabilities.
    accumulate
        Format of the running sums.
    store
        Format of the output.
    exp_ulp
        Largest error of its exp and tanh, in units in the last place.
    tiles
        Key tiles of an online softmax; 1 for a plain one.

    Examples
    --------
    >>> Arithmetic("float32").store
    'float32'
    >>> Arithmetic("float32", store="float16").accumulate
    'float32'
    """

    compute: str = "float64"
    accumulate: str = ""
    store: str = ""
    exp_ulp: float = 4.0
    tiles: int = 8

    def __post_init__(self) -> None:
        for name in ("accumulate", "store"):
            object.__setattr__(self, name, getattr(self, name) or self.compute)


class Bounds(NamedTuple):
    """Elementwise distances from the exact answer.

    Attributes
    ----------
    statistical, worst
        For the output, ``[B, Hq, T, Dv]``.
    lse_statistical, lse_worst
        For the log-sum-exp, ``[B, Hq, T]``.
    """

    statistical: NDArray[np.float64]
    worst: NDArray[np.float64]
    lse_statistical: NDArray[np.float64]
    lse_worst: NDArray[np.float64]


def bounds(
    q: Array,
    k: Array,
    v: Array,
    *,
    arithmetic: Arithmetic,
    scale: float | None = None,
    softcap: float | None = None,
    bias: Array | None = None,
    visible: Visible | None = None,
    sinks: Array | None = None,
) -> Bounds:
    """Bound the rounding error of one attention call.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``.
    arithmetic
        Number formats of the tested code.
    scale, softcap, sinks
        As in `kvattn.attend`.
    bias
        Broadcasts to ``[B, Hq, T, S]``.
    visible
        Broadcasts to ``[B, Hq, T, S]``; None where every key is seen.

    Returns
    -------
    Bounds
        Zero-width nowhere but in rows that see no key and no sink.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 1, 2))
    >>> b = bounds(q, k, np.ones((1, 1, 1, 2)), arithmetic=Arithmetic("float32"))
    >>> bool((b.worst < 1e-4).all() and (b.statistical <= b.worst).all())
    True
    """
    u, u_sum = _ROUNDOFF[arithmetic.compute], _ROUNDOFF[arithmetic.accumulate]
    u_store, tiny = _ROUNDOFF[arithmetic.store], max(_TINY[arithmetic.compute], _TINY[arithmetic.store])
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    group, width, count = q.shape[1] // k.shape[1], q.shape[3], k.shape[2]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scale = 1.0 / math.sqrt(width) if scale is None else abs(scale)
    shape = (*q.shape[:3], count)
    seen: Visible = np.ones(shape, np.bool_) if visible is None else np.broadcast_to(visible, shape)
    anybody = np.asarray(seen.any(axis=2))[..., None]
    k, v = np.where(anybody, k, 0), np.where(anybody, v, 0)  # what nobody sees may be NaN

    s = scale * np.einsum("bhtd,bhsd->bhts", q, k)
    slope: NDArray[np.float64] = np.ones(shape)
    extra = np.zeros(shape)
    if softcap is not None:
        slope = 1 - np.tanh(s / softcap) ** 2
        extra = u * np.abs(s) * slope + arithmetic.exp_ulp * u * abs(softcap)
        s = softcap * np.tanh(s / softcap)
    if bias is not None:
        extra = extra + 2 * u * (np.abs(bias) + np.abs(s))
        s = s + bias

    s = np.where(seen, s, -np.inf)
    sink = None if sinks is None else np.broadcast_to(np.asarray(sinks, np.float64)[:, None, None], (*shape[:3], 1))
    if sink is not None:  # one key more, whose value is 0
        s = np.concatenate([s, sink], axis=-1)
        extra = np.concatenate([extra, 2 * u * np.abs(sink)], axis=-1)
        v = np.concatenate([v, np.zeros((*v.shape[:2], 1, v.shape[3]))], axis=2)
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    empty = np.isneginf(top)
    top = np.where(empty, 0.0, top)
    p = np.exp(s - top)
    total = p.sum(axis=-1, keepdims=True)
    p = p / np.where(total == 0, 1, total)
    lse = (top + np.log(np.where(total == 0, 1, total)))[..., 0]
    depth = np.where(p > 0, top - s, 0)  # how far below the maximum
    out = p @ v
    spread = np.abs(v[:, :, None] - out[..., None, :])  # [B, Hq, T, S, Dv]

    steps = arithmetic.exp_ulp * (1 + arithmetic.tiles) + arithmetic.tiles
    magnitude = scale * np.einsum("bhtd,bhsd->bhts", np.abs(q), np.abs(k)) * slope
    squares = scale**2 * np.einsum("bhtd,bhsd->bhts", q**2, k**2) * slope**2
    if sink is not None:
        magnitude, squares = (np.concatenate([x, np.zeros_like(sink)], axis=-1) for x in (magnitude, squares))
    gamma_d = _gamma(width, u_sum) + 5 * u
    each = gamma_d * magnitude + extra + u * depth + steps * u
    n = count + 1
    row = u * (np.abs(lse)[..., None] + np.abs(top))
    weighted = p @ np.abs(v)
    floor = n * tiny * (1 + np.abs(v).max(axis=2, initial=0)[:, :, None]) * ~empty
    worst = 1.1 * (
        np.einsum("bhts,bhtsd->bhtd", p * each, spread)
        + (2 * _gamma(n, u_sum) + 4 * u + row) * weighted
        + u_store * np.abs(out)
        + floor
    )
    lse_worst = 1.1 * ((p * each).sum(-1) + (_gamma(n, u_sum) + 2 * u) + row[..., 0] + u_store * np.abs(lse))

    variance = (u_sum**2 / 3) * (1 + width / 2) * squares
    variance = (
        variance + (u**2 / 3) * (2 * squares + 3 * np.where(p > 0, s, 0) ** 2 + depth**2 + 3 * steps**2) + extra**2
    )
    partial = np.cumsum(p[..., None] * v[:, :, None], axis=-2)
    sums = np.cumsum(p, axis=-1)
    moved = np.einsum("bhts,bhtsd->bhtd", p**2 * variance, spread**2)
    mixed = (u_sum**2 / 3) * ((partial**2).sum(-2) + out**2 * (sums**2).sum(-1, keepdims=True))
    mixed = mixed + (u**2 / 3) * (np.einsum("bhts,bhsd->bhtd", p**2, v**2) + 2 * out**2) + (row * out) ** 2 / 3
    statistical = 8 * np.sqrt(moved + mixed) + u_store * np.abs(out) + floor
    lse_variance = (p**2 * variance).sum(-1) + (u_sum**2 / 3) * (sums**2).sum(-1) + u**2 + row[..., 0] ** 2
    lse_statistical = 8 * np.sqrt(lse_variance) + u_store * np.abs(lse)
    nothing = empty[..., 0]
    return Bounds(
        np.minimum(statistical, worst),
        worst,
        np.where(nothing, 0, np.minimum(lse_statistical, lse_worst)),
        np.where(nothing, 0, lse_worst),
    )


def _gamma(n: int, u: float) -> float:
    return n * u / (1 - n * u) if n * u < 1 else math.inf
