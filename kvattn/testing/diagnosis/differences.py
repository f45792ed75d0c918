"""How far numbers are from what they should be, in units of their bounds."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Difference(NamedTuple):
    """The element farthest outside its bound.

    ``ratio`` is the error in units of the worst-case bound; NaN against a number is infinitely far.

    >>> Difference("out", (0,), 1.5, 1.0, 2.0, 8.0).ratio
    2.0
    """

    channel: str
    place: tuple[int, ...]
    got: float
    expected: float
    ratio: float
    statistical: float


def place_of(got: NDArray[np.float64], want: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the index of the element that differs most; NaN against a number differs most, any number from NaN least.

    >>> place_of(np.array([1.0, 2.0]), np.array([1.0, 5.0]))
    (1,)
    """
    with np.errstate(invalid="ignore"):
        far = np.where(got == want, 0, np.abs(got - want))
    far = np.where(np.isnan(want), -1, np.where(np.isnan(far), np.inf, far))
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(far)), far.shape))


def farthest(
    channel: str,
    got: NDArray[np.float64],
    want: NDArray[np.float64],
    worst: NDArray[np.float64],
    statistical: NDArray[np.float64],
) -> Difference:
    """Return the element farthest outside its worst-case bound, with the largest share of the statistical one.

    Parameters
    ----------
    channel
        What is compared: ``"out"`` or ``"lse"``.
    got, want
        Arrays of one shape.
    worst, statistical
        Bounds of each element.

    Examples
    --------
    >>> one = np.ones(2)
    >>> found = farthest("out", np.array([1.0, 7.0]), np.array([1.0, 5.0]), one, one / 2)
    >>> found.place, found.ratio, found.statistical
    ((1,), 2.0, 4.0)
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        far = np.where(got == want, 0, np.abs(got - want))
        ratio = np.where(far == 0, 0, far / worst)
        softly = np.where(far == 0, 0, far / statistical)
    ratio, softly = (np.where(np.isnan(x), np.inf, x) for x in (ratio, softly))
    if not ratio.size:
        return Difference(channel, (), 0.0, 0.0, 0.0, 0.0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(ratio)), ratio.shape))
    return Difference(channel, index, float(got[index]), float(want[index]), float(ratio[index]), float(softly.max()))
