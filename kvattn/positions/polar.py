"""Polar positions (PoPE): content sets how long each feature's arrow is, position alone where it points.

    score(i, j)  =  Σ_c  softplus(q_c) · softplus(k_c) · cos((i - j) θ_c - δ_c),      θ_c = base^(-c / D)

A feature becomes a point of the plane, ``softplus(x) · (cos φ, sin φ)``, with φ = i θ for queries and
φ = j θ + δ for keys; δ is learned for each key head and feature.  Unlike in RoPE no content turns an angle.

Shapes: ``q [B, Hq, T, D]`` and ``k [B, Hkv, T, D]`` become ``[…, 2D]``: all cosines, then all sines.  D frequencies,
phases ``[Hkv, D]``, positions ``[B, 1, T]``.  Angles, cosines and sines are float64 and are rounded once.
Cached per token: 2D numbers for each key head, twice RoPE's.  The scale stays ``1/sqrt(D)``: a layer
keeps it, `kvattn.attend` sees 2D features and must be told.
Cost: per feature a softplus (two transcendentals, two operations) and two products; per query position and
frequency a product, a cosine and a sine; per key position, and for each head, an addition, a cosine and a sine more.

Source: Gopalakrishnan et al. 2025 (2509.10534), the definition of PoPE's score, with its bias δ on keys.

Where libraries differ: PoPE-pytorch lays cosine and sine of a feature side by side, x-transformers as here; scores
are the same.  Both clamp δ to [-2π, 0] at every call, and start it at 0 or anywhere in there.
"""

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import DTypeLike

from kvattn import ops
from kvattn.arguments import integer, reals
from kvattn.arrays import floating
from kvattn.counting import Tally, charge
from kvattn.errors import ShapeError
from kvattn.positions._rows import places_of, rows_of
from kvattn.positions.rotary import geometric
from kvattn.typing import Array, Positions


@dataclass(frozen=True, eq=False)
class Polar:
    """Rows of D features as D arrows in the plane, ``[…, 2D]``; the phases are copied.

    Parameters
    ----------
    frequencies
        Radians per position, one for each feature.
    phases
        δ, ``[Hkv, D]``, radians that every key is ahead.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        When a parameter is not of its kind.

    Examples
    --------
    >>> polar = Polar((math.pi / 2,), [[0.0]])
    >>> (polar.queries(np.zeros((1, 2, 1)), np.arange(2)) / math.log(2)).round(3) + 0.0
    array([[[1., 0.],
            [0., 1.]]])
    """

    frequencies: tuple[float, ...]
    phases: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "frequencies", reals("frequencies", self.frequencies))
        held = np.array(floating("phases", self.phases))
        if held.ndim != 2 or not len(held) or held.shape[1] != len(self.frequencies):
            raise ShapeError(f"phases must have shape [Hkv, D] with D={len(self.frequencies)}, got {held.shape}")
        held.flags.writeable = False
        object.__setattr__(self, "phases", held)

    @classmethod
    def of(cls, width: int, kv_heads: int, base: float = 10000.0) -> "Polar":
        """The paper's frequencies for ``width`` features, and phases of 0.

        >>> Polar.of(2, kv_heads=1, base=100.0).frequencies
        (1.0, 0.1)
        """
        count = integer("width", width, 1)
        return cls(geometric(2 * count, base), np.zeros((integer("kv_heads", kv_heads, 1), count)))

    def widened(self, width: int) -> int:
        """How many features come out.

        >>> Polar.of(4, 1).widened(4)
        8
        """
        return 2 * width

    def queries(self, q: Array, positions: Positions) -> Array:
        """``q [..., T, D]`` as ``[..., T, 2D]``.

        Raises
        ------
        ShapeError, DtypeError, PositionError
            When q has other than D features, positions do not fit it, or either is not of its kind.

        Examples
        --------
        >>> Polar.of(3, 1).queries(np.ones((5, 3)), np.arange(5)).shape
        (5, 6)
        """
        q = self._read("q", q)
        places = places_of("q", positions, q, "iuf")
        charge(self._work(math.prod(q.shape[:-1]), places.size, 0))
        return _arrows(ops.softplus(q), places.astype(np.float64)[..., None] * np.array(self.frequencies), q.dtype)

    def keys(self, k: Array, positions: Positions) -> Array:
        """``k [..., Hkv, T, D]`` as ``[..., Hkv, T, 2D]``, ahead by the phases.

        Raises
        ------
        ShapeError, DtypeError, PositionError
            When k has other heads or features than the phases, positions do not fit it, or either is not of its kind.

        Examples
        --------
        >>> Polar.of(3, 2).keys(np.ones((2, 5, 3)), np.arange(5)).shape
        (2, 5, 6)
        """
        k = self._read("k", k)
        heads = len(self.phases)
        if k.shape[-3:-2] != (heads,):
            raise ShapeError(f"k must have shape [..., Hkv={heads}, T, D], got {k.shape}")
        places = places_of("k", positions, k, "iuf")
        if places.ndim > 1 and places.shape[-2] != 1:
            raise ShapeError(f"positions must have one entry for all heads, got shape {places.shape}")
        charge(self._work(math.prod(k.shape[:-1]), places.size, heads))
        angles = places.astype(np.float64)[..., None] * np.array(self.frequencies) + self.phases[:, None, :]
        return _arrows(ops.softplus(k), angles, k.dtype)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> Polar.of(4, 1).queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=108, transcendental=72)
        """
        size = tokens * heads * width
        return self._work(tokens * heads, tokens, 0) + Tally(arithmetic=2 * size, transcendental=2 * size)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts.

        >>> Polar.of(4, 2).keys_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=132, transcendental=96)
        """
        size = tokens * heads * width
        return self._work(tokens * heads, tokens, heads) + Tally(arithmetic=2 * size, transcendental=2 * size)

    def _read(self, name: str, rows: Array) -> Array:
        rows = rows_of(name, rows)
        if rows.shape[-1] != len(self.frequencies):
            raise ShapeError(f"{name} must have {len(self.frequencies)} features, got {rows.shape[-1]}")
        return rows

    def _work(self, rows: int, positions: int, phased: int) -> Tally:
        """Products of magnitudes with cosines and sines, and the angles; the softplus is counted where it is done."""
        width = len(self.frequencies)
        angles = positions * width
        return Tally(arithmetic=2 * rows * width + angles * (1 + phased), transcendental=2 * angles * max(phased, 1))


def _arrows(lengths: Array, angles: Array, dtype: DTypeLike) -> Array:
    """``lengths · cos(angles)``, then ``lengths · sin(angles)``, side by side in the last axis."""
    width = lengths.shape[-1]
    out = np.empty((*lengths.shape[:-1], 2 * width), lengths.dtype)
    np.multiply(lengths, np.cos(angles).astype(dtype), out=out[..., :width])
    np.multiply(lengths, np.sin(angles).astype(dtype), out=out[..., width:])
    return out
