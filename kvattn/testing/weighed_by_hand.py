"""A layer of `kvattn.variants.dense.weighed` in loops over numbers that carry their bound.

Projections, scores, cap and mix are written here; how scores become weights is told by a function of one
query's scores in all heads.  `kvattn.testing.balls` derives the bound for the very input.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from kvattn.testing.balls import Ball, agree, dot, given, total
from kvattn.typing import Array, Attended, Place
from kvattn.variants.dense.projections import Projections

Row: TypeAlias = list[Ball]


_ORIGIN = np.zeros((1, 1, 1), np.int64)

NOWHERE = Place(0, _ORIGIN, None, _ORIGIN, _ORIGIN)
"""A place for weighings that do not look at it."""


class Asked(NamedTuple):
    """One query and the keys that it sees, in their order.

    Attributes
    ----------
    scores
        For each query head the scores of the visible keys.
    queries
        For each query head the D numbers of the query.
    distances
        For each visible key how far it lies behind the query.
    """

    scores: list[Row]
    queries: list[Row]
    distances: list[int]


Shares: TypeAlias = Callable[[Asked], tuple[list[Row], list[Ball] | None]]
"""Weights of the visible keys for each head, and the lse of each head or None."""


def by_hand(
    w: Projections,
    x: Array,
    shares: Shares,
    *,
    sees: Callable[[int, int], bool] = lambda i, j: j <= i,
    scale: float | None = None,
    softcap: float | None = None,
    further: Callable[[Asked, list[Row]], list[list[Ball]]] | None = None,
) -> tuple[Any, Any]:
    """The layer in loops.

    Parameters
    ----------
    w, x, scale, softcap
        As in the layer.
    shares
        Makes weights of scores.
    sees
        Whether the query at i sees the key at j.
    further
        For each head the Dv numbers that are mixed besides values, from the weights.

    Returns
    -------
    tuple
        Nested lists of balls, ``[B][T][M]`` and ``[B][Hq][T]``; the second is None where no softmax is taken.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> w = Projections(one, one, one, one, heads=1, kv_heads=1)
    >>> half = lambda asked: ([[Ball(0.5)] * len(row) for row in asked.scores], None)
    >>> by_hand(w, np.array([[[1.0], [3.0]]]), half)[0][0][1][0].value
    2.0
    """
    group = w.heads // w.kv_heads
    scale = 1 / math.sqrt(w.width) if scale is None else scale
    wq, wk, wv, wo = (_columns(matrix) for matrix in (w.query, w.key, w.value, w.output))
    out, lse = [], []
    for sequence in given(x):
        rows: list[Row] = []
        logs: list[list[Ball]] = [[] for _ in range(w.heads)]
        for i in range(len(sequence)):
            seen = [j for j in range(len(sequence)) if sees(i, j)]
            queries = [_part(sequence[i], wq, h, w.width) for h in range(w.heads)]
            scores: list[Row] = []
            for h in range(w.heads):
                scores.append([])
                for j in seen:
                    score = dot(queries[h], _part(sequence[j], wk, h // group, w.width)) * scale
                    if softcap is not None:
                        score = (score / softcap).tanh() * softcap
                    scores[h].append(score)
            asked = Asked(scores, queries, [i - j for j in seen])
            weights, tops = shares(asked)
            mixed: Row = []
            more = None if further is None else further(asked, weights)
            for h in range(w.heads):
                values = [_part(sequence[j], wv, h // group, w.value_width) for j in seen]
                for d in range(w.value_width):
                    number = dot(weights[h], [value[d] for value in values]) if seen else Ball(0.0)
                    mixed.append(number if more is None else number + more[h][d])
                if tops is not None:
                    logs[h].append(tops[h])
            rows.append([dot(mixed, column) for column in wo])
        out.append(rows)
        lse.append(logs)
    return out, lse if lse and lse[0][0] else None


def sigmoid(score: Ball) -> Ball:
    """``1 / (1 + e^-s)``.

    >>> sigmoid(Ball(0.0)).value
    0.5
    """
    return Ball(1.0, 0.0, score.unit) / ((-score).exp() + 1.0)


def softmax(scores: Sequence[Ball]) -> tuple[Row, Ball]:
    """Weights and lse of one head.

    >>> [weight.value for weight in softmax([Ball(0.0), Ball(0.0)])[0]]
    [0.5, 0.5]
    """
    if not scores:
        return [], Ball(-math.inf)
    top = max(scores, key=lambda score: score.value)
    powers = [(score - top).exp() for score in scores]
    whole = total(powers)
    return [power / whole for power in powers], top + whole.log()


def small(heads: int = 4, kv_heads: int = 2, dtype: DTypeLike = np.float64) -> tuple[Projections, Array]:
    """A layer of small sizes that differ, D = 4, Dv = 3, M = 5, and six tokens of two sequences for it.

    >>> w, x = small()
    >>> w.width, w.value_width, x.shape
    (4, 3, (2, 6, 5))
    """
    shapes = (5, heads * 4), (5, kv_heads * 4), (5, kv_heads * 3), (heads * 3, 5), (2, 6, 5)
    parts = [np.random.default_rng([7, n]).normal(size=shape).astype(dtype) for n, shape in enumerate(shapes)]
    query, key, value, output, x = parts
    return Projections(query, key, value, output, heads, kv_heads), x


def gap(found: Attended, wanted: tuple[Any, Any]) -> float:
    """How far a result stands from `by_hand`, in units of what it may: at most 1 where they agree.

    >>> gap(Attended(np.ones(1), np.full(1, np.nan)), ([Ball(1.0)], None))
    0.0
    """
    out, lse = wanted
    if lse is None:
        return agree(found.out, out) if np.isnan(found.lse).all() else math.inf
    return max(agree(found.out, out), agree(found.lse, lse))


def _columns(matrix: Array) -> list[Row]:
    return [list(column) for column in zip(*given(matrix), strict=True)]


def _part(row: Row, columns: list[Row], head: int, width: int) -> Row:
    """The numbers of one head."""
    return [dot(row, columns[head * width + d]) for d in range(width)]
