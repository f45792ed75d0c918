"""KERPLE: a penalty that grows with the logarithm, or with a power, of the distance; learned for each head.

    log:    s'[h, q, k]  =  s[h, q, k] - height_h · ln(1 + rate_h · |q - k|)
    power:  s'[h, q, k]  =  s[h, q, k] - height_h · |q - k| ^ exponent_h

Both are negatives of conditionally positive definite kernels, which a constant per row, free under a
softmax, makes positive definite.  The power with exponent 1 is ALiBi for keys that came first.

Shapes: scores ``[..., rows, columns]``, elementwise; parameters by query head.  The penalty is computed
in float64 and rounded once to the dtype of the scores.  It looks at the absolute distance, so it is
the same in an encoder, which sees both sides; for the laws of a cache, join with a causal mask.
Cached per token: nothing.  Cost: see `KerpleLog.cost` and `KerplePower.cost`.

Source: Chi et al. 2022 (arXiv 2205.09921) §4: r1 is ``height``, r2 ``rate`` or ``exponent``.

Where libraries differ: the authors' code keeps the parameters above 0.01 by clamping while it trains;
here what is given is used.  With the power 0, 0 ** 0 = 1 on the diagonal; the paper asks for more than 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import real, reals
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
from kvattn.positions._heads import added, distances, heads_of
from kvattn.typing import Array, Place


@dataclass(frozen=True)
class KerpleLog:
    """The logarithmic penalty, as a mod.

    Parameters
    ----------
    height, rate
        One number above 0 for each query head: r1 and r2 of the paper.

    Raises
    ------
    ArgumentError
        When parameters are not positive numbers or differ in number; later, when a head has none.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[3]]]), np.array([[[0, 2, 3]]])
    >>> KerpleLog((2.0,), (1.0,))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k)).round(3) + 0.0
    array([[[-2.773, -1.386,  0.   ]]])
    """

    height: tuple[float, ...]
    rate: tuple[float, ...]

    def __post_init__(self) -> None:
        _settle(self, "height", "rate")

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores less the penalty, in their own dtype."""
        heads = heads_of("height", len(self.height), place)
        far = np.abs(distances(place)).astype(np.float64)
        return added(scores, -np.array(self.height)[heads] * np.log1p(np.array(self.rate)[heads] * far))

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference, its size, two products and two additions, and a logarithm for each score.

        >>> KerpleLog((2.0,), (1.0,)).cost(pairs=4, width=8)
        Tally(arithmetic=24, transcendental=4)
        """
        return Tally(arithmetic=6 * pairs, transcendental=pairs)


@dataclass(frozen=True)
class KerplePower:
    """The power penalty, as a mod.

    Parameters
    ----------
    height
        One number above 0 for each query head: r1 of the paper.
    exponent
        One number above 0 and at most 2 for each query head: r2.

    Raises
    ------
    ArgumentError
        When parameters are not in their range or differ in number; later, when a head has none.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[4]]]), np.array([[[0, 3, 4]]])
    >>> KerplePower((3.0,), (0.5,))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k)) + 0.0
    array([[[-6., -3.,  0.]]])
    """

    height: tuple[float, ...]
    exponent: tuple[float, ...]

    def __post_init__(self) -> None:
        _settle(self, "height", "exponent")
        if max(self.exponent) > 2.0:
            raise ArgumentError(f"exponent must be at most 2, got {max(self.exponent)}")

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores less the penalty, in their own dtype."""
        heads = heads_of("height", len(self.height), place)
        far = np.abs(distances(place)).astype(np.float64)
        return added(scores, -np.array(self.height)[heads] * np.power(far, np.array(self.exponent)[heads]))

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference, its size, a product and an addition, and a power for each score.

        >>> KerplePower((3.0,), (0.5,)).cost(pairs=4, width=8)
        Tally(arithmetic=16, transcendental=4)
        """
        return Tally(arithmetic=4 * pairs, transcendental=pairs)


def _settle(scheme: Any, *names: str) -> None:
    """Read the parameters of each head: as many of each, all above 0."""
    for name in names:
        given = tuple(
            real(f"{name}[{n}]", value, above=0.0) for n, value in enumerate(reals(name, getattr(scheme, name)))
        )
        object.__setattr__(scheme, name, given)
    first, second = (getattr(scheme, name) for name in names)
    if len(first) != len(second):
        raise ArgumentError(f"{names[1]} must have one number for each of {len(first)} heads, got {len(second)}")
