"""H2O: keys that have been looked at most, and the most recent ones.

    total(j)  =  Σ_i p[i, j],  added up over the queries so far, over the group's heads
    after query i:  while more than heavy + recent keys are there, the one of least total that is not
    among the last ``recent`` slots goes

`HeavyHitters` is that greedy loop; `accumulated` and `averaged` score a whole prompt at once.

Shapes: probabilities ``[B, Hq, T, S]`` to scores ``[B, Hkv, S]``.  Needs: probabilities of every query.
Cached per token: one number per key/value head beside the key and the value.
Cost: one addition per visible pair; the probabilities themselves are what a fused kernel does not give.
Source: Zhang et al. 2023 (arXiv 2306.14048), and the authors' code (``H2OKVCache_LayerWise`` in FMInference/H2O).

Where libraries differ: the authors' code evicts a whole prompt at once, from full attention, and token by
token behind it; kvpress's ObservedAttentionPress divides each sum by the number of queries that saw the
key, which early keys otherwise win by, has no recent part, and means over the group.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.axes import sizes
from kvattn.eviction.observed import group_mean, group_sum, query_sum
from kvattn.eviction.selection import protect, top
from kvattn.eviction.standing import Standing
from kvattn.typing import Array, Visible


def accumulated(probabilities: Array, kv_heads: int) -> Array:
    """The undivided sum over queries and over the group's heads, ``[B, Hkv, S]``.

    >>> accumulated(np.array([[1.0, 0.0], [0.5, 0.5]])[None, None], 1)
    array([[[1.5, 0.5]]])
    """
    sizes(("probabilities", probabilities, "B Hq T S"))
    return group_sum(query_sum(probabilities), kv_heads)


def averaged(probabilities: Array, visible: Visible, kv_heads: int) -> Array:
    """The mean over the queries that saw the key, then over the group's heads, ``[B, Hkv, S]``.

    Parameters
    ----------
    probabilities, visible
        ``[B, Hq, T, S]``; `kvattn.execution.question.Question.visible` gives the second.
    kv_heads
        Hkv.

    Raises
    ------
    ShapeError
        When shapes differ or heads do not divide.

    Examples
    --------
    >>> p = np.array([[1.0, 0.0], [0.5, 0.5]])[None, None]
    >>> averaged(p, p > 0, 1)
    array([[[0.75, 0.5 ]]])
    """
    sizes(("probabilities", probabilities, "B Hq T S"), ("visible", visible, "B Hq T S"))
    times = visible.sum(axis=2).astype(probabilities.dtype)
    return group_mean(query_sum(probabilities) / np.maximum(times, 1.0), kv_heads)


@dataclass(frozen=True)
class HeavyHitters:
    """The greedy policy: after every query at most ``heavy + recent`` keys are left.

    Parameters
    ----------
    heavy, recent
        How many keys stay for their total, and how many for being the last; commonly half of each.

    Raises
    ------
    ArgumentError
        When a number is no integer, negative, or both are 0.

    Examples
    --------
    >>> from kvattn.eviction.standing import untouched
    >>> policy, standing = HeavyHitters(heavy=1, recent=1), untouched(1, 1)
    >>> for row in ([1.0], [0.2, 0.8], [0.1, 0.6, 0.3]):
    ...     standing = policy.observe(standing, np.array(row)[None, None])
    >>> standing.kept[0, 0], standing.totals[0, 0].round(3)
    (array([False,  True,  True]), array([0. , 1.4, 0.3]))
    """

    heavy: int
    recent: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "heavy", integer("heavy", self.heavy, 0))
        object.__setattr__(self, "recent", integer("recent", self.recent, 0 if self.heavy else 1))

    def observe(self, standing: Standing, row: Array) -> Standing:
        """Add a query's probabilities ``[B, Hq, S + 1]``, then evict down to the budget.

        >>> from kvattn.eviction.standing import untouched
        >>> HeavyHitters(1, 1).observe(untouched(1, 1), np.ones((1, 2, 1))).totals
        array([[[2.]]])
        """
        batch, kv_heads, slots = standing.kept.shape
        sizes(("row", row, f"{batch} Hq {slots + 1}"))
        own = np.ones((batch, kv_heads, 1), np.bool_)
        kept = np.concatenate([standing.kept, own], axis=2)
        totals = group_sum(row, kv_heads)
        totals[:, :, :slots] += standing.totals
        worth = protect(np.where(kept, totals, -np.inf), last=self.recent)
        kept = kept & top(worth, min(self.heavy + self.recent, slots + 1))
        return Standing(kept, np.where(kept, totals, 0.0).astype(totals.dtype, copy=False))
