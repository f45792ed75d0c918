"""Which scheme a list of frequencies is, with its parameters: plain, linear, proportional, YaRN, Llama-3, or a list.

    plain          θ_k = base^(-k/n)                      linear      the same over a factor
    proportional   the last pairs rest                    YaRN        θ_k (t + (1 - t)/f), t a ramp over k
    Llama-3        the same, t a ramp over θ_k            list        a divisor for each pair

The base is fitted to the fastest two pairs and to the slowest two, between which the ramps of YaRN and Llama-3 leave
equal ratios; ramps are straight lines, and what is fitted is the two places where they begin and end.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

COMMON = (10000.0, 500000.0, 1000000.0, 150000.0, 160000.0, 10000000.0, 5000000.0, 100000.0)
"""Bases that models use, tried where neither end of the list says which."""


@dataclass(frozen=True)
class Named:
    """A scheme with its parameters.

    >>> str(Named("linear", {"base": 10000.0, "factor": 4.0}))
    'linear with base 10000, factor 4'
    """

    scheme: str
    parameters: Mapping[str, Any]

    def __str__(self) -> str:
        """Say it."""
        words = [
            f"{name} {f'{value:g}' if isinstance(value, float | int) else value}"
            for name, value in self.parameters.items()
        ]
        return f"{self.scheme} with {', '.join(words)}" if words else self.scheme

    @property
    def told(self) -> str:
        """The same, without the numbers of a list that has no name.

        >>> Named("list", {"frequencies": [1.0, 0.7]}).told
        'of no scheme that has a name'
        """
        return "of no scheme that has a name" if self.scheme == "list" else str(self)


def geometry(base: float, pairs: int) -> Numbers:
    """Return base^(-k/n).

    >>> geometry(100.0, 2)
    array([1. , 0.1])
    """
    return np.asarray(base ** -(np.arange(pairs) / pairs), np.float64)


def name_scheme(frequencies: Numbers, sharp: float = 1e-6) -> Named:
    """Fit a scheme to frequencies, fastest first.

    Parameters
    ----------
    frequencies
        Of every pair, zeros for pairs at rest.
    sharp
        How closely each must be met, relatively.

    Examples
    --------
    >>> from kvattn.positions.llama3 import llama3_frequencies
    >>> str(name_scheme(np.array(llama3_frequencies(64))))
    'Llama-3 with base 500000, factor 8, trained 8192, low 1, high 4'
    """
    theta = np.asarray(frequencies, np.float64)
    count = len(theta)
    moving = int(np.count_nonzero(theta))
    if not moving or (theta[:moving] <= 0).any() or theta[moving:].any():
        return _as_list(theta)
    if moving == 1:
        return Named("one pair", {"frequency": float(theta[0])})
    steps = np.diff(np.log(theta[:moving]))
    if np.abs(steps - steps.mean()).max() <= 2 * sharp * max(1.0, float(np.abs(np.log(theta[:moving])).max())):
        base, first = float(np.exp(-steps.mean() * count)), float(theta[0])
        numbers: dict[str, Any] = {"base": tidy(base, 10 * sharp)}
        if abs(first - 1) > 2 * sharp:
            numbers["factor"] = tidy(1 / first, 10 * sharp)
        if moving < count:
            return Named("proportional", {"share": tidy(moving / count, 1e-9), **numbers})
        return Named("linear" if "factor" in numbers else "plain", numbers)
    if moving < count:
        return _as_list(theta)
    for base in _bases(theta, sharp):
        for found in (_yarn(theta, base, sharp), _llama3(theta, base, sharp)):
            if found is not None:
                return found
    return _as_list(theta)


def tidy(value: float, sharp: float) -> float:
    """Round to as few digits as stay within a relative distance.

    >>> tidy(9999.9999, 1e-6), tidy(0.33333333, 1e-9)
    (10000.0, 0.33333333)
    """
    if not value or not math.isfinite(value):
        return value
    for digits in range(1, 15):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= sharp * abs(value):
            return short
    return value


def _length(value: float) -> float:
    """Round to a length that a model is trained for: whole thousands of 1024, where one is near."""
    blocks = round(value / 1024)
    return 1024.0 * blocks if blocks and abs(value / (1024 * blocks) - 1) < 1e-4 else tidy(value, 1e-4)


def _as_list(theta: Numbers) -> Named:
    return Named("list", {"frequencies": [float(f"{x:.6g}") for x in theta]})


def _bases(theta: Numbers, sharp: float) -> Iterator[float]:
    count = len(theta)
    seen: list[float] = []
    ends = [count * math.log(theta[0] / theta[1]), count * math.log(theta[-2] / theta[-1])]
    for value in (*(tidy(math.exp(end), 4 * sharp * count) for end in ends if 0 < end < 60), *COMMON):
        if not any(abs(value - other) <= 1e-9 * other for other in seen):
            seen.append(value)
            yield value


def _shares(theta: Numbers, base: float, sharp: float) -> tuple[Numbers, float] | None:
    """How much of each frequency is kept, and the factor, where the fastest is kept and the slowest divided."""
    ratio = theta / geometry(base, len(theta))
    loose = 20 * sharp
    if abs(ratio[0] - 1) > loose or ratio.min() < ratio[-1] * (1 - loose) or ratio.max() > 1 + loose:
        return None
    factor = 1 / float(ratio[-1])
    if factor < 1 + 1e-3:
        return None
    return np.asarray((ratio - 1 / factor) / (1 - 1 / factor)), factor


def _fits(kept: Numbers, guess: Numbers, sharp: float) -> bool:
    return bool(np.abs(kept - np.clip(guess, 0, 1)).max() <= 100 * sharp)


def _yarn(theta: Numbers, base: float, sharp: float) -> Named | None:
    found = _shares(theta, base, sharp)
    if found is None:
        return None
    kept, factor = found
    pairs = np.arange(len(theta))
    numbers = {"base": base, "factor": tidy(factor, 50 * sharp)}
    for low in range(len(theta)):
        for high in range(low + 1, 2 * len(theta)):
            if _fits(kept, 1 - (pairs - low) / (high - low), sharp):
                return Named("YaRN", {**numbers, "low": low, "high": high})
    between = (kept > 1e-3) & (kept < 1 - 1e-3)
    if np.count_nonzero(between) >= 3:
        slope, start = np.polyfit(pairs[between], kept[between], 1)
        if _fits(kept, start + slope * pairs, sharp):
            low, high = (1 - start) / slope, -start / slope
            return Named("YaRN", {**numbers, "low": round(float(low), 4), "high": round(float(high), 4)})
    return None


def _llama3(theta: Numbers, base: float, sharp: float) -> Named | None:
    found = _shares(theta, base, sharp)
    if found is None:
        return None
    kept, factor = found
    plain = geometry(base, len(theta))
    between = (kept > 1e-3) & (kept < 1 - 1e-3)
    if np.count_nonzero(between) > 1:
        slope, start = np.polyfit(plain[between], kept[between], 1)
    elif between.any():  # one pair between the bands tells one number: the others as Llama has them
        slope, start = (kept[between].item() + 1 / 3) / plain[between].item(), -1 / 3
    else:
        return None
    if start >= 0 or not _fits(kept, start + slope * plain, sharp):
        return None
    trained = 2 * math.pi * slope / -start  # with low = 1
    return Named(
        "Llama-3",
        {
            "base": base,
            "factor": tidy(factor, 50 * sharp),
            "trained": _length(trained),
            "low": 1.0,
            "high": tidy(1 - 1 / start, 1e-3),
        },
    )
