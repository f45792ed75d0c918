"""T5's relative bias: distances share buckets, narrow near the query and wide far from it; a learned bias for each.

    s'[h, q, k]  =  s[h, q, k] + table[bucket(q - k), h]

One way, with N buckets, E = N // 2 and a farthest distance F: a distance n < E has a bucket of its own,
a larger one

    bucket(n)  =  min(N - 1,  E + floor( (N - E) · ln(n / E) / ln(F / E) )),

and keys ahead of the query share bucket 0.  Both ways, N/2 buckets serve each side, keys ahead of the
query from bucket N/2 on.

Shapes: ``table [N, H]``; scores ``[..., rows, columns]``, elementwise.  Bucket E + m begins at the least n
with ``n^(N-E) · E^m >= F^m · E^(N-E)``: whole numbers, so borders are exact on every machine.  A table
entry is rounded once to the dtype of the scores.
Cached per token: nothing.  An encoder uses `BothWays` without a mask; under a causal mask it has a
cache like any other mod, and half of its table idle.  Cost: see `BucketBias.cost`.

Source: Raffel et al. 2020 (arXiv 1910.10683) §2.1; the bucket rule is in the released Mesh TensorFlow code.

Where libraries differ: they take logarithms in float32, and where ``(N - E) · ln(n/E) / ln(F/E)`` is a whole
number, or close to one, may land on its other side: a border moves by one position.  Not so with N = 32
and F = 128, one way or both, as the test shows for all distances up to 1000; this scheme's page lists
parameters where it does.  T5 does not scale queries (``scale=1.0``); x-transformers has a factor on the bias.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.counting import Tally
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions._heads import added, distances, frozen_table, heads_of
from kvattn.typing import Array, Indices, Place, Positions


class Buckets(Protocol):
    """Which bucket a distance falls in."""

    @property
    def count(self) -> int:
        """How many buckets there are."""

    def __call__(self, apart: Positions) -> Indices:
        """Buckets of signed distances, query less key."""


def borders(count: int, farthest: int) -> tuple[int, ...]:
    """The least distance of each bucket, one way: exact, by whole numbers.

    Parameters
    ----------
    count
        N >= 2.
    farthest
        F > N // 2.

    Raises
    ------
    ArgumentError
        When a number is out of its range.

    Examples
    --------
    >>> borders(32, 128)[:20]
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 19, 21, 24)
    """
    count = integer("count", count, 2)
    exact = count // 2
    far = integer("farthest", farthest, exact + 1)
    rest = count - exact
    found = list(range(exact))
    for m in range(rest):
        low, high = exact, far
        wanted = far**m * exact**rest
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if middle**rest * exact**m >= wanted else (middle + 1, high)
        found.append(low)
    return tuple(found)


@dataclass(frozen=True)
class OneWay:
    """Buckets for a decoder: distances back; everything ahead is in bucket 0.

    Parameters
    ----------
    count, farthest
        N and F; T5 has 32 and 128.

    Raises
    ------
    ArgumentError
        When a number is out of its range.

    Examples
    --------
    >>> OneWay()(np.array([-3, 0, 15, 16, 18, 19, 112, 113, 5000])).tolist()
    [0, 0, 15, 16, 16, 17, 30, 31, 31]
    """

    count: int = 32
    farthest: int = 128
    borders: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "borders", borders(self.count, self.farthest))

    def __call__(self, apart: Positions) -> Indices:
        """Buckets of signed distances."""
        found: Indices = np.searchsorted(np.array(self.borders[1:]), np.maximum(apart, 0), side="right")
        return found


@dataclass(frozen=True)
class BothWays:
    """Buckets for an encoder: half of them for keys ahead of the query.

    Parameters
    ----------
    count, farthest
        N, even, and F; T5 has 32 and 128.

    Raises
    ------
    ArgumentError
        When a number is out of its range.

    Examples
    --------
    >>> BothWays()(np.array([-128, -1, 0, 1, 7, 8, 128])).tolist()
    [31, 17, 0, 1, 7, 8, 15]
    """

    count: int = 32
    farthest: int = 128
    side: OneWay = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if integer("count", self.count, 4) % 2:
            raise ArgumentError(f"count must be even, got {self.count}")
        object.__setattr__(self, "side", OneWay(self.count // 2, self.farthest))

    def __call__(self, apart: Positions) -> Indices:
        """Buckets of signed distances."""
        return self.side(np.abs(apart)) + np.where(np.asarray(apart) < 0, self.count // 2, 0)


@dataclass(frozen=True, eq=False)
class BucketBias:
    """A bias for each bucket and head, as a mod.

    Parameters
    ----------
    table
        ``[N, H]``, as T5 stores it.
    buckets
        `OneWay`, `BothWays`, or another rule with ``count`` = N.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When the table is not of its kind, or has not a row for each bucket; later, when a head has no column.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[5]]]), np.array([[[0, 4, 5]]])
    >>> BucketBias([[0.5], [1.5], [2.5], [3.5]], OneWay(4, 8))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k))
    array([[[3.5, 1.5, 0.5]]])
    """

    table: Array
    buckets: Buckets = OneWay()

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", frozen_table("table", self.table, "N H"))
        if not hasattr(self.buckets, "count"):
            raise ArgumentError(f"buckets must be a rule with a count, got {shown(self.buckets)}")
        if len(self.table) != self.buckets.count:
            raise ShapeError(f"table must have shape [N={self.buckets.count}, H], got {self.table.shape}")

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the bias of their bucket, in their own dtype."""
        heads = heads_of("table", self.table.shape[1], place)
        return added(scores, self.table[self.buckets(distances(place)), heads])

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference and an addition for each score; finding the bucket compares, and is not arithmetic.

        >>> BucketBias([[0.5], [1.5]], OneWay(2, 8)).cost(pairs=4, width=8)
        Tally(arithmetic=8)
        """
        return Tally(arithmetic=2 * pairs)
