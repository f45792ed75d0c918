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
    >>> print(Power(1e-4, 0.75, 0.0, 0.01, np.inf, 1e-3))
    a dropped key that weighs over 1.0e-04 (75% of the keys), any stale value, a scale off by 1.0e-02, no wrong \
total, an lse off by 1.0e-03
    """

    dropped_key: float
    keys: float
    stale_row: float
    scale: float
    total: float
    lse: float

    def __str__(self) -> str:
        dropped = f"a dropped key that weighs over {self.dropped_key:.1e} ({self.keys:.0%} of the keys)"
        dropped = "no dropped key" if self.keys == 0 else "any dropped key" if self.keys == 1 else dropped
        stale = f"a stale value that weighs over {self.stale_row:.1e}" if self.stale_row else "any stale value"
        stale = "no stale value" if self.stale_row >= 1 else stale
        rest = [
            f"{article} {name} off by {least:.1e}" if np.isfinite(least) else f"no wrong {name}"
            for article, name, least in (
                ("a", "scale", self.scale),
                ("a", "total", self.total),
                ("an", "lse", self.lse),
            )
        ]
        return ", ".join([dropped, stale, *rest])


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
    if not some.rows.seen.size:
        return Power(1.0, 0.0, 1.0, np.inf, np.inf, np.inf)
    out, count = some.out.exact, some.rows.seen.shape[1]
    heavy, v = some.weights.p[:, -count:], some.rows.v[-count:]  # without the sink
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sharp = np.nan_to_num(0.5 / tolerance, nan=0.0, posinf=0.0)  # rows without tolerance see nothing
        gain, fresh = np.zeros((len(out), count)), np.zeros((len(out), count))
        before = np.roll(v, 1, axis=0)
        for row in range(len(out)):
            gain[row] = (np.abs(v - out[row]) * sharp[row]).max(1, initial=0)
            fresh[row] = (np.abs(before - v) * sharp[row]).max(1, initial=0)
        alone = (np.abs(out) * sharp).max(1, initial=0, keepdims=True)  # without its only key a row is 0
        dropped = np.where(heavy < 1, heavy / (1 - heavy) * gain, alone) > 1  # [P1]
        stale = heavy * fresh > 1  # [P2]
        seen = some.rows.seen
        slope = np.where(seen, some.scores.slope[:, -count:], 0.0)
        moved = (heavy * slope) @ v - (heavy * slope).sum(1, keepdims=True) * out  # [P3]
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
