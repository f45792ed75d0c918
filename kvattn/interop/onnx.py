"""ONNX operators said in kvattn's words: Attention (opsets 23 to 25) and RotaryEmbedding (23).

Inputs come in ONNX order, attributes by their ONNX names; ``onnx`` itself is never imported.  What the
operator leaves implicit becomes positions: the keys stand at ``0 .. S-1``, query ``i`` at ``offset + i``,

    offset  =  past length           with ``past_key``
               nonpad[b] - T         with ``nonpad_kv_seqlen``: the queries end where the real keys end
               0                     otherwise, which is the top left corner when T ≠ S

and then ``is_causal`` is ``Causal()``, the window is ``Window(left + 1, ahead=right)``, ``nonpad_kv_seqlen`` is
``Padding``, a boolean ``attn_mask`` is ``Explicit``, and a float one is a bias whose -inf entries are a mask.

All four stages that ``qk_matmul_output`` may show come from `kvattn.attend`: over one key the log-sum-exp *is* the
score (modes 0 to 2), and with an identity matrix for values the output *is* the row of probabilities (mode 3).

Cached per token: ``present_key`` and ``present_value`` are the concatenation that the operator defines.

Source: ONNX operators, Attention-25 and RotaryEmbedding-23 (onnx 1.23).

Where libraries differ: ONNX multiplies queries and keys by ``sqrt(scale)`` each and computes in the dtype of its
inputs, softmax in ``softmax_precision``; here scores are scaled once and everything is ``dtype``.  In mode 0 the
schema says "raw" and so do we; the reference of onnx 1.23 shows capped scores there when ``softcap`` is given.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import integer
from kvattn.arrays import boolean_or_floating, floating
from kvattn.arrays import positions as read_positions
from kvattn.axes import sizes
from kvattn.errors import ArgumentError, ShapeError
from kvattn.masks import Causal, Explicit, Padding, Window, both
from kvattn.one_liners import attend
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Attended, Mask, Positions, Visible

_FLOAT_TYPES = {1: "FLOAT", 10: "FLOAT16", 11: "DOUBLE", 16: "BFLOAT16"}


class AttentionOutputs(NamedTuple):
    """The four outputs of ONNX Attention, in its order.

    Attributes
    ----------
    Y
        ``[B, Hq, T, Dv]``, or ``[B, T, Hq·Dv]`` where the inputs have rank 3.
    present_key, present_value
        ``[B, Hkv, S, D]`` and ``[B, Hkv, S, Dv]``, past included; without a past they may be k and v themselves.
    qk_matmul_output
        ``[B, Hq, T, S]``, the stage that ``qk_matmul_output_mode`` names.
    """

    Y: Array
    present_key: Array
    present_value: Array
    qk_matmul_output: Array


def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    past_key: Any = None,
    past_value: Any = None,
    nonpad_kv_seqlen: Any = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    dtype: DTypeLike = np.float64,
) -> AttentionOutputs:
    """ONNX Attention.

    Parameters
    ----------
    q, k, v
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; or with heads folded, ``[B, T, Hq·D]`` and so
        on, together with ``q_num_heads`` and ``kv_num_heads``.
    attn_mask
        Broadcasts to ``[B, Hq, T, S]``; boolean, True = may see, or added to the scores.  Its last axis may be
        shorter than S: what it does not reach is hidden.
    past_key, past_value
        ``[B, Hkv, P, D]`` and ``[B, Hkv, P, Dv]``, put in front of k and v.
    nonpad_kv_seqlen
        ``[B]``: how many of the S keys are real.
    is_causal, left_window_size, right_window_size, scale, softcap, qk_matmul_output_mode
        As in the operator; a softcap of 0 caps nothing, a window of -1 has no end.
    softmax_precision
        Checked, and without effect: the softmax is computed in ``dtype``.
    dtype
        To compute in, float64 or float32.

    Returns
    -------
    AttentionOutputs
        In ``dtype``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        One sentence, before any arithmetic.

    Examples
    --------
    >>> x = np.eye(2)[None, None]
    >>> done = attention(x[:, :, 1:], x[:, :, 1:], x[:, :, 1:], None, x[:, :, :1], x[:, :, :1], scale=np.log(3))
    >>> done.Y.round(12).tolist(), done.qk_matmul_output.round(4).tolist()
    ([[[[0.25, 0.75]]]], [[[[0.0, 1.0986]]]])
    """
    left = integer("left_window_size", left_window_size, -1)
    right = integer("right_window_size", right_window_size, -1)
    if qk_matmul_output_mode not in (0, 1, 2, 3):
        raise ArgumentError(f"qk_matmul_output_mode must be 0, 1, 2 or 3, got {qk_matmul_output_mode!r}")
    if softmax_precision is not None and softmax_precision not in _FLOAT_TYPES:
        raise ArgumentError(f"softmax_precision must be one of {_FLOAT_TYPES}, got {softmax_precision!r}")
    if (past_key is None) != (past_value is None):
        raise ArgumentError("past_key and past_value must come together, got one of them")
    if past_key is not None and nonpad_kv_seqlen is not None:
        raise ArgumentError("nonpad_kv_seqlen must not come together with past_key, got both")

    q, k, v = (floating(name, x, dtype) for name, x in (("q", q), ("k", k), ("v", v)))
    folded = q.ndim == 3
    q = _with_heads("q", q, "q_num_heads", q_num_heads, folded)
    k = _with_heads("k", k, "kv_num_heads", kv_num_heads, folded)
    v = _with_heads("v", v, "kv_num_heads", kv_num_heads, folded)
    offset: Any = np.zeros(1, np.int64)
    if past_key is not None:
        before = floating("past_key", past_key, dtype), floating("past_value", past_value, dtype)
        known = sizes(("k", k, "B Hkv new D"), ("v", v, "B Hkv new Dv"))
        bound = sizes(
            ("past_key", before[0], "{B} {Hkv} past {D}".format(**known)),
            ("past_value", before[1], "{B} {Hkv} past {Dv}".format(**known)),
        )
        offset = np.array([bound["past"]])
        k, v = (np.concatenate((old, new), axis=2) for old, new in zip(before, (k, v), strict=True))
    batch, queries, keys = q.shape[0], q.shape[2], k.shape[2]

    parts: list[Mask] = []
    if nonpad_kv_seqlen is not None:
        real = read_positions("nonpad_kv_seqlen", nonpad_kv_seqlen, 1, batch)[0]
        if (real < 0).any() or (real > keys).any():
            raise ArgumentError(f"nonpad_kv_seqlen must be from 0 to the {keys} keys, got {real.tolist()}")
        parts.append(Padding(tuple(real.tolist())))
        offset = real - queries
    asked = np.broadcast_to(offset[:, None] + np.arange(queries), (batch, queries))
    at = np.arange(keys)
    if is_causal:
        parts.append(Causal())
    if left >= 0 or right >= 0:
        far = queries + keys + 1  # no query is so far from a key
        parts.append(Window(far if left < 0 else left + 1, ahead=far if right < 0 else right))
    bias = None
    if attn_mask is not None:
        keep, bias = _split(attn_mask, (*q.shape[:3], keys), dtype)
        parts.append(Explicit(keep, asked, at))
    mask = reduce(both, parts) if parts else None

    cap = softcap or None
    run = partial(attend, scale=scale, dtype=dtype)
    whole = partial(run, q, k, mask=mask, bias=bias, softcap=cap, q_positions=asked, k_positions=at)
    out = whole(v).out
    if qk_matmul_output_mode == 3 and keys:
        stage = whole(np.broadcast_to(np.eye(keys), (batch, k.shape[1], keys, keys))).out
    elif qk_matmul_output_mode == 2:
        stage = _scores(q, k, bias, partial(run, softcap=cap))
        if mask is not None:
            stage[~_dense(mask, asked, at, stage.shape)] = -np.inf
    else:
        stage = _scores(q, k, None, partial(run, softcap=cap if qk_matmul_output_mode else None))
    return AttentionOutputs(out.swapaxes(1, 2).reshape(batch, queries, -1) if folded else out, k, v, stage)


def rotary_embedding(
    x: Any,
    cos_cache: Any,
    sin_cache: Any,
    position_ids: Any = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
    dtype: DTypeLike = np.float64,
) -> Array:
    """ONNX RotaryEmbedding.

    The operator multiplies by whatever its tables hold.  A pair ``(c, s)`` is the angle ``atan2(s, c)`` and the
    length ``hypot(c, s)``, 1 for a true cosine and sine: pairs are stretched by the one and turned by the other.

    Parameters
    ----------
    x
        ``[B, H, T, D]``, or ``[B, T, H·D]`` together with ``num_heads``.
    cos_cache, sin_cache
        ``[positions, r/2]`` with ``position_ids``, ``[B, T, r/2]`` without.
    position_ids
        ``[B, T]``: which row of the tables.
    interleaved
        0: feature k pairs with k + r/2; 1: 2k pairs with 2k + 1.
    rotary_embedding_dim
        r, the features that turn; 0 is all of D.
    dtype
        To compute in, float64 or float32.

    Returns
    -------
    array
        Of the shape of x, in ``dtype``.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError, PositionError
        One sentence, before any arithmetic.

    Examples
    --------
    >>> rotary_embedding([[[[1.0, 0.0]]]], [[[0.0]]], [[[2.0]]]).round(12) + 0.0
    array([[[[0., 2.]]]])
    """
    given = floating("x", x, dtype)
    x = _with_heads("x", given, "num_heads", num_heads, given.ndim == 3)
    batch, _, length, width = x.shape
    turning = rotary_embedding_dim or width
    if not 0 < turning <= width or turning % 2:
        raise ArgumentError(f"rotary_embedding_dim must be even and at most {width}, got {rotary_embedding_dim!r}")
    cosine, sine = floating("cos_cache", cos_cache), floating("sin_cache", sin_cache)
    if position_ids is not None:
        rows = read_positions("position_ids", position_ids, batch, length)
        count = min(len(cosine), len(sine))
        if (rows < 0).any() or (rows >= count).any():
            raise ArgumentError(f"position_ids must be from 0 to {count - 1}, got {rows.min()} to {rows.max()}")
        cosine, sine = cosine[rows], sine[rows]
    for name, table in (("cos_cache", cosine), ("sin_cache", sine)):
        if table.shape != (batch, length, turning // 2):
            raise ShapeError(f"{name} must have a row of {turning // 2} for each token, got {table.shape}")
    angles = np.moveaxis(np.arctan2(sine, cosine), -1, 0)[:, :, None, :]  # [r/2, B, 1, T]
    stretch = np.hypot(cosine, sine)[:, None]  # [B, 1, T, r/2]
    stretch = np.repeat(stretch, 2, axis=-1) if interleaved else np.concatenate((stretch, stretch), axis=-1)
    pairs = range(turning // 2)
    rotary = Rotary((1.0,) * len(pairs), "adjacent" if interleaved else "half", axes=tuple(pairs))
    stretched = np.concatenate((x[..., :turning] * stretch, x[..., turning:]), axis=-1).astype(x.dtype, copy=False)
    turned = rotary.rotate(stretched, angles)
    return turned.swapaxes(1, 2).reshape(given.shape) if given.ndim == 3 else turned


def _with_heads(name: str, x: Array, count_name: str, count: int | None, folded: bool) -> Array:
    """``[B, H, time, dim]`` from either rank."""
    if x.ndim != (3 if folded else 4):
        raise ShapeError(f"{name} must have rank 3 or 4, the same for all, got shape {x.shape}")
    if folded:
        if not count or count < 1 or x.shape[2] % count:
            raise ArgumentError(f"{count_name} must divide the {x.shape[2]} features of {name}, got {count!r}")
        return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)
    if count is not None and count != x.shape[1]:
        raise ArgumentError(f"{count_name} must be the {x.shape[1]} heads of {name} or left out, got {count!r}")
    return x


def _split(attn_mask: Any, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Any, Array | None]:
    """Which pairs the mask shows, ``[B|1, Hq|1, T, S]``, and what it adds to them."""
    given = boolean_or_floating("attn_mask", attn_mask, dtype)
    missing = shape[3] - given.shape[-1] if given.ndim else 0
    hidden = False if given.dtype == np.bool_ else -np.inf
    if missing > 0:
        given = np.pad(given, [(0, 0)] * (given.ndim - 1) + [(0, missing)], constant_values=hidden)
    try:
        fits = np.broadcast_shapes(given.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(f"attn_mask must broadcast to [B, Hq, T, S] = {shape}, got {np.shape(attn_mask)}")
    given = given.reshape((1,) * (4 - given.ndim) + given.shape)
    given = np.broadcast_to(given, (*given.shape[:2], *shape[2:]))
    if given.dtype == np.bool_:
        return given, None
    keep = given != -np.inf
    return keep, np.where(keep, given, 0.0)


def _scores(q: Array, k: Array, bias: Array | None, run: Callable[..., Attended]) -> Array:
    """``[B, Hq, T, S]``: the log-sum-exp that each key would have alone, every key in a sequence of its own."""
    keys = k.shape[2]
    if not keys:
        return np.zeros((*q.shape[:3], 0), q.dtype)
    rows = np.broadcast_to(q[:, None], (q.shape[0], keys, *q.shape[1:]))  # [B, S, Hq, T, D]
    alone = np.moveaxis(k, 2, 1)[:, :, :, None, :]  # [B, S, Hkv, 1, D]
    if bias is not None:
        bias = np.moveaxis(np.broadcast_to(bias, (*q.shape[:3], keys)), 3, 1)[..., None]  # [B, S, Hq, T, 1]
    return np.moveaxis(run(rows, alone, alone, bias=bias).lse, 1, 3)


def _dense(mask: Mask, asked: Positions, at: Positions, shape: tuple[int, ...]) -> Visible:
    """Who sees whom, ``[B, Hq, T, S]``."""
    batch, head = np.arange(shape[0])[:, None, None, None], np.arange(shape[1])[:, None, None]
    return np.broadcast_to(mask(batch, head, asked[:, None, :, None], at), shape)
