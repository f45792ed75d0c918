"""ALiBi: a penalty on each score that grows with the distance, one slope for each head.

    s'[h, q, k]  =  s[h, q, k] - slope_h · (q - k)

For H a power of two, slope_h = 2^(-8(h+1)/H), h = 0 … H-1.  For other H, with P the power of two
below: the P slopes of P heads, then every second slope of the list for 2P heads, from its first on,
until there are H.

Shapes: scores ``[..., rows, columns]``, elementwise; slopes by query head.  The penalty is computed in
float64 and rounded once to the dtype of the scores.  Keys ahead of the query would be rewarded: join
with a causal mask.  Cached per token: nothing.  Cost: 3 FLOPs per score.

Source: Press et al. 2021 (arXiv 2108.12409) §3; for other H the authors' released code, named there.

Where libraries differ: several engines use the power-of-two rule for every H.  MPT writes every
second slope of the larger list from its second on, then the others: the same table in other words.
BLOOM adds slope · k, the same up to a constant per row, which only sinks, a softcap after it or the
lse can see.  x-transformers penalises the absolute distance, which differs where a query sees later
keys, and may leave heads without bias: slope 0.  Falcon scales the penalty by 1/sqrt(D) too.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer, reals
from kvattn.counting import Tally
from kvattn.errors import ArgumentError
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

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores less slope times distance, in their own dtype."""
        heads = np.asarray(place.heads)
        lost = (heads < 0) | (heads >= len(self.slopes))
        if lost.any():
            raise ArgumentError(f"slopes must cover every query head, got {len(self.slopes)} and head {heads[lost][0]}")
        q, k = (np.asarray(at, np.float64) for at in (place.q_positions, place.k_positions))
        penalty = np.empty(scores.shape)
        np.subtract(k, q, out=penalty)
        penalty *= np.array(self.slopes)[heads]
        bent = penalty.astype(scores.dtype, copy=False)
        bent += scores
        return bent

    def cost(self, *, pairs: int, width: int) -> Tally:
        """A difference, a product and an addition for each score.

        >>> Alibi((0.5,)).cost(pairs=4, width=8)
        Tally(arithmetic=12)
        """
        return Tally(arithmetic=3 * pairs)
