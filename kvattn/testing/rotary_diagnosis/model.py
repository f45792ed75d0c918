"""What is known of a rotation: pairs, the frequency of each, and what else goes into its angle."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvattn.positions.rotary import Rotary
from kvattn.typing import Positions


@dataclass(frozen=True, eq=False)
class Model:
    """A rotation as pairs of features, in the order of `kvattn.positions.Rotary`.

    Attributes
    ----------
    first, second
        Features of each pair.
    frequencies
        Radians per position of each pair.
    direction
        1, or -1 where angles are negative.
    offset
        Added to every position.
    magnitude
        Factor on cosine and sine.

    Examples
    --------
    >>> model = Model.of(Rotary.of(4, layout="adjacent"), 4)
    >>> model.first, model.turn(np.ones((1, 4)), np.array([1])).round(3)
    (array([0, 2]), array([[-0.301,  1.382,  0.99 ,  1.01 ]]))
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    frequencies: NDArray[np.float64]
    direction: int = 1
    offset: float = 0.0
    magnitude: float = 1.0

    @classmethod
    def of(cls, rotary: Rotary, width: int) -> "Model":
        """Return the pairs of a `Rotary` in heads of ``width`` features.

        >>> Model.of(Rotary.of(4, start=-4), 6).second
        array([4, 5])
        """
        count = len(rotary.frequencies)
        start = rotary.start if rotary.start >= 0 else width + rotary.start
        half = rotary.layout == "half"
        first = start + np.arange(count) * (1 if half else 2)
        return cls(first, first + (count if half else 1), np.array(rotary.frequencies), magnitude=rotary.magnitude)

    def angles(self, positions: Positions) -> NDArray[np.float64]:
        """Return ``[..., pairs]``, in the paper's direction if ``direction`` is 1.

        >>> Model.of(Rotary.of(2), 2).angles(np.array([3]))
        array([[3.]])
        """
        return (np.asarray(positions, np.float64)[..., None] + self.offset) * self.frequencies

    def turn(self, x: NDArray[np.float64], positions: Positions) -> NDArray[np.float64]:
        """Return x ``[..., T, D]`` turned to positions that broadcast to ``[..., T]``.

        >>> Model.of(Rotary.of(2), 2).turn(np.array([[1.0, 0.0]]), np.array([1])).round(3)
        array([[0.54 , 0.841]])
        """
        angles = self.direction * self.angles(positions)
        cosine, sine = self.magnitude * np.cos(angles), self.magnitude * np.sin(angles)
        out = np.array(x, np.float64)
        a, b = x[..., self.first], x[..., self.second]
        out[..., self.first], out[..., self.second] = a * cosine - b * sine, b * cosine + a * sine
        return out

    def bound(self, x: NDArray[np.float64], positions: Positions, angle: float, data: float) -> NDArray[np.float64]:
        """Return how far a right implementation may be from `turn`, elementwise.

        A frequency is a power of the base: its exponent's rounding is multiplied by the logarithm of the frequency, and
        power, quotient and product with the position round too, so an angle is off by ``|ln θ| + 5`` roundings of its
        size, and by 2 more for every step in cosine and sine; the turned feature is two products and a sum, and twice
        the rounding of the cosine.

        Parameters
        ----------
        x, positions
            As in `turn`.
        angle, data
            Unit roundoff of the angles and of the features.

        Examples
        --------
        >>> model = Model.of(Rotary.of(2), 2)
        >>> model.bound(np.ones((1, 2)), np.array([100]), 2.0**-24, 2.0**-24) < 1e-4
        array([[ True,  True]])
        """
        sizes = np.abs(self.angles(positions))
        steps = np.abs(np.log(np.where(self.frequencies == 0, 1, np.abs(self.frequencies)))) + 5
        reach = np.abs(x[..., self.first]) + np.abs(x[..., self.second])
        limit = self.magnitude * reach * (angle * (steps * sizes + 2) + 4 * data)
        out = 2 * data * np.abs(np.asarray(x, np.float64))
        out = np.broadcast_to(out, np.broadcast_shapes(out.shape, (*limit.shape[:-1], out.shape[-1]))).copy()
        out[..., self.first], out[..., self.second] = limit, limit
        return out
