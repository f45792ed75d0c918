"""Rotary positions (RoPE): pairs of features turned by an angle that grows with the position.

    (a, b)  →  m · (a cos φ - b sin φ,  a sin φ + b cos φ),      φ = position · frequency[pair]

A turned query meets a turned key in a product that depends on the difference of their positions
alone.  Frequencies are data, so every scaling (linear, NTK, YaRN, LongRoPE, Llama-3, proportional)
is a tuple of floats, and YaRN's attention factor is ``magnitude``.

Shapes: ``x [..., T, D]``; positions ``[T]``, ``[B, 1, T]`` or whatever broadcasts to ``[..., T]``; r =
2 · len(frequencies) <= D features turn, from feature ``start`` on, the others pass through.

Exactness: elementwise, so a token's row does not depend on who came with it, to the last bit.
Angles, cosines and sines are float64 and are rounded once, to the dtype of x.
Cached per token: keys are cached turned; a cached key moves by `Rotary.shift`.
Cost: per position and pair a product, a cosine and a sine; per row and pair 6 FLOPs; see `Rotary.cost`.

Source: Su et al. 2021 (arXiv 2104.09864) §3.2 eq. 15 and §3.4.2 eq. 34; partial: GPT-NeoX (2204.06745) §2.1.1.

Where libraries differ: pairs are (k, k + r/2), ``half``, in GPT-NeoX, Llama in transformers and ONNX
``interleaved=0``; (2k, 2k + 1), ``adjacent``, in the paper, GPT-J, Llama as published, DeepSeek and
MLX ``traditional=True``.  In a partial rotation the exponent divides by r, not D.  DeepSeek-V4 turns
the last r features: ``start=-r``.  Most libraries keep frequencies, many also angles, in float32.
"""

from dataclasses import dataclass
import math
from typing import Any, Literal

import numpy as np

from kvattn.arguments import integer, integers, real, reals
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array, Positions


def geometric(width: int, base: float = 10000.0) -> tuple[float, ...]:
    """The paper's frequencies, ``base ** (-2k / width)`` for k from 0 to width/2 - 1.

    Raises
    ------
    ArgumentError
        When width is not even and >= 2, or base is not a finite number above 0.

    Examples
    --------
    >>> geometric(4, 100.0)
    (1.0, 0.1)
    """
    if integer("width", width, 2) % 2:
        raise ArgumentError(f"width must be even, got {width}")
    base = real("base", base, above=0.0)
    return tuple(base ** (-2 * k / int(width)) for k in range(int(width) // 2))


@dataclass(frozen=True)
class Rotary:
    """Rotation of feature pairs.

    Parameters
    ----------
    frequencies
        Radians per position, one for each pair; 0 leaves a pair where it is.
    layout
        ``"half"``: feature k pairs with k + r/2; ``"adjacent"``: 2k pairs with 2k + 1.
    magnitude
        Factor on cosine and sine alike, on queries and on keys.
    start
        First feature that turns; negative counts from the end, as in a slice.
    axes
        For positions with several coordinates, ``[axes, ..., T]``: which coordinate each pair follows.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> rotary = Rotary.of(2)
    >>> rotary.rotate(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])).round(4)
    array([[1.    , 0.    ],
           [0.5403, 0.8415]])
    """

    frequencies: tuple[float, ...]
    layout: Literal["half", "adjacent"] = "half"
    magnitude: float = 1.0
    start: int = 0
    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "frequencies", reals("frequencies", self.frequencies))
        object.__setattr__(self, "magnitude", real("magnitude", self.magnitude, above=0.0))
        object.__setattr__(self, "start", integer("start", self.start))
        if self.layout not in ("half", "adjacent"):
            raise ArgumentError(f"layout must be 'half' or 'adjacent', got {self.layout!r}")
        if self.axes is not None:
            object.__setattr__(self, "axes", integers("axes", self.axes, 0))
            if len(self.axes) != len(self.frequencies):
                raise ArgumentError(
                    f"axes must name one axis for each of {len(self.frequencies)} frequencies, got {len(self.axes)}"
                )

    @classmethod
    def of(
        cls,
        width: int,
        base: float = 10000.0,
        layout: Literal["half", "adjacent"] = "half",
        *,
        magnitude: float = 1.0,
        start: int = 0,
    ) -> "Rotary":
        """The paper's frequencies for ``width`` features.

        >>> Rotary.of(4, base=100.0, layout="adjacent")
        Rotary(frequencies=(1.0, 0.1), layout='adjacent', magnitude=1.0, start=0, axes=None)
        """
        return cls(geometric(width, base), layout, magnitude, start)

    @property
    def width(self) -> int:
        """How many features turn, r.

        >>> Rotary.of(4).width
        4
        """
        return 2 * len(self.frequencies)

    def rotate(self, x: Array, positions: Positions) -> Array:
        """Turn ``x [..., T, D]`` to its positions.

        Parameters
        ----------
        x
            ``[..., T, D]``, floating; D >= r.
        positions
            Broadcasts to ``x.shape[:-1]``; with ``axes``, that behind a first axis of coordinates.

        Returns
        -------
        array
            Of the shape and dtype of x.

        Raises
        ------
        ShapeError
            When positions do not broadcast, or D leaves no room for r features.
        DtypeError
            When x is not floating-point, or positions are not numbers.

        Examples
        --------
        >>> Rotary.of(2).rotate(np.ones((1, 3)), np.array([0]))
        array([[1., 1., 1.]])
        """
        return self._turn(x, positions, self.magnitude)

    def unrotate(self, x: Array, positions: Positions) -> Array:
        """Undo `rotate`, magnitude included, up to rounding.

        >>> rotary, at = Rotary.of(2, magnitude=2.0), np.array([7])
        >>> rotary.unrotate(rotary.rotate(np.ones((1, 2)), at), at).round(12)
        array([[1., 1.]])
        """
        return self._turn(x, np.negative(positions), 1.0 / self.magnitude)

    def shift(self, x: Array, by: Positions) -> Array:
        """Move rows that are turned already ``by`` positions on, up to rounding as if turned there at first.

        >>> rotary, x = Rotary.of(2, magnitude=2.0), np.ones((1, 2))
        >>> moved = rotary.shift(rotary.rotate(x, np.array([3])), np.array([4]))
        >>> np.allclose(moved, rotary.rotate(x, np.array([7])), rtol=0, atol=1e-14)
        True
        """
        return self._turn(x, by, 1.0)

    def queries(self, q: Array, positions: Positions) -> Array:
        """`rotate`, as a layer asks for it: queries and keys turn alike.

        >>> Rotary.of(2).queries(np.ones((1, 1, 1, 2)), np.zeros((1, 1, 1)))
        array([[[[1., 1.]]]])
        """
        return self.rotate(q, positions)

    def keys(self, k: Array, positions: Positions) -> Array:
        """`rotate`, as a layer asks for it: queries and keys turn alike.

        >>> Rotary.of(2).keys(np.ones((1, 1, 1, 2)), np.zeros((1, 1, 1)))
        array([[[[1., 1.]]]])
        """
        return self.rotate(k, positions)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts for so many tokens of any width.

        >>> Rotary.of(4).queries_cost(tokens=3, heads=2, width=4) == Rotary.of(4).cost(rows=6, positions=3)
        True
        """
        return self.cost(rows=tokens * heads, positions=tokens)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts for so many tokens of any width.

        >>> Rotary.of(4).keys_cost(tokens=3, heads=2, width=4) == Rotary.of(4).cost(rows=6, positions=3)
        True
        """
        return self.cost(rows=tokens * heads, positions=tokens)

    def cost(self, *, rows: int, positions: int) -> Tally:
        """What `rotate` counts, in closed form.

        Parameters
        ----------
        rows
            Rows that turn: ``x.size / D``.
        positions
            Entries of ``positions`` (with ``axes``, of one coordinate): its angles are computed once for all heads.

        Examples
        --------
        >>> Rotary.of(4).cost(rows=6, positions=3)
        Tally(arithmetic=78, transcendental=12)
        """
        return self._work(rows, positions, self.magnitude)

    def _work(self, rows: int, positions: int, magnitude: float) -> Tally:
        pairs = len(self.frequencies)
        per_angle = 1 if magnitude == 1.0 else 3
        return Tally(arithmetic=pairs * (6 * rows + per_angle * positions), transcendental=2 * pairs * positions)

    def _turn(self, x: Array, positions: Positions, magnitude: float) -> Array:
        x = np.asarray(x)
        if not np.issubdtype(x.dtype, np.floating):
            raise DtypeError(f"x must be floating-point, got {x.dtype}")
        if not x.ndim:
            raise ShapeError("x must have shape [..., T, D], got ()")
        angles = self._angles(positions, x.shape[:-1])  # [..., T, r/2]
        first = self.start if self.start >= 0 else x.shape[-1] + self.start
        last = first + self.width
        if first < 0 or last > x.shape[-1]:
            raise ShapeError(
                f"x must have room for {self.width} features from start={self.start} on, got {x.shape[-1]} features"
            )
        cosine, sine = np.cos(angles), np.sin(angles)
        if magnitude != 1.0:
            cosine, sine = cosine * magnitude, sine * magnitude
        cosine, sine = cosine.astype(x.dtype), sine.astype(x.dtype)
        half = len(self.frequencies)
        a, b = (
            (slice(first, first + half), slice(first + half, last))
            if self.layout == "half"
            else (slice(first, last, 2), slice(first + 1, last, 2))
        )
        out = np.array(x, order="C")
        np.multiply(x[..., a], cosine, out=out[..., a])
        out[..., a] -= x[..., b] * sine
        np.multiply(x[..., b], cosine, out=out[..., b])
        out[..., b] += x[..., a] * sine
        charge(self._work(math.prod(x.shape[:-1]), angles.size // half, magnitude))
        return out

    def _angles(self, positions: Any, shape: tuple[int, ...]) -> Array:
        places = np.asarray(positions)
        if places.dtype.kind not in "iuf":
            raise DtypeError(f"positions must be numbers, got {places.dtype}")
        each = places[..., None]
        if self.axes is not None:
            if places.ndim == 0 or places.shape[0] <= max(self.axes):
                raise ShapeError(f"positions must have {max(self.axes) + 1} coordinates on axis 0, got {places.shape}")
            each = np.moveaxis(places, 0, -1)[..., self.axes]
        try:
            fits = np.broadcast_shapes(each.shape[:-1], shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ShapeError(f"positions must broadcast to x.shape[:-1], which is {shape}, got {each.shape[:-1]}")
        angles: Array = each.astype(np.float64) * np.array(self.frequencies)
        return angles
