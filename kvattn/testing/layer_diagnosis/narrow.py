"""How far a layer in 16 bits may be from what it should give: each number that is stored is rounded.

As models compute: matrices are multiplied with sums in float32 and stored in 16 bits, and so is everything between
two products; the softmax is taken in float32 or in 16 bits.  Every stored number is off by up to a unit roundoff u,
and what is off meets what it is multiplied with at random: 4 u times the root of the summed squares, seven standard
deviations of roundings that are uniform.  What two heads share, the rows of one key/value head, is added up and not
taken at random.  A weight is off by the error of its score, ``Δy = Σ_s p_s δ_s (z_s - y)`` with z_s a value after the
output projection: an error that all scores have in common changes nothing.

Shapes: hidden states ``[B, T, M]`` in, bounds ``[B, T, M]`` out, one for each element.
"""

from dataclasses import replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.positions.rotary import Rotary
from kvattn.testing.diagnosis.behaviour import HEAD_MAPS
from kvattn.testing.layer_diagnosis.reading import Case, Reading, heads_of
from kvattn.testing.rotary_diagnosis.model import Model

Numbers = NDArray[np.float64]

_SINGLE = 2.0**-24


def narrow_bound(reading: Reading, weights: Any, case: Case, roundoff: float) -> Numbers:
    """Return how far each element of a right layer in 16 bits may be from what a reading without faults gives.

    Parameters
    ----------
    reading
        The plan, or what was found to be a convention.
    weights, case
        As in `kvattn.testing.layer_diagnosis.reading.Reading.predict`.
    roundoff
        Unit roundoff of the stored numbers.

    Examples
    --------
    >>> from kvattn.testing.layer_diagnosis.plan import Plan
    >>> from kvattn.testing.layer_targets import Weights
    >>> one = Weights(*(np.ones((1, 1)),) * 4, heads=1, kv_heads=1)
    >>> narrow_bound(Reading(Plan()), one, Case(np.ones((1, 2, 1))), 2.0**-11).shape
    (1, 2, 1)
    """
    u, plan, x = 4 * roundoff, reading.plan, np.asarray(case.x, np.float64)
    hq, hkv, length = weights.heads, weights.kv_heads, x.shape[1]
    at = reading.positions(case, 0, length)
    flat = at if at.ndim == 2 else at[0]
    q, q_far = _side("q", reading, weights, x, at, roundoff)
    k, k_far = _side("k", reading, weights, x, at, roundoff)
    v, v_far = _stored(x, weights.matrix("w_v"), hkv, roundoff)
    group = heads_of(reading.key_map, HEAD_MAPS, hq, hkv)
    k, k_far, v, v_far = (part[:, group] for part in (k, k_far, v, v_far))
    scores, plain = q @ k.swapaxes(2, 3), abs(weights.width**-0.5 if plan.scale is None else plan.scale)
    sizes = _met(q, k)
    far = plain * (_met(q_far, k) + _met(q, k_far) + 4 * _SINGLE * math.sqrt(weights.width) * sizes)
    scaled = reading._scaled(scores, weights, (*x.shape[:2], 0))
    bias = reading._slopes(hq)[:, None, None] * (flat[:, None, None, :] - flat[:, None, :, None])
    sizes_stored = 2 * plain * np.abs(scores) + (0 if plan.softcap is None else 3 * np.abs(scaled))
    far = far + u * (sizes_stored + 2 * np.abs(bias) + 2 * np.abs(scaled + bias))
    keep = np.broadcast_to(reading._keep(0, length), scores.shape)
    keep = keep if case.valid is None else keep & case.valid[:, None, None]
    scores = np.where(keep, scaled + bias, -np.inf)
    top = scores.max(-1, keepdims=True)
    grown = np.where(keep, np.exp(scores - np.where(np.isneginf(top), 0, top)), 0)
    total = grown.sum(-1, keepdims=True)
    p = grown / np.where(total == 0, 1, total)
    most = np.minimum(np.where(keep, far, 0).max(-1), 15.0)
    bent = np.expm1(2 * most) / np.maximum(2 * most, 1e-300)
    w_o = weights.matrix("w_o").reshape(hq, weights.width, -1)
    by_scores, by_values, others = [], [], []
    for h in range(hq):
        z = v[:, h] @ w_o[h]  # [B, S, M]
        y = p[:, h] @ z
        apart = np.abs(z[:, None] - y[:, :, None])  # [B, T, S, M]
        by_scores.append(
            np.einsum("bts,btsm->btm", p[:, h] * np.where(keep, far, 0)[:, h], apart) * bent[:, h, :, None]
        )
        by_values.append(np.sqrt(p[:, h] ** 2 @ (v_far[:, h] ** 2 @ w_o[h] ** 2)))
        stored = np.einsum("bts,btsm->btm", 3 * p[:, h] ** 2, apart**2) + p[:, h] ** 2 @ z**2
        others.append(stored + (p[:, h] @ v[:, h]) ** 2 @ w_o[h] ** 2)
    shared = [np.zeros_like(x) for _ in range(hkv)]
    for h, g in enumerate(group):
        shared[g] = shared[g] + by_scores[h] + by_values[h]
    random = np.sqrt(sum(part**2 for part in shared)) + u * np.sqrt(sum(others))
    out = reading.predict(weights, case._replace(cuts=()))
    sums = 4 * _SINGLE * math.sqrt(hq * weights.width) * np.sqrt(sum(others))
    return np.asarray(random + sums + u * np.abs(out) + 1e-300)


def rounded(weights: Any, dtype: str) -> Any:
    """Return weights in 16 bits, as a layer in 16 bits holds them.

    >>> from kvattn.testing.layer_targets import Weights
    >>> one = Weights(*(np.full((1, 1), 1 + 2.0**-12),) * 4, heads=1, kv_heads=1)
    >>> rounded(one, "float16").w_q
    array([[1.]], dtype=float16)
    """
    matrices = ("w_q", "w_k", "w_v", "w_o", "q_norm", "k_norm", "own_k", "own_v")
    given = {name: getattr(weights, name) for name in matrices}
    return replace(weights, **{name: np.asarray(x).astype(dtype) for name, x in given.items() if x is not None})


def _stored(x: Numbers, matrix: Numbers, heads: int, roundoff: float) -> tuple[Numbers, Numbers]:
    """Rows of a projection ``[B, H, T, D]``, and how far each may be off."""
    rows = x @ matrix
    far = 4 * _SINGLE * math.sqrt(len(matrix)) * np.sqrt(x**2 @ matrix**2) + 4 * roundoff * np.abs(rows)
    first, second = (part.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for part in (rows, far))
    return first, second


def _side(
    side: str, reading: Reading, weights: Any, x: Numbers, at: NDArray[np.int64], roundoff: float
) -> tuple[Numbers, Numbers]:
    """Queries or keys after norm and rotation, and how far each feature may be off."""
    plan, length = reading.plan, int(at.max()) + 1 if at.size else 0
    heads = weights.heads if side == "q" else weights.kv_heads
    rows, far = _stored(x, weights.matrix(f"w_{side}"), heads, roundoff)
    rotary = (reading.q_rotary if side == "q" else reading.k_rotary) or plan.rotary_at(length)
    for step in ("before", "turn", "after"):
        if step == plan.norm:
            size = np.sqrt((rows**2).mean(-1, keepdims=True) + plan.eps)
            given = weights.q_norm if side == "q" else weights.k_norm
            weight = np.ones(rows.shape[-1]) if given is None else np.asarray(given, np.float64)
            off = np.sqrt((rows**2 * far**2).sum(-1, keepdims=True)) / (rows.shape[-1] * size**2)
            rows = rows / size * weight
            far = np.abs(weight) * far / size + np.abs(rows) * (off + 4 * math.sqrt(3) * roundoff)
        if step == "turn" and isinstance(rotary, Rotary):
            model, places = Model.of(rotary, rows.shape[-1]), at if at.ndim == 2 else at.max(0)
            limit = model.bound(rows, places[:, None], _SINGLE, roundoff)
            both = rotary.magnitude * np.sqrt(far[..., model.first] ** 2 + far[..., model.second] ** 2)
            far[..., model.first] = far[..., model.second] = both
            far = far + limit
            rows = np.asarray(rotary.rotate(rows, at[:, None] if at.ndim == 2 else at[:, :, None]), np.float64)
    return rows, far


def _met(left: Numbers, right: Numbers) -> Numbers:
    return np.asarray(np.sqrt(left**2 @ (right**2).swapaxes(2, 3)))
