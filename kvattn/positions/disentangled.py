"""DeBERTa's disentangled attention: content and position meet crosswise, in two products beside the usual one.

    s[q, k]  =  scale · ( Q_q · K_k  +  Q_q · KR_δ(q, k)  +  K_k · QR_δ'(q, k) ),      scale = 1 / sqrt(3 D)
    δ(q, k)  =  clip(b(q - k), -span, span - 1) + span

"Content to position" reads keys of distances, KR; "position to content" reads queries of distances, QR.
The paper writes δ' = δ(k, q); the released code, and every model trained with it, uses δ' = δ(q, k).
b is the distance itself, or log buckets as in version 2: with N buckets, E = N // 2 and a farthest
distance F, what is at most E away stays, and beyond it

    b(n)  =  sign(n) · ( E + ceil( (E - 1) · ln(|n| / E) / ln((F - 1) / E) ) ).

Shapes: KR and QR ``[H, 2·span, D]``, projected already (they are made from one table of M features by
this layer's matrices); scores ``[..., rows, columns]``.  Borders of buckets are exact, by whole numbers.
Cached per token: nothing.  The models are encoders; under a causal mask the rows for later keys are
idle, and the laws of a cache hold.  Cost: see `Disentangled.cost`.

Source: He et al. 2020 (DeBERTa, arXiv 2006.03654) §3.1 eq. 2 to 4; log buckets: the released code of version 2.

Where libraries differ: the scale counts the products in use, 1/sqrt(2 D) with one of the two.  Version 1
has no buckets.  Libraries find buckets by float32 logarithms, which a search over common parameters did
not catch at a border.  Where queries and keys differ in number, transformers hands N and F to the
third product's buckets in each other's place.
"""

from dataclasses import dataclass, field
import math

import numpy as np

from kvattn.arguments import integer, optional_real, shown
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.positions.distance_table import DistanceTable
from kvattn.typing import Array, Place, Positions


@dataclass(frozen=True)
class LogBuckets:
    """Version 2's buckets: signed distances, exact up to half their number, logarithmic beyond.

    Parameters
    ----------
    count, farthest
        N >= 4 and F > N // 2 + 1; DeBERTa-v3 has 256 and 512.

    Raises
    ------
    ArgumentError
        When a number is out of its range.

    Examples
    --------
    >>> LogBuckets(8, 32)(np.array([-40, -4, 0, 4, 5, 7, 8, 15, 16, 31])).tolist()
    [-8, -4, 0, 4, 5, 5, 6, 6, 7, 7]
    """

    count: int
    farthest: int
    _borders: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        middle = integer("count", self.count, 4) // 2
        top = integer("farthest", self.farthest, middle + 2) - 1
        rest = middle - 1
        found: list[int] = []
        n = middle + 1
        while len(found) < middle:  # the least n with (E - 1) · ln(n / E) / ln(top / E) > m, m = 0, 1, …
            m = len(found)
            low, high = n - 1, n
            while high**rest * middle**m <= top**m * middle**rest:
                low, high = high, 2 * high
            while high - low > 1:
                between = (low + high) // 2
                past = between**rest * middle**m > top**m * middle**rest
                low, high = (low, between) if past else (between, high)
            found.append(high)
            n = high
        object.__setattr__(self, "_borders", tuple(found))

    def __call__(self, apart: Positions) -> Positions:
        """Signed buckets of signed distances; from bucket N on, all share one."""
        size = np.abs(np.asarray(apart, np.int64))
        middle = self.count // 2
        far = middle + np.searchsorted(np.array(self._borders), size, side="right")
        found: Positions = np.sign(apart) * np.where(size <= middle, size, far)
        return found


@dataclass(frozen=True, eq=False)
class Disentangled:
    """The two cross products, as a mod.

    Parameters
    ----------
    keys, queries
        KR and QR by distance; None leaves a product out.
    scale
        The scale of the layer; ``1/sqrt((1 + products in use) · D)`` unless given.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind, or there is no table at all; later, when a caller has no
        queries or no keys.

    Examples
    --------
    >>> table = DistanceTable(np.array([[[1.0], [2.0]]]), ahead=1)
    >>> at, one = np.zeros((1, 1, 1), np.int64), np.ones((1, 1, 1))
    >>> place = Place(0, at, 3 * one, at + 1, np.array([[[1, 2]]]), keys=np.array([[[5.0, 7.0]]]))
    >>> Disentangled(table, table, scale=1.0)(np.zeros((1, 1, 2)), place)  # (3 + 5) · 2, (3 + 7) · 1
    array([[[16., 10.]]])
    """

    keys: DistanceTable | None = None
    queries: DistanceTable | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("keys", "queries"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), DistanceTable):
                raise ArgumentError(f"{name} must be a DistanceTable or None, got {shown(getattr(self, name))}")
        if self.keys is None and self.queries is None:
            raise ArgumentError("keys or queries must be a DistanceTable, got None for both")
        object.__setattr__(self, "scale", optional_real("scale", self.scale))

    @property
    def terms(self) -> int:
        """Products in use besides the usual one.

        >>> Disentangled(DistanceTable(np.zeros((1, 2, 4)), ahead=1)).terms
        1
        """
        return (self.keys is not None) + (self.queries is not None)

    def factor(self, width: int) -> float:
        """The scale of all products, which the layer needs too.

        >>> table = DistanceTable(np.zeros((1, 2, 3)), ahead=1)
        >>> Disentangled(table, table).factor(3)
        0.3333333333333333
        """
        return 1.0 / math.sqrt((1 + self.terms) * width) if self.scale is None else self.scale

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the scaled cross products, in their own dtype."""
        if place.queries is None or place.keys is None:
            missing = "queries" if place.queries is None else "keys"
            raise ArgumentError(f"place must have queries and keys for positions to meet, got no {missing}")
        scale = self.factor(place.queries.shape[-1])
        if self.keys is not None:
            scores = scores + self.keys.with_queries(place.queries, place) * scale
        if self.queries is not None:
            scores = scores + self.queries.with_keys(place.keys, place) * scale
        return scores

    def cost(self, *, pairs: int, width: int) -> Tally:
        """For each score and product in use, D products, a scaling and an addition.

        >>> Disentangled(DistanceTable(np.zeros((1, 2, 4)), ahead=1)).cost(pairs=10, width=4)
        Tally(matmul=80, arithmetic=20)
        """
        return Tally(matmul=2 * width * pairs * self.terms, arithmetic=2 * pairs * self.terms)
