"""FIRE: a small network reads how far back a key is, relative to how far back the query can look.

    s'[h, i, j]  =  s[h, i, j] + f_h( ψ(|i - j|) / ψ(max(L, i)) ),      ψ(x) = ln(rate · x + 1)
    f(y)         =  b₂ + W₂ max(0, b₁ + w₁ y)

The quotient lies in 0 … 1 for a key that came first, whatever the length, so the network never reads
a number that it was not trained on; below L the scheme depends on the distance alone.

Shapes: scores ``[..., rows, columns]``; ``w₁ [W]``, ``b₁ [W]``, ``W₂ [H, W]``, ``b₂ [H]``.  Everything is
float64, one hidden unit after the other, rounded once to the dtype of the scores.
Cached per token: nothing.  The bias depends on the query's own position, and not on the length of the
call, so cached keys stay what they are; but positions are not relative: moving all of them by the
same amount changes the result beyond L.  In an encoder a later key is read by its distance.
Cost: see `Fire.cost`.

Source: Li et al. 2023 (arXiv 2310.04418) §3.2; the network has 32 hidden units there.

Where libraries differ: published programs count positions from 0, as here, add 1e-6 to the divisor
(``epsilon``), and keep L as a start of 512 times a learned factor.  Those that train with random positions
draw them first, sorted, and use them as i and j.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import real
from kvattn.counting import Tally
from kvattn.errors import ShapeError
from kvattn.positions._heads import added, distances, frozen_table, heads_of
from kvattn.typing import Array, Place


@dataclass(frozen=True, eq=False)
class Fire:
    """A network of the relative distance, as a mod.

    Parameters
    ----------
    inner, inner_bias
        ``[W]``, w₁ and b₁.
    outer, outer_bias
        ``[H, W]`` and ``[H]``, W₂ and b₂.
    rate
        c in ψ, above 0.
    threshold
        L, above 0: queries before it look back as if they stood there.
    epsilon
        Added to the divisor, >= 0.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        When an array or a number is not of its kind; later, when a head has no row.

    Examples
    --------
    >>> fire = Fire([1.0], [0.0], [[2.0]], [0.0], rate=1.0, threshold=3.0)
    >>> heads, q, k = np.zeros((1, 1, 1), np.int64), np.array([[[3]]]), np.array([[[0, 2, 3]]])
    >>> fire(np.zeros((1, 1, 3)), Place(0, heads, None, q, k))
    array([[[2., 1., 0.]]])
    """

    inner: Array
    inner_bias: Array
    outer: Array
    outer_bias: Array
    rate: float
    threshold: float
    epsilon: float = 0.0

    def __post_init__(self) -> None:
        for name, axes in (("inner", "W"), ("inner_bias", "W"), ("outer", "H W"), ("outer_bias", "H")):
            object.__setattr__(self, name, frozen_table(name, getattr(self, name), axes))
        units, heads = len(self.inner), len(self.outer)
        for name, shape in (("inner_bias", (units,)), ("outer", (heads, units)), ("outer_bias", (heads,))):
            if getattr(self, name).shape != shape:
                raise ShapeError(f"{name} must have shape {shape}, got {getattr(self, name).shape}")
        for name in ("rate", "threshold"):
            object.__setattr__(self, name, real(name, getattr(self, name), above=0.0))
        object.__setattr__(self, "epsilon", real("epsilon", self.epsilon, least=0.0))

    def __call__(self, scores: Array, place: Place) -> Array:
        """Scores with the network's answer, in their own dtype."""
        heads = heads_of("outer", len(self.outer), place)
        reach = np.log1p(self.rate * np.maximum(np.asarray(place.q_positions, np.float64), self.threshold))
        share = np.log1p(self.rate * np.abs(distances(place)).astype(np.float64)) / (reach + self.epsilon)
        bias = np.broadcast_to(self.outer_bias[heads], scores.shape).copy()
        for weight, shift, column in zip(self.inner, self.inner_bias, self.outer.T, strict=True):
            bias += column[heads] * np.maximum(weight * share + shift, 0.0)
        return added(scores, bias)

    def cost(self, *, pairs: int, width: int) -> Tally:
        """For each score, five operations and a logarithm to place it, five for each hidden unit, and two to add.

        ψ of the query's reach is the same for a whole row and is left out.

        >>> Fire([1.0], [0.0], [[2.0]], [0.0], rate=1.0, threshold=3.0).cost(pairs=10, width=8)
        Tally(arithmetic=120, transcendental=10)
        """
        return Tally(arithmetic=(7 + 5 * len(self.inner)) * pairs, transcendental=pairs)
