"""One rotation in plain NumPy into which known faults can be planted, to see a check name them.

Written apart from `kvattn.positions`, as most people would write it: frequencies, angles, cosine and sine, pairs.
Each field that differs from its default plants one fault.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from kvattn.typing import Array, Positions

Rounding = Callable[[Any], Array]


@dataclass
class PlantedRotation:
    """A callable ``rotate(q, k, positions)``, or ``rotate(x, positions)`` by `alone`, with planted faults.

    Attributes
    ----------
    base, width, start
        Of the frequencies; how many features turn, all if None; from which on.
    frequencies
        In place of those of ``base``, as a function of the longest length seen and of the width.
    exponent
        Width by which exponents divide, ``width`` if None.
    layout, angles
        How features pair, and for which pairing the angles are laid out: ``"half"``, ``"adjacent"``.
    direction, offset
        Sign of the angle; what is added to each position.
    reads
        Positions used: ``"given"``, ``"restart"`` (0, 1, … in each call), ``"first row"``, ``"from first"``.
    table, beyond
        Rows of a table, 0 for none; what happens behind them: ``"clamp"``, ``"wrap"``, ``"raise"``.
    rounding
        What is rounded: ``"positions"``, ``"frequencies"``, ``"angles"``, ``"tables"`` (cosine and sine).
    magnitude
        Factor on cosine and sine.
    keeps
        The longest length is kept from call to call.
    only
        Faults are planted in ``"q"``, ``"k"`` or in ``"both"``.
    other
        What turns the other one, the paper's rotation if None.
    skips
        Which is not turned at all: ``""``, ``"q"``, ``"k"``.

    Examples
    --------
    >>> x = np.ones((1, 1, 2, 4))
    >>> PlantedRotation().alone(x, np.arange(2)[None])[0, 0, 1].round(3)
    array([-0.301,  0.99 ,  1.382,  1.01 ])
    """

    base: float = 10000.0
    width: int | None = None
    start: int = 0
    frequencies: Callable[[int, int], Any] | None = None
    exponent: int | None = None
    layout: Literal["half", "adjacent"] = "half"
    angles: Literal["half", "adjacent"] | None = None
    direction: int = 1
    offset: int = 0
    reads: Literal["given", "restart", "first row", "from first"] = "given"
    table: int = 0
    beyond: Literal["clamp", "wrap", "raise"] = "clamp"
    rounding: dict[str, Rounding] = field(default_factory=dict)
    magnitude: float = 1.0
    keeps: bool = False
    only: Literal["both", "q", "k"] = "both"
    other: "PlantedRotation | None" = None
    skips: str = ""
    longest: int = 0

    def __call__(self, q: Array, k: Array, positions: Positions) -> tuple[Array, Array]:
        """Turn both."""
        plain = PlantedRotation() if self.other is None else self.other
        turned = [
            x if self.skips == name else (self if self.only in {name, "both"} else plain).alone(x, positions)
            for name, x in (("q", q), ("k", k))
        ]
        return turned[0], turned[1]

    def alone(self, x: Array, positions: Positions) -> Array:
        """Turn ``x [B, H, T, D]``.

        >>> x = np.ones((1, 1, 2, 4))
        >>> PlantedRotation(layout="adjacent").alone(x, np.arange(2)[None])[0, 0, 1].round(3)
        array([-0.301,  1.382,  0.99 ,  1.01 ])
        """
        width = x.shape[3] if self.width is None else self.width
        now = int(np.max(positions)) + 1
        self.longest = max(self.longest, now) if self.keeps else now
        if self.frequencies is None:
            divisor = width if self.exponent is None else self.exponent
            theta: Any = self.base ** -(np.arange(0, width, 2) / divisor)
        else:
            theta = self.frequencies(self.longest, width)
        theta = self._rounded("frequencies", np.asarray(theta, np.float64))
        places = self._places(np.asarray(positions))  # [B, T]
        angles = self._rounded("angles", self._rounded("positions", places)[..., None] * theta)
        angles = angles[:, None] * self.direction  # [B, 1, T, r/2]
        cosine, sine = (self._rounded("tables", f(angles) * self.magnitude) for f in (np.cos, np.sin))
        laid = self.layout if self.angles is None else self.angles
        cosine, sine = (np.concatenate([t, t], -1) if laid == "half" else np.repeat(t, 2, -1) for t in (cosine, sine))
        first = self.start if self.start >= 0 else x.shape[3] + self.start
        part = x[..., first : first + width]
        out = np.array(x)
        out[..., first : first + width] = part * cosine + self._partner(part) * sine
        return out

    def _partner(self, part: Array) -> Array:
        """(-b, a) for each pair (a, b)."""
        if self.layout == "half":
            a, b = np.split(part, 2, axis=-1)
            return np.concatenate([-b, a], -1)
        return np.stack([-part[..., 1::2], part[..., ::2]], -1).reshape(part.shape)

    def _places(self, positions: Positions) -> Array:
        places = positions.astype(np.float64)
        steps = np.arange(places.shape[1]) + np.zeros_like(places)
        if self.reads == "restart":
            places = steps
        elif self.reads == "first row":
            places = places[:1] + np.zeros_like(places)
        elif self.reads == "from first":
            places = places[:, :1] + steps
        places = places + self.offset
        if self.table and self.beyond == "raise" and places.max() >= self.table:
            raise IndexError(f"position {int(places.max())} in a table of {self.table}")
        if self.table:
            places = np.minimum(places, self.table - 1) if self.beyond == "clamp" else places % self.table
        return places

    def _rounded(self, name: str, value: Array) -> Array:
        return self.rounding[name](value) if name in self.rounding else value
