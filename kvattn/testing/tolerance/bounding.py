"""The bounds of a call, put together block by block.

Conversion of the inputs, and of sinks, is known, not drawn: what it moves is computed by attending to the converted
arrays, and added to the statistical bounds [S9].
"""

from collections.abc import Iterator
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance.calls import Call, Rows
from kvattn.testing.tolerance.limits import Limits, larger
from kvattn.testing.tolerance.logs import logs
from kvattn.testing.tolerance.outputs import mixed
from kvattn.testing.tolerance.running import NO_COPIES, Alike
from kvattn.testing.tolerance.scores import Scores, scored
from kvattn.testing.tolerance.weights import Weights, weighed
from kvattn.typing import Array, Visible

HEADS = 64
"""Heads that are bounded together, where they are small."""


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


class Examined(NamedTuple):
    """Some rows of a call: what they should be, and how far from it they may be.

    Attributes
    ----------
    rows
        What they read; ``v`` begins with a row of zeros where there is a sink.
    scores, weights
        On the way.
    out, lse
        Answers and bounds.
    """

    rows: Rows
    scores: Scores
    weights: Weights
    out: Limits
    lse: Limits


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
        ``[B, Hq, T, D]``, ``[B, Hkv, S, D]``, ``[B, Hkv, S, Dv]``; what the tested code is given.
    arithmetic
        Of the tested code.
    scale, softcap, sinks
        As in `kvattn.attend`.
    bias
        Broadcasts to ``[B, Hq, T, S]``; -inf hides.
    visible
        Broadcasts to ``[B, Hq, T, S]``; None where every key is seen.

    Returns
    -------
    Bounds
        Zero-width nowhere but in rows that see no key and no sink; infinite where a format may end; NaN where
        the exact answer is.

    Raises
    ------
    ShapeError
        Where sizes do not fit.

    Examples
    --------
    >>> q = k = np.zeros((1, 1, 1, 2))
    >>> b = bounds(q, k, np.ones((1, 1, 1, 2)), arithmetic=Arithmetic("float32"))
    >>> bool((b.worst < 1e-4).all() and (b.statistical <= b.worst).all())
    True
    """
    call = Call(q, k, v, scale, softcap, bias, visible, sinks)
    shape = (*call.pairs[:3], call.v.shape[3])
    found = Bounds(*(np.zeros(shape) for _ in range(2)), *(np.zeros(shape[:3]) for _ in range(2)))
    for some in examined(call, arithmetic, heads=HEADS):
        at = some.rows.place
        found.statistical[at], found.worst[at] = some.out.statistical, some.out.worst
        found.lse_statistical[at], found.lse_worst[at] = some.lse.statistical, some.lse.worst
    return found


def examined(call: Call, arithmetic: Arithmetic, take: int = 1 << 62, heads: int = 1) -> Iterator[Examined]:
    """Bound a call's rows, some at a time; those of a head with equal keys by themselves.

    Parameters
    ----------
    call
        What the tested code is given.
    arithmetic
        Of the tested code.
    take
        How many rows of each head at most.
    heads
        How many heads at most go together.

    Yields
    ------
    Examined
        Every row once.

    Examples
    --------
    >>> x = np.ones((1, 1, 2, 4))
    >>> [some.out.exact.shape for some in examined(Call(x, x, x), Arithmetic())]
    [(2, 4)]
    """
    copies: dict[tuple[int, int], Alike] = {}
    for some in call.blocks(take, heads):
        if some.q.ndim > 2 and not _copied(some, call):
            yield _examined(some, call, arithmetic, NO_COPIES)
            continue
        for rows in some.apart() if some.q.ndim > 2 else (some,):
            head = rows.place[0], call.group(rows.place[1])
            if head not in copies:
                copies = {head: _alike(call.k[head], call.v[head], sink=rows.sink is not None)}
            yield _examined(rows, call, arithmetic, copies[head])


def _examined(rows: Rows, call: Call, arithmetic: Arithmetic, alike: Alike) -> Examined:
    v = np.where(np.isfinite(rows.v), rows.v, 0.0)
    if rows.sink is not None:
        v = np.concatenate([np.zeros((*v.shape[:-2], 1, v.shape[-1])), v], axis=-2)
    with np.errstate(invalid="ignore", over="ignore"):
        scores = scored(rows, call, arithmetic)
        stated = [(weighed(scores, one), one) for one in arithmetic.statements()]
        out = larger(*(mixed(weights, v, alike, one) for weights, one in stated))
        lse = larger(*(logs(weights, alike, one) for weights, one in stated))
        out, lse = _converted(rows, call, arithmetic, out, lse)
        spoiled = ~np.isfinite(rows.v)
        if spoiled.any():  # NaN and infinity reach the rows that see them
            reached = (rows.seen.astype(np.float64) @ spoiled) > 0
            out = Limits(*(np.where(reached, np.nan, x) for x in out))
    return Examined(rows._replace(v=v), scores, stated[0][0], out, lse)


def _converted(rows: Rows, call: Call, arithmetic: Arithmetic, out: Limits, lse: Limits) -> tuple[Limits, Limits]:
    """Add to the statistical bounds what conversion of q, k, v and sinks moves, where it moves anything."""
    kind = format_of(arithmetic.inputs)
    sink = None
    q, k, v = (kind.round(np.where(np.isnan(x), 0.0, x)) for x in (rows.q, rows.k, rows.v))  # [S9]
    pairs = [(q, rows.q), (k, rows.k), (v, rows.v)]
    if rows.sink is not None:
        sink = format_of(arithmetic.compute).round(rows.sink)
        pairs.append((sink, rows.sink))
    if all(np.array_equal(x, y) for x, y in pairs):
        return out, lse
    weights = weighed(scored(rows._replace(q=q, k=k, sink=sink), call, arithmetic), arithmetic)
    p = weights.p[..., weights.p.shape[-1] - v.shape[-2] :]
    return _moved(out, p @ v), _moved(lse, weights.lse)


def _moved(limits: Limits, converted: Array) -> Limits:
    away = np.where(converted == limits.exact, 0.0, np.abs(converted - limits.exact))
    away = np.where(np.isnan(away), np.inf, away)
    statistical = np.minimum(limits.statistical + away, limits.worst)
    return limits._replace(statistical=statistical, drift=limits.drift + away)


def _copied(rows: Rows, call: Call) -> bool:
    """Say whether a key that some row of its head sees is like another one."""
    b, h, _ = rows.place
    return bool(((_sets(call.k[b, call.group(h)]) >= 0) & rows.seen.any(axis=-2)).any())


def _alike(k: Array, v: Array, *, sink: bool) -> Alike:
    """Find copies among the keys of a head; a sink is a key like no other."""
    keys, pairs = _sets(k), _sets(np.concatenate([k, v], axis=1)) >= 0
    return Alike(np.append(-1, keys), np.append(False, pairs)) if sink else Alike(keys, pairs)


def _sets(rows: Array) -> Array:
    """A number for each set of equal rows of a head, -1 for a row like no other."""
    shape = rows.shape[:-1]
    if rows.shape[-1]:
        first = np.sort(rows[..., 0], axis=-1)
        if not (first[..., 1:] == first[..., :-1]).any():
            return np.full(shape, -1)
    heads = np.broadcast_to(np.arange(math.prod(shape[:-1])).reshape(*shape[:-1], 1, 1), (*shape, 1))
    marked = np.concatenate([heads, rows + 0.0], axis=-1).reshape(-1, rows.shape[-1] + 1)
    _, number, count = np.unique(marked, axis=0, return_inverse=True, return_counts=True)
    number = number.reshape(shape)
    found: Array = np.where(count[number] > 1, number, -1)
    return found
