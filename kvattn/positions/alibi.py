"""ALiBi: a penalty on each score that grows with the distance, one slope for each head.

    Alibi           s'[h, q, k]  =  s[h, q, k] - slope_h · (q - k)
    SymmetricAlibi  s'[h, q, k]  =  s[h, q, k] - slope_h · |q - k|
    KeyAlibi        s'[h, q, k]  =  s[h, q, k] + slope_h · k

For H a power of two, slope_h = 2^(-8(h+1)/H), h = 0 … H-1.  For other H, with P the power of two
below: the P slopes of P heads, then every second slope of the list for 2P heads, from its first on,
until there are H.

Shapes: scores ``[..., rows, columns]``, elementwise; slopes by query head.  The penalty is computed in
float64 and rounded once to the dtype of the scores.  `Alibi` would reward keys ahead of the query: join
with a causal mask; encoders use `SymmetricAlibi`, which under a causal mask is `Alibi`.
Cached per token: nothing.  Cost: 2 to 4 FLOPs per score.

Source: Press et al. 2021 (arXiv 2108.12409) §3; for other H the authors' released code, named there.

Where libraries differ: several engines use the power-of-two rule for every H (`power_slopes`).  MPT writes
every second slope of the larger list from its second on, then the others: the same table in other
words, with a setting for the exponent 8 (`mpt_slopes`).  BLOOM adds slope · k, the same up to a constant
per row, which only sinks, a softcap after it or the lse can see.  Falcon adds that before the scale, so
its slopes are multiplied by 1/sqrt(D) (`Alibi.scaled`), and rounds slope · k to bfloat16: from position
257 on, neighbours share a bias.  Jina's encoders and x-transformers penalise the absolute distance;
the latter may leave heads without bias (`Alibi.padded`).
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer, real, reals
from kvattn.counting import Tally
from kvattn.positions._heads import added, distances, heads_of
from kvattn.typing import Array, Place


def slopes(heads: int) -> tuple[float, ...]:
    """The paper's slope of each head.

    Raises
    ------
    ArgumentError
        When heads is not an integer >= 1.

    Examples
    --------
    >>> slopes(2)
    (0.0625, 0.00390625)
    >>> slopes(3)
    (0.0625, 0.00390625, 0.25)
    """
    count = integer("heads", heads, 1)
    power = 1 << (count.bit_length() - 1)
    whole = tuple(2.0 ** (-8 * (h + 1) / power) for h in range(power))
    between = tuple(2.0 ** (-8 * (h + 1) / (2 * power)) for h in range(0, 2 * power, 2))
    return whole + between[: count - power]


def power_slopes(heads: int) -> tuple[float, ...]:
    """The power-of-two rule for any number of heads, as several engines have it.

    Raises
    ------
    ArgumentError
        When heads is not an integer >= 1.

    Examples
    --------
    >>> [round(slope, 4) for slope in power_slopes(3)], power_slopes(4) == slopes(4)
    ([0.1575, 0.0248, 0.0039], True)
    """
    count = integer("heads", heads, 1)
    return tuple(2.0 ** (-8 * (h + 1) / count) for h in range(count))


def mpt_slopes(heads: int, exponent: float = 8.0) -> tuple[float, ...]:
    """MPT's slopes: those of the power of two above, every second one first; ``exponent`` is ``alibi_bias_max``.

    Raises
    ------
    ArgumentError
        When heads is not an integer >= 1, or exponent not a number above 0.

    Examples
    --------
    >>> mpt_slopes(3) == slopes(3), mpt_slopes(2, exponent=4)
    (True, (0.25, 0.0625))
    """
    count, last = integer("heads", heads, 1), real("exponent", exponent, above=0.0)
    above = 1 << (count - 1).bit_length()
    table = tuple(2.0 ** (-last * (h + 1) / above) for h in range(above))
    return table if above == count else (table[1::2] + table[::2])[:count]


@dataclass(frozen=True)
class Alibi:
    """Linear penalty on distance, as a mod.

    Parameters
    ----------
    slopes
        One finite number for each query head; 0 leaves a head alone.

    Raises
    ------
    ArgumentError
        When slopes are not finite numbers; later, when a head has none.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[2]]]), np.array([[[0, 1, 2]]])
    >>> Alibi((0.5,))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k))
    array([[[-1. , -0.5,  0. ]]])
    """

    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "slopes", reals("slopes", self.slopes))

    @classmethod
    def of(cls, heads: int) -> "Alibi":
        """The paper's slopes for any number of heads.

        >>> Alibi.of(3)
        Alibi(slopes=(0.0625, 0.00390625, 0.25))
        """
        return cls(slopes(heads))

    def scaled(self, factor: float) -> "Alibi":
        """Slopes times ``factor``: Falcon's are times ``1/sqrt(D)``.

        >>> Alibi((0.5, 0.25)).scaled(1 / 4)
        Alibi(slopes=(0.125, 0.0625))
        """
        times = real("factor", factor)
        return Alibi(tuple(slope * times for slope in self.slopes))

    def padded(self, heads: int) -> "Alibi":
        """With slope 0 for further heads, ``heads`` in all.

        >>> Alibi((0.5,)).padded(3)
        Alibi(slopes=(0.5, 0.0, 0.0))
        """
        more = integer("heads", heads, len(self.slopes)) - len(self.slopes)
        return Alibi(self.slopes + (0.0,) * more)

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores less slope times distance, in their own dtype."""
        heads = heads_of("slopes", len(self.slopes), place)
        penalty = np.empty(scores.shape)
        penalty[...] = distances(place)
        penalty *= -np.array(self.slopes)[heads]
        return added(scores, penalty)

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference, a product and an addition for each score.

        >>> Alibi((0.5,)).cost(pairs=4, width=8)
        Tally(arithmetic=12)
        """
        return Tally(arithmetic=3 * pairs)


@dataclass(frozen=True)
class SymmetricAlibi:
    """Linear penalty on the absolute distance, as a mod: for encoders.

    Parameters
    ----------
    slopes
        As for `Alibi`.

    Raises
    ------
    ArgumentError
        When slopes are not finite numbers; later, when a head has none.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[1]]]), np.array([[[0, 1, 2]]])
    >>> SymmetricAlibi((0.5,))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k)) + 0.0
    array([[[-0.5,  0. , -0.5]]])
    """

    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "slopes", reals("slopes", self.slopes))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores less slope times absolute distance, in their own dtype."""
        heads = heads_of("slopes", len(self.slopes), place)
        return added(scores, -np.array(self.slopes)[heads] * np.abs(distances(place)))

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference, its size, a product and an addition for each score.

        >>> SymmetricAlibi((0.5,)).cost(pairs=4, width=8)
        Tally(arithmetic=16)
        """
        return Tally(arithmetic=4 * pairs)


@dataclass(frozen=True)
class KeyAlibi:
    """Slope times the key's position, as a mod: BLOOM's form, slope · q above `Alibi` in every score of a row.

    Parameters
    ----------
    slopes
        As for `Alibi`.

    Raises
    ------
    ArgumentError
        When slopes are not finite numbers; later, when a head has none.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[2]]]), np.array([[[0, 1, 2]]])
    >>> KeyAlibi((0.5,))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k))
    array([[[0. , 0.5, 1. ]]])
    """

    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "slopes", reals("slopes", self.slopes))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with slope times position, in their own dtype."""
        heads = heads_of("slopes", len(self.slopes), place)
        return added(scores, np.array(self.slopes)[heads] * np.asarray(place.k_positions, np.float64))

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A product and an addition for each score.

        >>> KeyAlibi((0.5,)).cost(pairs=4, width=8)
        Tally(arithmetic=8)
        """
        return Tally(arithmetic=2 * pairs)
