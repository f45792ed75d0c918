"""Attention layers of heads in loops over balls: the third witness of the dense variants.

A layer is projections, something done to a token's heads, a softmax over what a query sees, something
done to its mix, and a projection.  `layer_by_hand` walks through that for one query after the other; what a
variant adds comes in as a function of one token's rows.  Nothing is shared with `kvattn.variants` but the weights'
names.  Heads of a token are lists of rows, rows are lists of `kvattn.testing.balls.Ball`.
"""

import cmath
from collections.abc import Callable, Sequence
import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from kvattn.positions.rotary import Rotary
from kvattn.testing.balls import Ball, dot, given, total
from kvattn.typing import Array
from kvattn.variants.dense.projections import Projections

Row: TypeAlias = list[Ball]

Heads: TypeAlias = list[Row]
"""One row for each head of one token, or one row for each token of one head."""

Bend: TypeAlias = Callable[[int, Heads], Heads]
"""What is done to all heads of the token at a position."""

Sees: TypeAlias = Callable[[int, int], bool]
"""Whether the query at one position may see the key at another."""


def drawn(*shape: int, seed: int, dtype: DTypeLike = np.float64) -> Array:
    """Normally distributed numbers that a seed stands for.

    >>> drawn(2, 3, seed=0, dtype=np.float32).dtype
    dtype('float32')
    """
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def drawn_projections(
    heads: int, kv_heads: int, *, hidden: int = 6, width: int = 4, value_width: int = 3, dtype: DTypeLike = np.float64
) -> Projections:
    """Weights of an example, of sizes that differ.

    >>> drawn_projections(4, 2).query.shape
    (6, 16)
    """
    shapes = (hidden, heads * width), (hidden, kv_heads * width), (hidden, kv_heads * value_width)
    query, key, value = (drawn(*shape, seed=n, dtype=dtype) / 2 for n, shape in enumerate(shapes))
    return Projections(query, key, value, drawn(heads * value_width, hidden, seed=3, dtype=dtype) / 2, heads, kv_heads)


def times(row: Row, matrix: Any) -> Row:
    """A row times a matrix.

    >>> [ball.value for ball in times([Ball(1.0), Ball(2.0)], np.array([[1.0, 0.0], [3.0, 1.0]]))]
    [7.0, 2.0]
    """
    return [dot(row, column) for column in zip(*given(matrix), strict=True)]


def cut(row: Row, heads: int) -> Heads:
    """A row of columns as a row for each head.

    >>> len(cut([Ball(1.0)] * 6, heads=2)[1])
    3
    """
    width = len(row) // heads
    return [row[h * width : (h + 1) * width] for h in range(heads)]


def rms(row: Row, weight: Sequence[float] | None, eps: float) -> Row:
    """RMSNorm of a row.

    >>> [ball.value for ball in rms([Ball(3.0), Ball(-3.0)], [1.0, 2.0], eps=0.0)]
    [1.0, -2.0]
    """
    size = root(dot(row, row) / float(len(row)) + eps)
    return [a / size * (1.0 if weight is None else float(weight[n])) for n, a in enumerate(row)]


def layer_norm(row: Row, weight: Sequence[float], bias: Sequence[float] | None, eps: float) -> Row:
    """LayerNorm of a row.

    >>> [ball.value for ball in layer_norm([Ball(1.0), Ball(3.0)], [1.0, 1.0], [0.0, 0.5], eps=0.0)]
    [-1.0, 1.5]
    """
    mean = total(row) / float(len(row))
    centred = [a - mean for a in row]
    size = root(dot(centred, centred) / float(len(row)) + eps)
    scaled = [a / size * float(weight[n]) for n, a in enumerate(centred)]
    return scaled if bias is None else [a + float(bias[n]) for n, a in enumerate(scaled)]


def root(ball: Ball) -> Ball:
    """The square root.

    >>> root(Ball(4.0)).value
    2.0
    """
    return ball.through(math.sqrt, 0.5 / math.sqrt(ball.value))


def sigmoid(ball: Ball) -> Ball:
    """``1 / (1 + exp(-x))``.

    >>> sigmoid(Ball(0.0)).value
    0.5
    """
    return Ball(1.0, 0.0, ball.unit) / ((-ball).exp() + 1.0)


def turn(row: Row, position: int, rotation: Rotary) -> Row:
    """Pairs as complex numbers; an angle is off by 4 roundings of float64 per radian, cosine and sine by 8.

    >>> [round(ball.value, 12) for ball in turn([Ball(1.0), Ball(0.0)], 1, Rotary((math.pi / 2,)))]
    [0.0, 1.0]
    """
    out, pairs = list(row), len(rotation.frequencies)
    first = rotation.start % len(row)
    for n, frequency in enumerate(rotation.frequencies):
        a, b = (n, n + pairs) if rotation.layout == "half" else (2 * n, 2 * n + 1)
        a, b = a + first, b + first
        angle, unit = position * frequency, row[0].unit
        turned = cmath.rect(rotation.magnitude, angle)
        error = rotation.magnitude * (unit + 2.0**-53 * (8 + 4 * abs(angle)))
        cosine, sine = Ball(turned.real, error, unit), Ball(turned.imag, error, unit)
        out[a], out[b] = row[a] * cosine - row[b] * sine, row[a] * sine + row[b] * cosine
    return out


def softmax(scores: Row, sink: Ball | None = None) -> tuple[Row, Ball]:
    """Weights of some scores and the log of their sum; a sink takes its share and gets no weight.

    >>> weights, lse = softmax([Ball(0.0), Ball(0.0)])
    >>> weights[0].value, lse.value == math.log(2)
    (0.5, True)
    """
    terms = scores if sink is None else [*scores, sink]
    top = max(terms, key=lambda term: term.value)
    shares = [(term - top).exp() for term in terms]
    whole = total(shares)
    return [share / whole for share in shares[: len(scores)]], top + whole.log()


def mix(query: Row, keys: Heads, values: Heads, scale: float, sink: Ball | None = None) -> tuple[Row, Ball]:
    """What one query makes of the keys that it sees: the mixed row and the log-sum-exp.

    >>> one = [Ball(1.0)]
    >>> mix(one, [one, one], [[Ball(2.0)], [Ball(4.0)]], scale=0.0)[0][0].value
    3.0
    """
    weights, lse = softmax([dot(query, key) * scale for key in keys], sink)
    return [dot(weights, column) for column in zip(*values, strict=True)], lse


def layer_by_hand(
    w: Any,
    x: Any,
    *,
    sees: Sees = lambda i, j: j <= i,
    queries: Bend = lambda i, heads: heads,
    keys: Bend = lambda j, heads: heads,
    values: Bend = lambda j, heads: heads,
    finish: Callable[[int, Row, Heads], Heads] = lambda i, row, heads: heads,
    scale: float | None = None,
    sinks: Sequence[float] | None = None,
    beside: Callable[[int], tuple[list[Heads], list[Heads]]] = lambda b: ([], []),
) -> tuple[Any, Any]:
    """A layer with heads, query by query, for positions from 0 on.

    Parameters
    ----------
    w
        Weights under the names of `kvattn.variants.dense.projections.Projections`.
    x
        ``[B, T, M]``, an array or nested lists of balls, such as another layer's output.
    sees
        Which keys of its own sequence a query sees, by position.
    queries, keys, values
        What is done to all heads of one token behind its projection.
    finish
        What is done to all heads of a token's mix, given its position and its row of x.
    scale, sinks
        As in `kvattn.attend`.
    beside
        Keys and values that every query of a sequence sees beside its own, for each of them all heads.

    Returns
    -------
    tuple
        Nested lists of balls ``[B][T][M]`` and ``[B][Hq][T]``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> one = np.ones((1, 1))
    >>> w = SimpleNamespace(query=one, key=one, value=one, output=one, heads=1, kv_heads=1)
    >>> layer_by_hand(w, np.array([[[4.0], [2.0]]]), scale=0.0)[0][0][1][0].value
    3.0
    """
    group = w.heads // w.kv_heads
    scale = 1 / math.sqrt(w.query.shape[1] // w.heads) if scale is None else scale
    out: list[Heads] = []
    logs: list[Heads] = []
    for b, rows in enumerate(given(x) if isinstance(x, np.ndarray) else x):
        held = [keys(j, cut(times(row, w.key), w.kv_heads)) for j, row in enumerate(rows)]
        kept = [values(j, cut(times(row, w.value), w.kv_heads)) for j, row in enumerate(rows)]
        more_keys, more_values = beside(b)
        out.append([])
        logs.append([[] for _ in range(w.heads)])
        for i, row in enumerate(rows):
            mixed = []
            for h, query in enumerate(queries(i, cut(times(row, w.query), w.heads))):
                seen = [j for j in range(len(rows)) if sees(i, j)]
                near = [held[j][h // group] for j in seen] + [each[h // group] for each in more_keys]
                there = [kept[j][h // group] for j in seen] + [each[h // group] for each in more_values]
                sink = None if sinks is None else Ball(float(sinks[h]), 0.0, query[0].unit)
                found, lse = mix(query, near, there, scale, sink)
                mixed.append(found)
                logs[b][h].append(lse)
            out[b].append(times([a for head in finish(i, row, mixed) for a in head], w.output))
    return out, logs
