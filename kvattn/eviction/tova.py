"""TOVA: keys that the newest query looks at; all heads keep the same.

    score(j)  =  mean over all query heads of  p[h, last, j]

Shapes: probabilities ``[B, Hq, T, S]`` to scores ``[B, Hkv, S]``.  Needs: the last row of
`kvattn.eviction.probabilities`.
Cached per token: nothing of its own; what was evicted at the last step is not asked about again.
Cost: S numbers per query head and step.
Source: Oren et al. 2024 (arXiv 2401.06104), as read in kvpress.

Where libraries differ: kvpress always keeps the last token (``protect(scores, last=1)``); in the paper it
may go like any other.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.axes import sizes
from kvattn.errors import ShapeError
from kvattn.eviction.observed import group_mean
from kvattn.eviction.selection import top
from kvattn.eviction.standing import Standing
from kvattn.typing import Array


def last_query(probabilities: Array, kv_heads: int) -> Array:
    """The last query's probabilities, averaged over all heads and given to each, ``[B, Hkv, S]``.

    Raises
    ------
    ShapeError
        When there is no query, or heads do not divide.

    Examples
    --------
    >>> last_query(np.array([[[[0.5, 0.5]], [[1.0, 0.0]]]]), kv_heads=1)
    array([[[0.75, 0.25]]])
    """
    bound = sizes(("probabilities", probabilities, "B Hq T S"))
    if not bound["T"]:
        raise ShapeError(f"probabilities must have at least one query, got shape {probabilities.shape}")
    if bound["Hq"] % integer("kv_heads", kv_heads, 1):
        raise ShapeError(f"probabilities must have a multiple of {kv_heads} heads, got {bound['Hq']}")
    return np.repeat(group_mean(probabilities[:, :, -1], 1), kv_heads, axis=1)


@dataclass(frozen=True)
class Tova:
    """The greedy policy: after every query at most ``budget`` keys are left.

    Raises
    ------
    ArgumentError
        A budget below 1.

    Examples
    --------
    >>> from kvattn.eviction.standing import untouched
    >>> policy, standing = Tova(2), untouched(1, 1)
    >>> for row in ([1.0], [0.2, 0.8], [0.1, 0.6, 0.3]):
    ...     standing = policy.observe(standing, np.array(row)[None, None])
    >>> standing.kept[0, 0]
    array([False,  True,  True])
    """

    budget: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", integer("budget", self.budget, 1))

    def observe(self, standing: Standing, row: Array) -> Standing:
        """Look at a query's probabilities ``[B, Hq, S + 1]``, then evict down to the budget.

        >>> from kvattn.eviction.standing import untouched
        >>> Tova(1).observe(untouched(1, 1), np.ones((1, 2, 1))).kept
        array([[[ True]]])
        """
        batch, kv_heads, slots = standing.kept.shape
        sizes(("row", row, f"{batch} Hq {slots + 1}"))
        own = np.ones((batch, kv_heads, 1), np.bool_)
        kept = np.concatenate([standing.kept, own], axis=2)
        worth = np.where(kept, last_query(row[:, :, None], kv_heads), -np.inf)
        return Standing(kept & top(worth, self.budget), np.zeros(kept.shape, row.dtype))
