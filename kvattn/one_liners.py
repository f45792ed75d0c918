"""Attention in one line: any arrays in, float64 out, every convention an argument.

``scale → softcap → bias → mask → sinks → softmax → mix``, computed by `kvattn.core.streaming`.

Shapes: ``q [*batch, Hq, T, D]``, ``k [*batch, Hkv, S, D]``, ``v [*batch, Hkv, S, Dv]``; query head
``h`` reads key/value head ``h // (Hq / Hkv)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import optional_real
from kvattn.arrays import anything, compute_dtype, floating, positions
from kvattn.axes import sizes
from kvattn.caches.blocks import blocks_of
from kvattn.core import streaming
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.masks.explicit import Explicit
from kvattn.mods.bias import Bias
from kvattn.typing import Answer, Array, Attended, Indices, Mask, Mod, Positions, Span, Visible


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    q_positions: Any = None,
    k_positions: Any = None,
    dtype: DTypeLike = np.float64,
) -> Array:
    """The output of `attend` without the log-sum-exp.

    Parameters, errors and conventions are those of `attend`.

    Returns
    -------
    array
        ``[*batch, Hq, T, Dv]``.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.eye(2)[None]
    >>> attention(x, x, x, mask=Causal(), scale=math.log(3))[0]
    array([[1.  , 0.  ],
           [0.25, 0.75]])
    """
    return attend(
        q,
        k,
        v,
        mask=mask,
        bias=bias,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
        q_positions=q_positions,
        k_positions=k_positions,
        dtype=dtype,
    ).out


def attend(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    q_positions: Any = None,
    k_positions: Any = None,
    dtype: DTypeLike = np.float64,
) -> Attended:
    """Scaled dot-product attention with its log-sum-exp.

    Parameters
    ----------
    q, k, v
        ``[*batch, Hq, T, D]``, ``[*batch, Hkv, S, D]``, ``[*batch, Hkv, S, Dv]``; anything that
        NumPy or DLPack takes.  T and S may be 0.
    mask
        Who may see whom: a mask of `kvattn.masks`; a boolean array that broadcasts to
        ``[*batch, Hq, T, S]``, True = may see; or a callable ``mask(b, h, q_pos, k_pos) -> bool array``.
    bias
        Added to the scaled scores: an array that broadcasts to ``[*batch, Hq, T, S]``, a mod such as
        `kvattn.positions.alibi.Alibi`, or a sequence of mods.
    scale
        Multiplies the scores; ``1/sqrt(D)`` unless given.
    softcap
        Bends scaled scores to ``c · tanh(s / c)``.
    sinks
        ``[Hq]``: a logit in each row's denominator, without a value; part of ``lse``; -inf is no sink.
    q_positions, k_positions
        ``[T]`` and ``[S]``, or with the batch in front; the keys are at ``0 .. S-1`` and the queries
        are the last T of them unless given.
    dtype
        To compute in, float64 or float32.

    Returns
    -------
    Attended
        ``out [*batch, Hq, T, Dv]`` and ``lse [*batch, Hq, T]``, natural log; 0 and -inf in a row that
        sees no key.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError, PositionError
        One sentence, before any arithmetic.

    Examples
    --------
    >>> x = np.eye(2)[None]
    >>> attended = attend(x, x, x, scale=math.log(3))
    >>> np.exp(attended.lse).round(12)
    array([[4., 4.]])
    """
    wanted = compute_dtype(dtype)
    q, k, v = floating("q", q, wanted), floating("k", k, wanted), floating("v", v, wanted)
    for name, array in (("q", q), ("k", k), ("v", v)):
        if array.ndim < 3:
            raise ShapeError(f"{name} must have shape [*batch, heads, time, dim], got {array.shape}")
    lead = " ".join(str(n) for n in q.shape[:-3])
    bound = sizes(("q", q, f"{lead} Hq T D"), ("k", k, f"{lead} Hkv S D"), ("v", v, f"{lead} Hkv S Dv"))
    check_heads(bound["Hq"], bound["Hkv"])
    batch_shape, batch = q.shape[:-3], math.prod(q.shape[:-3])
    for letter, size in (("D", bound["D"]), ("Dv", bound["Dv"]), ("batch", batch)):
        if size == 0:
            raise ShapeError(f"{letter} must be at least 1, got shapes q {q.shape}, k {k.shape}, v {v.shape}")
    length, held = bound["T"], bound["S"]
    at = positions("k_positions", np.arange(held) if k_positions is None else k_positions, batch_shape, held)
    latest = np.arange(held - length, held) if q_positions is None else q_positions
    asked = positions("q_positions", latest, batch_shape, length)
    shape = (*batch_shape, bound["Hq"], length, held)
    if sinks is not None:
        sinks = floating("sinks", sinks, wanted)
        sizes(("sinks", sinks, str(bound["Hq"])))
        if np.isnan(sinks).any() or np.isposinf(sinks).any():
            raise ArgumentError(f"sinks must be finite numbers or -inf, got {sinks.tolist()}")
    rows_of = _Rows(shape, asked, at, wanted)
    pipeline = {
        "mask": _mask(mask, rows_of),
        "mods": _mods(bias, rows_of),
        "scale": optional_real("scale", scale),
        "softcap": optional_real("softcap", softcap, above=0.0),
        "sinks": sinks,
    }
    flat = k.reshape(batch, *k.shape[-3:]), v.reshape(batch, *v.shape[-3:])
    blocks = [blocks_of(flat[0][b], flat[1][b], at[b]) for b in range(batch)]
    out, lse = streaming.attend(q.reshape(batch, *q.shape[-3:]), asked, blocks, value_width=bound["Dv"], **pipeline)
    return Attended(out.reshape(*batch_shape, *out.shape[1:]), lse.reshape(*batch_shape, *lse.shape[1:]))


def check_heads(query_heads: int, kv_heads: int) -> None:
    """Refuse head counts that do not divide.

    >>> check_heads(6, 4)
    Traceback (most recent call last):
    kvattn.errors.ShapeError: q must have a multiple of the 4 key/value heads, got 6 query heads
    """
    if kv_heads == 0 or query_heads == 0 or query_heads % kv_heads:
        raise ShapeError(
            f"q must have a multiple of the {kv_heads} key/value heads, got {query_heads} query heads"
            if kv_heads
            else "k must have at least 1 head, got 0"
        )


@dataclass(frozen=True)
class _Rows:
    """What an array argument over pairs must fit: the scores' shape, and which positions its rows stand at."""

    shape: tuple[int, ...]
    q_positions: Positions
    k_positions: Positions
    dtype: np.dtype[Any]

    def spread(self, name: str, array: Any) -> Any:
        """``[B or 1, Hq or 1, T, S]`` from anything that broadcasts to the scores."""
        try:
            fits = np.broadcast_shapes(array.shape, self.shape) == self.shape
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(f"{name} must broadcast to [*batch, Hq, T, S] = {self.shape}, got {array.shape}")
        full = array.reshape((1,) * (len(self.shape) - array.ndim) + array.shape)
        lead = self.shape[:-3] if any(n != 1 for n in full.shape[:-3]) else (1,) * len(self.shape[:-3])
        full = np.broadcast_to(full, (*lead, full.shape[-3], *self.shape[-2:]))
        return full.reshape(math.prod(lead), *full.shape[-3:])


@dataclass(frozen=True)
class _Called:
    """A plain callable as a mask: it is always asked pair by pair."""

    function: Callable[[Any, Any, Any, Any], Any]

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        answer = np.asarray(self.function(b, h, q_positions, k_positions))
        if answer.dtype != np.bool_:
            raise DtypeError(f"mask must return booleans, got {answer.dtype}; what changes scores goes to bias")
        shape = np.broadcast_shapes(np.shape(b), np.shape(h), np.shape(q_positions), np.shape(k_positions))
        try:
            return np.broadcast_to(answer, shape)
        except ValueError:
            raise ShapeError(
                f"mask must return what broadcasts to its arguments, {shape}, got {answer.shape}"
            ) from None

    def block(self, b: int, q: Span, k: Span) -> Answer:
        return Answer.LOOK


def _mask(mask: Any, rows: _Rows) -> Mask | None:
    if mask is None:
        return None
    if isinstance(mask, type):
        raise ArgumentError(f"mask must be an instance such as {mask.__name__}(), got the class {mask.__name__}")
    if callable(mask):
        if hasattr(mask, "block"):
            return cast("Mask", mask)
        called = _Called(mask)
        if math.prod(rows.shape):  # one pair, so that a wrong answer is known before any arithmetic
            called(0, np.zeros((1, 1, 1), np.int64), rows.q_positions[:1, :1, None], rows.k_positions[:1, None, :1])
        return called
    array = anything("mask", mask)
    if array.dtype != np.bool_:
        raise DtypeError(
            "mask must be boolean (True = may see), a kvattn mask or a callable, "
            f"got {getattr(mask, 'dtype', array.dtype)}; additive masks go to bias"
        )
    return Explicit(rows.spread("mask", array), rows.q_positions, rows.k_positions)


def _mods(bias: Any, rows: _Rows) -> Sequence[Mod]:
    if bias is None:
        return ()
    if callable(bias):
        return (bias,)
    if isinstance(bias, (tuple, list)) and bias and all(callable(mod) for mod in bias):
        return tuple(bias)
    return (Bias(rows.spread("bias", floating("bias", bias, rows.dtype)), rows.q_positions, rows.k_positions),)
