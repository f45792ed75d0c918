"""Ada-KV: heads with scattered attention keep more keys, heads that look at few keep less.

    n*_h  =  how many of the Hkv · budget highest scores of all heads together are head h's
    n_h   =  (1 - floor) · n*_h + floor · budget

The sum over heads is ``Hkv · budget`` exactly: numbers are rounded down and what is missing goes to the
largest remainders, the lowest head first.

Shapes: ``scores [B, Hkv, S]`` to budgets ``[B, Hkv]``, which `kvattn.eviction.top` takes.  Needs: any
scores that compare between heads, such as probabilities.
Cached per token: nothing; heads then hold different numbers of keys.  Cost: one sort of a layer's scores.
Source: Feng et al. 2024 (arXiv 2407.11550); the second line is ``floor_alpha`` of the authors' code.

Where libraries differ: kvpress (`safeguarded_budgets`) protects each head's best ``floor · budget`` keys, at least
one, and then takes the highest of all; it masks the others instead of forgetting them.  The authors
leave the window out of both lines, which gives the same, since all heads keep it.
"""

from fractions import Fraction

import numpy as np

from kvattn.arguments import integer, real
from kvattn.errors import ArgumentError
from kvattn.eviction.selection import check_scores, top
from kvattn.typing import Array, Indices


def adaptive_budgets(scores: Array, budget: int, *, floor: float = 0.2) -> Indices:
    """How many keys each head keeps, between an equal share and its part of the highest scores.

    Parameters
    ----------
    scores
        ``[B, Hkv, S]``, no NaN.
    budget
        Keys per head on average; S or more keeps everything.
    floor
        From 0, all by scores, to 1, all alike.

    Returns
    -------
    array
        ``[B, Hkv]`` integers that sum to ``Hkv · min(budget, S)`` in every sequence.

    Raises
    ------
    ArgumentError, ShapeError
        When an argument is not of its kind.

    Examples
    --------
    >>> adaptive_budgets(np.array([[[9.0, 8.0, 7.0, 6.0], [5.0, 0.0, 0.0, 0.0]]]), 2, floor=0.5)
    array([[3, 1]])
    """
    budget, part = _read(scores, budget, floor)
    heads = scores.shape[1]
    found = np.zeros(scores.shape[:2], np.int64)
    for b, counts in enumerate(_shares(scores, budget)):
        exact = [(1 - part) * int(n) + part * budget for n in counts]
        floors = [int(n // 1) for n in exact]
        by_rest = sorted(range(heads), key=lambda h: (floors[h] - exact[h], h))
        for h in by_rest[: heads * budget - sum(floors)]:
            floors[h] += 1
        found[b] = floors
    return found


def safeguarded_budgets(scores: Array, budget: int, *, floor: float = 0.2) -> Indices:
    """How many keys each head keeps when its best ``floor · budget``, at least one, come first and then the highest.

    Parameters, result and errors as in `adaptive_budgets`; ``floor`` 0 protects none.

    >>> safeguarded_budgets(np.array([[[9.0, 8.0, 7.0, 6.0], [5.0, 0.0, 0.0, 0.0]]]), 2, floor=0.5)
    array([[3, 1]])
    """
    budget, part = _read(scores, budget, floor)
    safe = max(1, int(part * budget // 1)) if part and budget else 0
    held = np.where(top(np.where(np.isposinf(scores), np.finfo(scores.dtype).max, scores), safe), np.inf, scores)
    return _shares(held, budget)


def _read(scores: Array, budget: int, floor: float) -> tuple[int, Fraction]:
    check_scores(scores)
    if real("floor", floor, least=0.0) > 1.0:
        raise ArgumentError(f"floor must be from 0 to 1, got {floor}")
    return min(integer("budget", budget, 0), scores.shape[2]), Fraction(repr(float(floor)))  # 0.3 is three tenths


def _shares(scores: Array, budget: int) -> Indices:
    """How many of the ``Hkv · budget`` highest scores each head has; equal ones: lowest head, then lowest slot."""
    batch, heads, length = scores.shape
    chosen = top(scores.reshape(batch, 1, heads * length), heads * budget)
    counts: Indices = chosen.reshape(scores.shape).sum(axis=2)
    return counts
