"""The gated delta rule, without a layer around it: token by token, or chunk by chunk.

A state S maps keys to values.  Each token first lets all of it fade, then corrects what the faded
state answers to the token's key::

    S' = e^{g_t} S_{t-1},    u_t = β_t (v_t - S'ᵀ k_t),    S_t = S' + k_t u_tᵀ,    o_t = scale · S_tᵀ q_t

which is ``S_t = e^{g_t} (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ``.  Unrolled inside a chunk that starts with
S_0, with ``D_ij = g_{j+1} + … + g_i``::

    u_i = β_i (v_i - e^{D_i0} S_0ᵀ k_i - Σ_{j<i} e^{D_ij} (k_i · k_j) u_j)
    S_i = e^{D_i0} S_0 + Σ_{j<=i} e^{D_ij} k_j u_jᵀ

a unit lower triangular system ``(I + L) U = …`` that does not depend on what S_0 holds once the two parts of its
right side are solved apart: the UT transform of the WY representation.

Shapes: ``q, k [B, Hk, T, Dk]``, ``v [B, Hv, T, Dv]``, ``log_decay, beta [B, Hv, T]``, ``state [B, Hv, Dk, Dv]``;
value head h reads query and key head ``h // (Hv / Hk)``.
Cost of a token and value head: products ``4 Dk Dv``, ``3 Dk Dv + 2 Dv + Dk`` elementwise, one exponential.

Exact: `recurrent` gives the same bits for every cut of the sequence, in any company.  `chunked` adds in another
order and agrees within a bound; no decay is ever divided by, and no two sums of log decays are subtracted,
so that nothing overflows and nothing cancels however fast the state fades.

Source: Yang, Kautz & Hatamizadeh 2024 (2412.06464) §3.1 and §3.3; UT transform for the delta rule: Yang et al. 2024
(2406.06484).
Where libraries differ: the decay may come as its natural logarithm (here, FLA, ONNX), as a logarithm to base 2
(attention-gym), or as it is (mlx); the state may be stored ``[Dv, Dk]`` (mlx).
"""

from collections.abc import Sequence
import math

import numpy as np

from kvattn import ops
from kvattn.arguments import integer
from kvattn.axes import sizes
from kvattn.counting import Tally, charge
from kvattn.errors import ShapeError
from kvattn.typing import Array


def l2_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """Divide each row by its Euclidean length, ``x / sqrt(Σ x² + ε)``.

    >>> l2_norm(np.array([[3.0, 4.0]]), epsilon=0.0)
    array([[0.6, 0.8]])
    """
    x = np.ascontiguousarray(x)
    rows = x.size // max(x.shape[-1], 1)
    charge(Tally(arithmetic=3 * x.size + rows, transcendental=rows))
    normed: Array = x / np.sqrt((x * x).sum(-1, keepdims=True) + epsilon)
    return normed


def recurrent(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    state: Array,
    *,
    scale: float | None = None,
    keep: int = 1,
) -> tuple[Array, Sequence[Array]]:
    """Apply the rule token by token.

    Parameters
    ----------
    q, k
        ``[B, Hk, T, Dk]``, T >= 0; keys of length at most 1, or the state may grow without end.
    v
        ``[B, Hv, T, Dv]``.
    log_decay, beta
        ``[B, Hv, T]``: g_t <= 0, and 0 <= β_t <= 2.
    state
        ``[B, Hv, Dk, Dv]``: the state before the first token.
    scale
        ``1 / sqrt(Dk)`` unless given.
    keep
        How many of the last states to return.

    Returns
    -------
    tuple
        ``o [B, Hv, T, Dv]``, and the states after the last ``min(keep, T)`` tokens, in order.

    Raises
    ------
    ShapeError
        Arrays that do not fit each other.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 1))
    >>> o, states = recurrent(one, one, 4 * one, np.zeros((1, 1, 2)), np.full((1, 1, 2), 0.5), np.zeros((1, 1, 1, 1)))
    >>> o.ravel(), states[-1].ravel()  # each token halves what is missing
    (array([2., 3.]), array([3.]))
    """
    q, k, length, scale = _check(q, k, v, log_decay, beta, state, scale)
    keep = integer("keep", keep, 0)
    scaled = q * scale
    decay = ops.exp(log_decay)[..., None, None]
    rate = beta[..., None, None]
    out = np.empty_like(v)
    kept: list[Array] = []
    for t in range(length):
        now = slice(t, t + 1)
        key, value = k[:, :, now], v[:, :, now]  # [B, Hv, 1, D]
        faded = decay[:, :, t] * state
        change = rate[:, :, t] * (value - ops.contract(key, faded))
        state = faded + key.swapaxes(-1, -2) * change
        out[:, :, now] = ops.contract(scaled[:, :, now], state)
        if length - t <= keep:
            kept.append(state)
    width, value_width = k.shape[-1], v.shape[-1]
    charge(Tally(arithmetic=log_decay.size * (3 * width * value_width + 2 * value_width + width)))
    return out, kept


def recurrent_cost(tokens: int, width: int, value_width: int) -> Tally:
    """What `recurrent` counts, in closed form; ``tokens`` over all sequences and value heads.

    >>> recurrent_cost(tokens=1, width=2, value_width=3)
    Tally(matmul=24, arithmetic=26, transcendental=1)
    """
    cells = width * value_width
    return Tally(
        matmul=4 * tokens * cells,
        arithmetic=tokens * (3 * cells + 2 * value_width + width),
        transcendental=tokens,
    )


def chunked(
    q: Array,
    k: Array,
    v: Array,
    log_decay: Array,
    beta: Array,
    state: Array,
    *,
    scale: float | None = None,
    chunk: int = 64,
) -> tuple[Array, Array]:
    """Apply the rule to whole chunks, as products of matrices.

    Parameters
    ----------
    q, k, v, log_decay, beta, state, scale
        As in `recurrent`.
    chunk
        Tokens per chunk; the last one may be shorter.

    Returns
    -------
    tuple
        ``o [B, Hv, T, Dv]`` and the state after the last token.

    Raises
    ------
    ShapeError
        Arrays that do not fit each other.
    ArgumentError
        A chunk below 1.

    Examples
    --------
    >>> one = np.ones((1, 1, 2, 1))
    >>> o, state = chunked(one, one, 4 * one, np.zeros((1, 1, 2)), np.full((1, 1, 2), 0.5), np.zeros((1, 1, 1, 1)))
    >>> o.ravel(), state.ravel()
    (array([2., 3.]), array([3.]))
    """
    q, k, length, scale = _check(q, k, v, log_decay, beta, state, scale)
    chunk = integer("chunk", chunk, 1)
    out = np.empty_like(v)
    for start in range(0, length, chunk):
        part = np.s_[:, :, start : start + chunk]
        out[part], state = _one_chunk(q[part] * scale, k[part], v[part], log_decay[part], beta[part], state)
    charge(Tally(arithmetic=q.size))
    return out, state


def _one_chunk(q: Array, k: Array, v: Array, log_decay: Array, beta: Array, state: Array) -> tuple[Array, Array]:
    """Solve for the chunk's corrections, read the queries off them, and carry the state to its end."""
    count, width, value_width = k.shape[-2], k.shape[-1], v.shape[-1]
    fade = np.tril(ops.exp(_sums_between(log_decay)))  # [B, Hv, i, j]: e^{D_ij}
    since = ops.exp(np.cumsum(log_decay, axis=-1))[..., None]  # [B, Hv, i, 1]: e^{D_i0}
    until = fade[..., -1, :, None]
    keys = np.ascontiguousarray(k.swapaxes(-1, -2))
    rate = beta[..., None]
    lower = np.tril(rate * fade * ops.contract(k, keys), -1)
    solved = np.concatenate([rate * v, rate * since * k], axis=-1)
    for i in range(1, count):
        solved[..., i : i + 1, :] -= ops.contract(lower[..., i : i + 1, :i], solved[..., :i, :])
    change = solved[..., :value_width] - ops.contract(solved[..., value_width:], state)  # [B, Hv, i, Dv]: u_i
    out = ops.contract(since * q, state) + ops.contract(fade * ops.contract(q, keys), change)
    rows = log_decay.size
    charge(
        Tally(
            arithmetic=rows * (4 * count + 2)  # sums, decays and rates of pairs; sums and rates of rows
            + rows * (3 * value_width + 2 * width)  # right sides, corrections, and the two parts of out
            + (rows - rows // count) * (width + value_width)  # substitution
            + rows * width
            + 2 * state.size
        )
    )
    return out, since[..., -1:, :] * state + ops.contract((until * k).swapaxes(-1, -2), change)


def _sums_between(log_decay: Array) -> Array:
    """Add g over ``j < l <= i`` for each pair (i, j): ``[..., C]`` to ``[..., C, C]``, never by a difference."""
    count = log_decay.shape[-1]
    after = np.tri(count, k=-1, dtype=np.bool_).T  # [j, l]: l > j
    terms = np.where(after, log_decay[..., None, :], 0.0).astype(log_decay.dtype, copy=False)
    return np.cumsum(terms, axis=-1).swapaxes(-1, -2)


def _check(
    q: Array, k: Array, v: Array, log_decay: Array, beta: Array, state: Array, scale: float | None
) -> tuple[Array, Array, int, float]:
    """Refuse what does not fit; give every value head its query and key rows."""
    size = sizes(
        ("q", q, "B Hk T Dk"),
        ("k", k, "B Hk T Dk"),
        ("v", v, "B Hv T Dv"),
        ("log_decay", log_decay, "B Hv T"),
        ("beta", beta, "B Hv T"),
        ("state", state, "B Hv Dk Dv"),
    )
    if size["Hk"] < 1 or size["Hv"] % size["Hk"]:
        raise ShapeError(f"v must have heads that are a multiple of the {size['Hk']} of k, got {size['Hv']}")
    group = size["Hv"] // size["Hk"]
    scale = 1.0 / math.sqrt(size["Dk"]) if scale is None else float(scale)
    return np.repeat(q, group, axis=1), np.repeat(k, group, axis=1), size["T"], scale
