"""Temperature by position: queries grow with the number of keys before them, so that long contexts stay sharp.

    q_i  →  f(i) · q_i,      keys as they are

    `Stepped`    1 + a · ln(1 + floor((i + first) / period))      Llama-4 (first 1), Ministral-3, Mistral-4 (first 0)
    `Rising`     1 + a · ln(max((i + 1) / length, 1))             Inkling
    `LogLength`  max(ln(i + 1) / ln(length), 1)                   Qwen-1
    `Scalable`   s_h · ln(i + 1)                                  SSMax; s is learned, one for each head

A factor on queries is a factor on scores, so softmax gets the inverse temperature f(i).  It depends on the
query's absolute position alone: how the sequence is cut cannot be seen, and no cached key has to change.

Shapes: ``q [B, Hq, T, D]``, positions ``[B, 1, T]`` or whatever broadcasts to ``[..., T]``, from 0.
The factor is computed in float64 (floors in integers) and rounded once to the dtype of q.
Cached per token: nothing.
Cost: a product per feature, a logarithm and at most four operations per position; see `Temperature.queries_cost`.

Source: Nakanishi 2025 (2501.19399) §2 for SSMax and for the idea; the others are their released code: Llama-4
(meta-llama/llama-models), Ministral-3 and Inkling in transformers, Qwen-1 (QwenLM/Qwen), which follows Chiang & Cholak
2022 (2202.12172) §5.

Where libraries differ: Llama-4 uses it in the layers without rotation only (NoPE), Ministral-3 in every layer, behind
the rotation, Mistral-4 with latent attention; peers compute it in float32, where i + 1 is exact up to 2^24.  Qwen-1
stores a table of 32,767 factors and takes i from the end of the keys.  SSMax's n is the number of
keys seen, i + 1 under a causal mask alone; some ports take the length of the batch, which grows while decoding.
"""

from dataclasses import dataclass
import math
from typing import Any, Protocol

import numpy as np

from kvattn.arguments import integer, real, reals, shown
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, PositionError, ShapeError
from kvattn.positions._rows import places_of, rows_of
from kvattn.typing import Array, Positions


class Curve(Protocol):
    """A factor as a function of the position."""

    def __call__(self, positions: Positions) -> Array:
        """Factors in float64, ``[..., T]`` for positions ``[..., T]``, or ``[..., Hq, T]`` for ``[..., 1, T]``."""

    def cost(self, *, tokens: int) -> Tally:
        """What so many positions take."""


@dataclass(frozen=True)
class Stepped:
    """``1 + strength · ln(1 + floor((i + first) / period))``: 1 up to the first period, then a step for each.

    Raises
    ------
    ArgumentError
        When strength is not finite, or period and first are not integers >= 1 and >= 0.

    Examples
    --------
    >>> Stepped(0.5, period=4, first=1)(np.array([2, 3])).round(3)
    array([1.   , 1.347])
    """

    strength: float
    period: int
    first: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", real("strength", self.strength))
        object.__setattr__(self, "period", integer("period", self.period, 1))
        object.__setattr__(self, "first", integer("first", self.first, 0))

    def __call__(self, positions: Positions) -> Array:
        """Factors ``[..., T]``."""
        return np.asarray(1.0 + self.strength * np.log1p(((positions + self.first) // self.period).astype(np.float64)))

    def cost(self, *, tokens: int) -> Tally:
        """An addition, a division, a product, an addition and a logarithm for each.

        >>> Stepped(0.1, 8192).cost(tokens=3)
        Tally(arithmetic=12, transcendental=3)
        """
        return Tally(arithmetic=4 * tokens, transcendental=tokens)


@dataclass(frozen=True)
class Rising:
    """``1 + strength · ln(max((i + 1) / length, 1))``: 1 up to a length, then a steady rise.

    Raises
    ------
    ArgumentError
        When strength is not finite, or length is no integer >= 1.

    Examples
    --------
    >>> Rising(0.5, length=4)(np.array([3, 7])).round(3)
    array([1.   , 1.347])
    """

    strength: float
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", real("strength", self.strength))
        object.__setattr__(self, "length", integer("length", self.length, 1))

    def __call__(self, positions: Positions) -> Array:
        """Factors ``[..., T]``."""
        return np.asarray(1.0 + self.strength * np.log(np.maximum((positions + 1) / self.length, 1.0)))

    def cost(self, *, tokens: int) -> Tally:
        """An addition, a division, a comparison, a product, an addition and a logarithm for each.

        >>> Rising(0.1, 8192).cost(tokens=3)
        Tally(arithmetic=15, transcendental=3)
        """
        return Tally(arithmetic=5 * tokens, transcendental=tokens)


@dataclass(frozen=True)
class LogLength:
    """``max(ln(i + 1) / ln(length), 1)``: the logarithm of the number of keys, to the base of the training length.

    Raises
    ------
    ArgumentError
        When length is no integer >= 2.

    Examples
    --------
    >>> LogLength(4)(np.array([1, 3, 15]))
    array([1., 1., 2.])
    """

    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", integer("length", self.length, 2))

    def __call__(self, positions: Positions) -> Array:
        """Factors ``[..., T]``."""
        return np.asarray(np.maximum(np.log(positions + 1.0) / math.log(self.length), 1.0))

    def cost(self, *, tokens: int) -> Tally:
        """An addition, a division, a comparison and a logarithm for each.

        >>> LogLength(8192).cost(tokens=3)
        Tally(arithmetic=9, transcendental=3)
        """
        return Tally(arithmetic=3 * tokens, transcendental=tokens)


@dataclass(frozen=True)
class Scalable:
    """``strengths[h] · ln(i + 1)``: the scalable softmax, SSMax; a query with one key has factor 0.

    Raises
    ------
    ArgumentError
        When strengths are not finite numbers, one for each query head.

    Examples
    --------
    >>> Scalable((0.5, 1.0))(np.array([[0, 1]])).round(3)
    array([[0.   , 0.347],
           [0.   , 0.693]])
    """

    strengths: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "strengths", reals("strengths", self.strengths))

    def __call__(self, positions: Positions) -> Array:
        """Factors ``[..., Hq, T]`` for positions ``[..., 1, T]`` or ``[T]``."""
        return np.asarray(np.array(self.strengths)[:, None] * np.log(positions + 1.0))

    def cost(self, *, tokens: int) -> Tally:
        """An addition and a logarithm for each, and a product for each head.

        >>> Scalable((0.5, 1.0)).cost(tokens=3)
        Tally(arithmetic=9, transcendental=3)
        """
        return Tally(arithmetic=(1 + len(self.strengths)) * tokens, transcendental=tokens)


@dataclass(frozen=True)
class Temperature:
    """Queries times a factor of their position; keys pass.

    Parameters
    ----------
    curve
        `Stepped`, `Rising`, `LogLength`, `Scalable` or another `Curve`.

    Raises
    ------
    ArgumentError
        When curve is not a curve.

    Examples
    --------
    >>> tuned = Temperature(LogLength(2))
    >>> tuned.queries(np.ones((2, 1)), np.array([1, 3]))
    array([[1.],
           [2.]])
    """

    curve: Curve

    def __post_init__(self) -> None:
        given: Any = self.curve
        if not callable(given) or isinstance(given, type) or not hasattr(given, "cost"):
            raise ArgumentError(f"curve must be a curve such as Stepped, got {shown(given)}")

    def queries(self, q: Array, positions: Positions) -> Array:
        """``q [..., Hq, T, D]`` times the factors of its positions, in its own dtype.

        Raises
        ------
        PositionError
            When positions are not integers >= 0.
        ShapeError, DtypeError
            When positions or a curve's heads do not fit q, or q is not floating-point.

        Examples
        --------
        >>> Temperature(Scalable((1.0,))).queries(np.ones((1, 2, 1)), np.array([0, 1])).round(3)
        array([[[0.   ],
                [0.693]]])
        """
        q = rows_of("q", q)
        places = places_of("q", positions, q).astype(np.int64, copy=False)
        if places.size and places.min() < 0:
            raise PositionError(f"positions must be >= 0, got {places.min()}")
        factors = self.curve(places)
        try:
            fits = np.broadcast_shapes(factors.shape, q.shape[:-1]) == q.shape[:-1]
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(f"curve must give factors for q.shape[:-1], which is {q.shape[:-1]}, got {factors.shape}")
        charge(self.curve.cost(tokens=places.size) + Tally(arithmetic=q.size))
        out: Array = q * factors.astype(q.dtype)[..., None]
        return out

    def keys(self, k: Array, positions: Positions) -> Array:
        """``k`` itself.

        >>> Temperature(LogLength(2)).keys(np.ones((1, 1)), np.array([3]))
        array([[1.]])
        """
        return k

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> Temperature(LogLength(2)).queries_cost(tokens=3, heads=2, width=4)
        Tally(arithmetic=33, transcendental=3)
        """
        return self.curve.cost(tokens=tokens) + Tally(arithmetic=tokens * heads * width)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """Nothing.

        >>> Temperature(LogLength(2)).keys_cost(tokens=3, heads=2, width=4)
        Tally()
        """
        return Tally()
