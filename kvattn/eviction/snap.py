"""SnapKV: what the last queries of the prompt look at, smoothed along the keys.

    score(j)  =  mean over the group's heads of  pool_j( mean over the last w queries of p[h, i, j] )

The window of w keys is always kept and takes part in the softmax, not in the pooling.

Shapes: probabilities ``[B, Hq, T >= w, S]`` to scores ``[B, Hkv, S]``.  Needs: the last w rows of
`kvattn.eviction.probabilities`.
Cached per token: nothing of its own.  Cost: w·S numbers per query head, and the pool.
Source: Li et al. 2024 (arXiv 2404.14469), as read in the ``SnapKVCluster`` of the KVCache-Factory and Ada-KV authors.

Where libraries differ: those sum over the window, which orders keys as the mean does; their
pool is the mean or the maximum, by configuration.  They choose for each query head; the mean over the
group is kvpress's.  A mean pool divides by its full width at both ends, as ``torch.nn.functional.avg_pool1d`` does.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kvattn.arguments import integer
from kvattn.axes import sizes
from kvattn.errors import ArgumentError
from kvattn.eviction.observed import group_mean, query_sum
from kvattn.typing import Array


class Pool(Protocol):
    """Smooths numbers along their last axis."""

    def __call__(self, numbers: Array) -> Array:
        """Return numbers of the same shape."""


@dataclass(frozen=True)
class MeanPool:
    """The mean of ``width`` neighbours; beyond the ends stand zeros, which count.

    Raises
    ------
    ArgumentError
        A width that is not odd and >= 1.

    Examples
    --------
    >>> MeanPool(3)(np.array([3.0, 0.0, 6.0]))
    array([1., 3., 2.])
    """

    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", _odd(self.width))

    def __call__(self, numbers: Array) -> Array:
        """Pool along the last axis."""
        total = np.zeros_like(numbers)
        for neighbour in _neighbours(numbers, self.width, 0.0):
            total = total + neighbour
        return total / self.width


@dataclass(frozen=True)
class MaxPool:
    """The largest of ``width`` neighbours.

    Raises
    ------
    ArgumentError
        A width that is not odd and >= 1.

    Examples
    --------
    >>> MaxPool(3)(np.array([3.0, 0.0, 6.0]))
    array([3., 6., 6.])
    """

    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", _odd(self.width))

    def __call__(self, numbers: Array) -> Array:
        """Pool along the last axis."""
        highest = np.full_like(numbers, -np.inf)
        for neighbour in _neighbours(numbers, self.width, -np.inf):
            highest = np.maximum(highest, neighbour)
        return highest


def window_votes(probabilities: Array, kv_heads: int, *, window: int, pool: Pool) -> Array:
    """Scores from the last ``window`` queries, whose keys are always kept.

    Parameters
    ----------
    probabilities
        ``[B, Hq, T, S]``: the last ``window`` rows are those of the last ``window`` keys.
    kv_heads
        Hkv.
    window
        w >= 1, at most T and S.
    pool
        `MeanPool` or `MaxPool`.

    Returns
    -------
    array
        ``[B, Hkv, S]``, +inf in the window.

    Raises
    ------
    ArgumentError, ShapeError
        When a window does not fit, or heads do not divide.

    Examples
    --------
    >>> p = np.array([[0.0, 0.4, 0.2, 0.4, 0.0], [0.2, 0.2, 0.2, 0.2, 0.2]])[None, None]
    >>> window_votes(p, 1, window=2, pool=MeanPool(1))
    array([[[0.1, 0.3, 0.2, inf, inf]]])
    """
    bound = sizes(("probabilities", probabilities, "B Hq T S"))
    window = integer("window", window, 1, min(bound["T"], bound["S"]))
    earlier = bound["S"] - window
    seen = query_sum(probabilities[:, :, bound["T"] - window :, :earlier]) / window
    votes = group_mean(pool(seen), kv_heads)
    always = np.full((*votes.shape[:2], window), np.inf, votes.dtype)
    return np.concatenate([votes, always], axis=2)


def _odd(width: int) -> int:
    width = integer("width", width, 1)
    if width % 2 == 0:
        raise ArgumentError(f"width must be odd, got {width}")
    return width


def _neighbours(numbers: Array, width: int, beyond: float) -> list[Array]:
    """The numbers moved by -width//2 … width//2 along the last axis."""
    reach, length = width // 2, numbers.shape[-1]
    padded = np.full((*numbers.shape[:-1], length + 2 * reach), beyond, numbers.dtype)
    padded[..., reach : reach + length] = numbers
    return [padded[..., n : n + length] for n in range(width)]
