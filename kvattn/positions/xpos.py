"""xPos: rotated queries and keys whose pairs fade with the distance, each at its own pace.

    q_i[pair k]  →  ζ_k^(+(i - origin) / 512) · R(i θ_k) q,      k_j[pair k]  →  ζ_k^(-(j - origin) / 512) · R(j θ_k) k
    ζ_k = (2k/r + 0.4) / 1.4

A score then carries ζ_k^((i - j) / 512) for each pair and depends on the difference of positions alone.
`XPos` is the fading; the rotation is a `kvattn.positions.Rotary` of the same layout before it:
``query_key=(Rotary.of(64, layout="adjacent"), XPos.of(64, layout="adjacent"))``.  The two commute.

Shapes: ``q [B, Hq, T, D]``, ``k [B, Hkv, T, D]``, positions ``[B, 1, T]``; r = 2 · len(decays) <= D features fade.
Factors are float64 and are rounded once, to the dtype of the rows.
Range: queries shrink and keys grow exponentially.  Beyond `XPos.reach` of the origin, 29,178 positions in float32
and 274,788 in float64 for the paper's ζ, rows would leave the normal numbers and the call raises.  An origin in
the middle of the context doubles what can be reached.
Cached per token: keys are cached faded; a cached key cannot be moved by rotation alone.
Cost: per position and pair a power, per row and pair two products.

Source: Sun et al. 2022 (2212.10554) §3.2, ζ with γ = 0.4; the 512 is the authors' released code, torchscale.

Where libraries differ: x-transformers and torchscale put the origin at the middle of each call's positions, which
leaves the scores of one call as they are but not those between a new query and a key cached by an earlier
call; here the origin is part of the scheme.  RetNet in torchscale fades with one factor per head in place of ζ.
"""

from dataclasses import dataclass
import math
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike

from kvattn.arguments import integer, real, reals
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, PositionError, ShapeError
from kvattn.positions._rows import places_of, rows_of
from kvattn.typing import Array, Positions


@dataclass(frozen=True)
class XPos:
    """Exponential fading of feature pairs.

    Parameters
    ----------
    decays
        ζ, above 0, one for each pair; 1 leaves a pair alone.
    layout
        ``"half"``: feature k pairs with k + r/2; ``"adjacent"``: 2k pairs with 2k + 1.
    period
        Positions over which a pair fades by its ζ.
    origin
        Position at which nothing fades.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> faded = XPos((0.5,), period=1.0)
    >>> faded.queries(np.ones((1, 2)), np.array([2])), faded.keys(np.ones((1, 2)), np.array([2]))
    (array([[0.25, 0.25]]), array([[4., 4.]]))
    """

    decays: tuple[float, ...]
    layout: Literal["half", "adjacent"] = "half"
    period: float = 512.0
    origin: int = 0

    def __post_init__(self) -> None:
        found = reals("decays", self.decays)
        object.__setattr__(self, "decays", tuple(real(f"decays[{n}]", x, above=0.0) for n, x in enumerate(found)))
        object.__setattr__(self, "period", real("period", self.period, above=0.0))
        object.__setattr__(self, "origin", integer("origin", self.origin))
        if self.layout not in ("half", "adjacent"):
            raise ArgumentError(f"layout must be 'half' or 'adjacent', got {self.layout!r}")

    @classmethod
    def of(
        cls, width: int, layout: Literal["half", "adjacent"] = "half", period: float = 512.0, origin: int = 0
    ) -> "XPos":
        """The paper's decays for ``width`` features.

        >>> [round(zeta, 3) for zeta in XPos.of(4).decays]
        [0.286, 0.643]
        """
        if integer("width", width, 2) % 2:
            raise ArgumentError(f"width must be even, got {width}")
        pairs = int(width) // 2
        return cls(tuple((k / pairs + 0.4) / 1.4 for k in range(pairs)), layout, period, origin)

    def reach(self, dtype: DTypeLike = np.float64) -> int:
        """How far from the origin rows keep their digits: a factor times the dtype's epsilon is a normal number.

        >>> XPos.of(64).reach(np.float32), XPos.of(64).reach()
        (29178, 274788)
        """
        steepest = max(abs(math.log(zeta)) for zeta in self.decays)
        limits = np.finfo(dtype)
        room = (math.log(float(limits.eps)) - math.log(float(limits.tiny))) * self.period
        return 2**62 if steepest * 2**62 <= room else math.floor(room / steepest)

    def queries(self, q: Array, positions: Positions) -> Array:
        """``q [..., T, D]``, its pairs times ``ζ ** ((position - origin) / period)``.

        Raises
        ------
        PositionError
            When a position is no integer, or beyond the reach.
        ShapeError, DtypeError
            When positions do not fit q, D leaves no room for r features, or q is not floating-point.

        Examples
        --------
        >>> XPos((0.5,), period=1.0, origin=3).queries(np.ones((1, 3)), np.array([4]))
        array([[0.5, 0.5, 1. ]])
        """
        return self._faded("q", q, positions, 1.0)

    def keys(self, k: Array, positions: Positions) -> Array:
        """``k [..., T, D]``, its pairs times ``ζ ** (-(position - origin) / period)``; raises as `queries` does.

        >>> XPos((0.5,), period=1.0, origin=3).keys(np.ones((1, 3)), np.array([4]))
        array([[2., 2., 1.]])
        """
        return self._faded("k", k, positions, -1.0)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts for so many tokens of any width.

        >>> XPos.of(4).queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=30, transcendental=6)
        """
        return self._work(tokens * heads, tokens)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts, the same.

        >>> XPos.of(4).keys_cost(tokens=3, heads=1, width=4)
        Tally(arithmetic=18, transcendental=6)
        """
        return self._work(tokens * heads, tokens)

    def _work(self, rows: int, positions: int) -> Tally:
        pairs = len(self.decays)
        return Tally(arithmetic=2 * pairs * rows + 2 * positions, transcendental=pairs * positions)

    def _faded(self, name: str, rows: Array, positions: Positions, sign: float) -> Array:
        rows = rows_of(name, rows)
        places = places_of(name, positions, rows)
        pairs = len(self.decays)
        if rows.shape[-1] < 2 * pairs:
            raise ShapeError(f"{name} must have room for {2 * pairs} features, got {rows.shape[-1]}")
        away = places.astype(np.int64) - self.origin
        reach = self.reach(rows.dtype)
        lost = places[np.abs(away) > reach]
        if lost.size:
            raise PositionError(
                f"positions must be within {reach} of origin={self.origin} in {rows.dtype}, got {lost.flat[0]}"
            )
        factors = np.power(self.decays, (sign * away / self.period)[..., None]).astype(rows.dtype)  # [..., T, r/2]
        out = np.array(rows, order="C")
        a, b = (
            (slice(0, pairs), slice(pairs, 2 * pairs))
            if self.layout == "half"
            else (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
        )
        out[..., a] *= factors
        out[..., b] *= factors
        charge(self._work(math.prod(rows.shape[:-1]), places.size))
        return out
