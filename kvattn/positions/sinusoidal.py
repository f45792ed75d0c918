"""Sinusoidal positions: sines and cosines of the position, added to the hidden states.

    x[i, 2k] + m · sin(i · ω_k),    x[i, 2k + 1] + m · cos(i · ω_k),      ω_k = 10000^(-2k / M)

Frequencies are data: `kvattn.positions.geometric` gives the paper's, whose exponent divides by M/2, and
`spanning` those that divide by M/2 - 1, so that the last is 1/10000 exactly.

Shapes: ``x [..., T, M]``; positions ``[T]`` or whatever broadcasts to ``[..., T]``.  With an odd M the last
feature is left alone.  Angles, sines and cosines are float64 and are rounded once, to the dtype of x.
Cached per token: nothing; hidden states carry the position into keys and values alike, so a cached key
cannot be moved.
Cost: per position and frequency a product, a sine and a cosine; per feature an addition; see `Sinusoidal.cost`.

Source: Vaswani et al. 2017 (1706.03762) §3.5.

Where libraries differ: the paper's features alternate, ``adjacent``; tensor2tensor, fairseq, Whisper and M2M-100
write all sines, then all cosines, ``half``, and use `spanning`.  fairseq and M2M-100 count positions from the
padding index + 1, so ``offset=2`` where that index is 1, and give padding tokens zeros.  x-transformers learns
the factor m and starts it at M^(-1/2); most multiply the word embeddings by sqrt(M) instead.
"""

from dataclasses import dataclass
import math
from typing import Literal

import numpy as np

from kvattn.arguments import integer, real, reals
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, ShapeError
from kvattn.positions._rows import places_of, rows_of
from kvattn.positions.rotary import geometric
from kvattn.typing import Array, Positions


def spanning(width: int, base: float = 10000.0) -> tuple[float, ...]:
    """Frequencies from 1 to 1/base, both included: ``base ** (-k / (width/2 - 1))``.

    Raises
    ------
    ArgumentError
        When width is not an integer >= 4, or base is not a finite number above 0.

    Examples
    --------
    >>> spanning(6, 100.0)
    (1.0, 0.1, 0.01)
    """
    half = integer("width", width, 4) // 2
    base = real("base", base, above=0.0)
    return tuple(base ** (-k / (half - 1)) for k in range(half))


@dataclass(frozen=True)
class Sinusoidal:
    """Sines and cosines of the position as an embedding.

    Parameters
    ----------
    frequencies
        Radians per position, one for each sine and its cosine.
    layout
        ``"adjacent"``: a sine, its cosine, the next sine; ``"half"``: all sines, then all cosines.
    offset
        Added to every position.
    magnitude
        Factor on sines and cosines.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> Sinusoidal.of(4, base=100.0).embed(np.zeros((2, 4)), np.arange(2)).round(3)
    array([[0.   , 1.   , 0.   , 1.   ],
           [0.841, 0.54 , 0.1  , 0.995]])
    """

    frequencies: tuple[float, ...]
    layout: Literal["adjacent", "half"] = "adjacent"
    offset: int = 0
    magnitude: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "frequencies", reals("frequencies", self.frequencies))
        object.__setattr__(self, "offset", integer("offset", self.offset))
        object.__setattr__(self, "magnitude", real("magnitude", self.magnitude, above=0.0))
        if self.layout not in ("half", "adjacent"):
            raise ArgumentError(f"layout must be 'half' or 'adjacent', got {self.layout!r}")

    @classmethod
    def of(cls, width: int, base: float = 10000.0, layout: Literal["adjacent", "half"] = "adjacent") -> "Sinusoidal":
        """The paper's frequencies for ``width`` features.

        >>> Sinusoidal.of(4, base=100.0)
        Sinusoidal(frequencies=(1.0, 0.1), layout='adjacent', offset=0, magnitude=1.0)
        """
        return cls(geometric(width, base), layout)

    def embed(self, x: Array, positions: Positions) -> Array:
        """``x [..., T, M]`` with the sines and cosines of its positions added.

        Parameters
        ----------
        x
            ``[..., T, M]``, floating; M is twice the number of frequencies, or one more.
        positions
            Numbers that broadcast to ``x.shape[:-1]``.

        Returns
        -------
        array
            Of the shape and dtype of x.

        Raises
        ------
        ShapeError
            When M or the positions do not fit.
        DtypeError, PositionError
            When x is not floating-point, or positions are not numbers.

        Examples
        --------
        >>> Sinusoidal((1.0,)).embed(np.ones((1, 3)), np.array([0]))
        array([[1., 2., 1.]])
        """
        x = rows_of("x", x, "M")
        width = 2 * len(self.frequencies)
        if x.shape[-1] not in (width, width + 1):
            raise ShapeError(f"x must have {width} features, or {width + 1}, got {x.shape[-1]}")
        angles = (places_of("x", positions, x, "iuf").astype(np.float64) + self.offset)[..., None] * self.frequencies
        waves = np.empty((*angles.shape[:-1], width))
        sines, cosines = (
            (slice(0, width, 2), slice(1, width, 2))
            if self.layout == "adjacent"
            else (slice(0, width // 2), slice(width // 2, width))
        )
        waves[..., sines], waves[..., cosines] = np.sin(angles), np.cos(angles)
        if self.magnitude != 1.0:
            waves *= self.magnitude
        out = np.array(x, order="C")
        out[..., :width] += waves.astype(x.dtype)
        charge(self.cost(rows=math.prod(x.shape[:-1]), positions=math.prod(angles.shape[:-1])))
        return out

    def cost(self, *, rows: int, positions: int) -> Tally:
        """What `embed` counts, in closed form.

        Parameters
        ----------
        rows
            Rows of x.
        positions
            Entries of ``positions``; sequences that share them share the waves.

        Examples
        --------
        >>> Sinusoidal.of(4).cost(rows=6, positions=3)
        Tally(arithmetic=30, transcendental=12)
        """
        waves = 2 * len(self.frequencies)
        products = waves // 2 + (waves if self.magnitude != 1.0 else 0)
        return Tally(arithmetic=waves * rows + products * positions, transcendental=waves * positions)
