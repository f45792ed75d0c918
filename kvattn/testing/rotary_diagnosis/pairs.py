"""Which features turn together, and how: partner, direction and angle of each, off the matrices of a rotation.

Method: column b of the matrix at a position is what becomes of unit vector b.  The partner of feature a is the
column that reaches it most; cosine and sine of its angle are the two entries of its row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Turning:
    """What was read of each feature.

    Attributes
    ----------
    partner
        ``[D]``; a feature at rest is its own.
    steps
        ``[D]``: mean angle from one position to the next, in the paper's direction.
    start
        ``[D]``: angle at the first position.
    magnitude
        ``[D]``: mean length of a feature's row.
    bent
        Largest distance of an angle from the line through them.
    stray
        Largest entry that belongs to no pair.
    """

    partner: NDArray[np.int64]
    steps: NDArray[np.float64]
    start: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    bent: float
    stray: float


def read_turning(matrices: NDArray[np.float64]) -> Turning:
    """Read ``[T, D, D]`` matrices of consecutive positions.

    Examples
    --------
    >>> from kvattn.positions.rotary import Rotary
    >>> unit = np.zeros((4, 3, 4)) + np.eye(4)[:, None]  # [column, T, D]
    >>> turning = read_turning(np.moveaxis(Rotary.of(4, base=100.0).rotate(unit, np.arange(3)), 0, -1))
    >>> turning.partner, turning.steps.round(6)
    (array([2, 3, 0, 1]), array([1. , 0.1, 1. , 0.1]))
    """
    size = matrices.shape[1]
    each = np.arange(size)
    reach = np.abs(matrices).max(0)  # [D, D]
    reach[each, each] = 0
    partner = np.where(reach.max(1) > 0, reach.argmax(1), each)
    cosine, sine = matrices[:, each, each], matrices[:, each, partner]  # [T, D]
    sine = np.where(partner == each, 0, np.where(partner > each, -sine, sine))
    angles = np.arctan2(sine, cosine)
    walked = np.unwrap(angles, axis=0)
    count = len(matrices)
    steps = (walked[-1] - walked[0]) / max(count - 1, 1)
    bent = np.abs(walked - walked[0] - steps * np.arange(count)[:, None]).max()
    reach[each, partner] = 0
    return Turning(partner, steps, angles[0], np.hypot(cosine, sine).mean(0), float(bent), float(reach.max()))


@dataclass(frozen=True)
class Layout:
    """Name of a pairing: ``kind`` of ``width`` features from ``start`` on.

    ``kind`` is ``"half"``, ``"adjacent"``, ``"none"`` where nothing turns, ``"other"``.
    """

    kind: str
    start: int = 0
    width: int = 0

    def __str__(self) -> str:
        """Say it."""
        if self.kind == "none":
            return "nothing"
        if self.kind == "other":
            return "other pairs"
        pairs = "(k, k + r/2)" if self.kind == "half" else "(2k, 2k + 1)"
        return f"{self.kind} pairs {pairs} of {self.width} features from {self.start} on"


def layout_of(partner: NDArray[np.int64]) -> Layout:
    """Name the pairing that a list of partners is.

    Examples
    --------
    >>> layout_of(np.array([2, 3, 0, 1])), layout_of(np.array([0, 2, 1]))
    (Layout(kind='half', start=0, width=4), Layout(kind='adjacent', start=1, width=2))
    """
    each = np.arange(len(partner))
    moving = np.flatnonzero(partner != each)
    if not moving.size:
        return Layout("none")
    lower = moving[partner[moving] > moving]
    far = partner[lower] - lower
    mutual = np.array_equal(partner[partner], each)
    if not mutual or np.ptp(far) or np.ptp(np.diff(lower)) if lower.size > 1 else not mutual:
        return Layout("other")
    start, distance = int(lower[0]), int(far[0])
    if distance == 1 and (lower.size == 1 or lower[1] - lower[0] == 2):
        return Layout("adjacent", start, 2 * lower.size)
    if lower.size > 1 and lower[1] - lower[0] != 1:
        return Layout("other")
    return Layout("half", start, 2 * distance)


def pairs_of(layout: Layout) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and second features of a named pairing, in order.

    >>> pairs_of(Layout("adjacent", 2, 4))
    (array([2, 4]), array([3, 5]))
    """
    count = layout.width // 2
    half = layout.kind == "half"
    first = layout.start + np.arange(count) * (1 if half else 2)
    return first, first + (count if half else 1)
