"""Sandwich: what two sinusoidal embeddings have in common, as a bias on their pair's score.

    s'[h, q, k]  =  s[h, q, k] + slope_h · Σ_n cos((q - k) · w_n),      w_n = base^(-2n/width), n = 0 … width/2 - 1

The sum is the product of the sinusoidal embeddings of q and k, without anything in between them: a
decaying, slightly wavy function of the distance, with width/2 at distance 0.  ``slope_h = H / (8 (h + 1))``.

Shapes: scores ``[..., rows, columns]``, elementwise; slopes by query head.  The bias is summed in float64,
from the fastest wave to the slowest, and rounded once to the dtype of the scores.  It is even in the
distance, so an encoder may use it on both sides; for the laws of a cache, join with a causal mask.
Cached per token: nothing.  Cost: see `Sandwich.cost`.

Source: Chi et al. 2023 (arXiv 2212.10356) §5, and the program in its appendix, where ``width`` is bar_d, 128.

Where libraries differ: the paper's program divides by 8 (h + 1) / H, which is the slope here; programs
that make the embeddings first and multiply them in float32 lose about 1e-5 of the sum.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer, reals
from kvattn.counting import Tally
from kvattn.positions._heads import added, distances, heads_of
from kvattn.positions.rotary import geometric
from kvattn.typing import Array, Place


def compression(heads: int) -> tuple[float, ...]:
    """The paper's slope of each head, ``H / (8 (h + 1))``.

    Raises
    ------
    ArgumentError
        When heads is not an integer >= 1.

    Examples
    --------
    >>> compression(4)
    (0.5, 0.25, 0.16666666666666666, 0.125)
    """
    count = integer("heads", heads, 1)
    return tuple(count / (8 * (h + 1)) for h in range(count))


@dataclass(frozen=True)
class Sandwich:
    """A sum of cosines of the distance, as a mod.

    Parameters
    ----------
    slopes
        One finite number for each query head.
    frequencies
        Radians per position.

    Raises
    ------
    ArgumentError
        When they are not finite numbers; later, when a head has no slope.

    Examples
    --------
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[2]]]), np.array([[[0, 1, 2]]])
    >>> Sandwich((0.5,), (1.0, 0.0))(np.zeros((1, 1, 3)), Place(0, heads, None, q, k)).round(3)
    array([[[0.292, 0.77 , 1.   ]]])
    """

    slopes: tuple[float, ...]
    frequencies: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("slopes", "frequencies"):
            object.__setattr__(self, name, reals(name, getattr(self, name)))

    @classmethod
    def of(cls, heads: int, width: int = 128, base: float = 10000.0) -> "Sandwich":
        """The paper's slopes, and the frequencies of an embedding of ``width`` features.

        >>> Sandwich.of(2, width=4, base=100.0)
        Sandwich(slopes=(0.25, 0.125), frequencies=(1.0, 0.1))
        """
        return cls(compression(heads), geometric(width, base))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with slope times the sum of cosines, in their own dtype."""
        heads = heads_of("slopes", len(self.slopes), place)
        apart = distances(place).astype(np.float64)
        waves = np.zeros(apart.shape)
        for frequency in self.frequencies:  # one after the other, so that a pair's bits do not depend on the block
            waves += np.cos(apart * frequency)
        return added(scores, np.array(self.slopes)[heads] * waves)

    def cost(self, *, pairs: int, width: int) -> Tally:
        """For each score and frequency a product, a cosine and an addition; a difference, a product and an addition.

        >>> Sandwich.of(2, width=4).cost(pairs=10, width=8)
        Tally(arithmetic=70, transcendental=20)
        """
        waves = len(self.frequencies)
        return Tally(arithmetic=(2 * waves + 3) * pairs, transcendental=waves * pairs)
