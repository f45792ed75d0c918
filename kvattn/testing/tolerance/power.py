"""What a tolerance cannot see, from the same data: the smallest faults that it would show.

A fault that moves an output by more than twice the tolerance is seen, because code that is right in all else
is within the tolerance of the answer.  With ``t_c`` the tolerance of channel c::

    dropped key j     moves o by  p_j / (1 - p_j) (o - v_j)          [P1]
    stale row j       moves o by  p_j (v_i - v_j), here with i = j - 1   [P2]
    scale             a relative error r of it by  r Σ p_j s_j (v_j - o)   [P3]
    total             a relative error r of it by  r o                    [P4]
    log-sum-exp       a shift moves it by itself                          [P5]

Keys and rows are each taken by itself: a fault in all rows at once is seen where it is seen in one.
"""

from typing import NamedTuple

import numpy as np

from kvattn.testing.tolerance.bounding import Examined
from kvattn.typing import Array


class Power(NamedTuple):
    """The smallest faults that are seen.

    Attributes
    ----------
    dropped_key
        Largest weight of a key whose loss would go unseen; 0 where every loss is seen.
    keys
        Share of the keys whose loss is seen.
    stale_row
        Largest weight of a key whose value could be its neighbour's, unseen.
    scale
        Smallest relative error of the scale that is seen in some row; infinite where none is.
    total
        Smallest relative error of the softmax's total that is seen in some row.
    lse
        Smallest error of a log-sum-exp that is seen in some row.

    Examples
    --------
    >>> print(Power(1e-4, 0.75, 2e-4, 0.01, 1e-3, 1e-3))
    a dropped key that weighs over 1.0e-04 (75% of all keys), a stale one over 2.0e-04, a scale off by 1.0e-02, \
a total by 1.0e-03, an lse by 1.0e-03
    """

    dropped_key: float
    keys: float
    stale_row: float
    scale: float
    total: float
    lse: float

    def __str__(self) -> str:
        dropped = "no dropped key" if self.keys == 0 else f"a dropped key that weighs over {self.dropped_key:.1e}"
        return (
            f"{dropped} ({self.keys:.0%} of all keys), a stale one over {self.stale_row:.1e}, a scale off by"
            f" {self.scale:.1e}, a total by {self.total:.1e}, an lse by {self.lse:.1e}"
        )


def power(some: Examined, tolerance: Array, lse_tolerance: Array) -> Power:
    """Say what a tolerance of some rows cannot see.

    Parameters
    ----------
    some
        R rows of a call.
    tolerance, lse_tolerance
        ``[R, Dv]`` and ``[R]``.

    Returns
    -------
    Power
        Of these rows.

    Examples
    --------
    >>> from kvattn.testing.arithmetic import FLOAT64
    >>> from kvattn.testing.tolerance.bounding import examined
    >>> from kvattn.testing.tolerance.calls import Call
    >>> x = np.eye(3)[None, None]
    >>> some = next(examined(Call(x, x, x), FLOAT64))
    >>> found = power(some, some.out.worst, some.lse.worst)
    >>> found.keys, found.scale < 1e-12
    (1.0, True)
    """
    p, v, out = some.weights.p, some.rows.v, some.out.exact
    count = some.rows.seen.shape[1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sharp = np.nan_to_num(0.5 / tolerance, nan=0.0, posinf=0.0)  # rows without tolerance see nothing
        gain, fresh = np.zeros((len(p), count)), np.zeros((len(p), count))
        before = np.roll(v[:count], 1, axis=0)
        for row in range(len(p)):
            gain[row] = (np.abs(v[:count] - out[row]) * sharp[row]).max(1, initial=0)
            fresh[row] = (np.abs(before - v[:count]) * sharp[row]).max(1, initial=0)
        heavy = p[:, :count]
        alone = (np.abs(out) * sharp).max(1, initial=0, keepdims=True)  # without its only key a row is 0
        dropped = np.where(heavy < 1, heavy / (1 - heavy) * gain, alone) > 1  # [P1]
        stale = heavy * fresh > 1  # [P2]
        seen = some.rows.seen
        slope = np.where(seen, some.scores.slope[:, :count], 0.0)
        moved = (heavy * slope) @ v[:count] - (heavy * slope).sum(1, keepdims=True) * out  # [P3]
        scale = 1 / (np.abs(moved) * sharp).max(initial=0)
        total = 1 / (np.abs(out) * sharp).max(initial=0)  # [P4]
        lse = 2 * np.where(some.weights.empty, np.inf, lse_tolerance).min(initial=np.inf)  # [P5]
    return Power(
        float(heavy[seen & ~dropped].max(initial=0)),
        float(dropped[seen].mean()) if seen.any() else 0.0,
        float(heavy[seen & ~stale].max(initial=0)),
        float(scale),
        float(total),
        float(lse),
    )


def weakest(powers: list[Power]) -> Power:
    """Put the powers of several blocks of rows together.

    >>> weakest([Power(0.1, 0.5, 0.1, 0.1, 0.1, 0.1), Power(0.2, 1.0, 0.0, 0.2, 0.2, 0.2)])
    Power(dropped_key=0.2, keys=0.75, stale_row=0.1, scale=0.1, total=0.1, lse=0.1)
    """
    if not powers:
        return Power(1.0, 0.0, 1.0, np.inf, np.inf, np.inf)
    dropped, keys, stale, scale, total, lse = zip(*powers, strict=True)
    return Power(max(dropped), sum(keys) / len(keys), max(stale), min(scale), min(total), min(lse))
