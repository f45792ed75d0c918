"""Where a case gets its choices from: a seed, a recorded list, or Hypothesis.

A case generator asks for integers only; so a case *is* the list of integers it asked for, and a
failing case is made smaller by making the integers smaller.  `reduced` does that with NumPy alone;
under Hypothesis, `kvattn.testing.strategies` lets its own shrinker do it.
"""

from collections.abc import Callable, Sequence
import random
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from kvattn.typing import Array

T = TypeVar("T")


class Choices(Protocol):
    """A source of integers."""

    def integer(self, low: int, high: int, label: str) -> int:
        """An integer in ``low .. high``; ``low`` is the simplest."""


class Recorded:
    """Choices replayed from a list and, behind its end, drawn from a seed or taken as the lowest.

    Parameters
    ----------
    given
        Offsets from the lower bound, replayed first; one too large becomes the largest legal.
    seed
        Where to draw further ones; None takes the lowest.

    Examples
    --------
    >>> choices = Recorded([3, 9])
    >>> choices.integer(1, 5, "a"), choices.integer(0, 4, "b"), choices.integer(7, 8, "c")
    (4, 4, 7)
    >>> choices.made
    [3, 4, 0]
    """

    def __init__(self, given: Sequence[int] = (), seed: int | None = None) -> None:
        self.given = tuple(given)
        self.made: list[int] = []
        self._random = None if seed is None else random.Random(seed)

    def integer(self, low: int, high: int, label: str) -> int:
        """An integer in ``low .. high``.

        >>> 2 <= Recorded(seed=1).integer(2, 3, "any") <= 3
        True
        """
        place = len(self.made)
        if place < len(self.given):
            offset = min(self.given[place], high - low)
        else:
            offset = 0 if self._random is None else self._random.randint(0, high - low)
        self.made.append(offset)
        return low + offset


def pick(choices: Choices, options: Sequence[T], label: str) -> T:
    """One of ``options``; the first is the simplest.

    >>> pick(Recorded([1]), ["a", "b"], "letter")
    'b'
    """
    return options[choices.integer(0, len(options) - 1, label)]


def numbers(choices: Choices, shape: tuple[int, ...], dtype: DTypeLike, label: str, spread: float = 1.0) -> Array:
    """A normally distributed array that one integer choice stands for.

    >>> numbers(Recorded(), (2,), np.float32, "x").dtype
    dtype('float32')
    """
    generator = np.random.default_rng(choices.integer(0, 2**16, label))
    return (generator.standard_normal(shape) * spread).astype(dtype)


def reduced(fails: Callable[[Recorded], bool], made: Sequence[int], budget: int = 400) -> list[int]:
    """Make a failing list of choices smaller, one choice at a time, while it still fails.

    Parameters
    ----------
    fails
        Whether a case still fails.
    made
        The choices of a case that does.
    budget
        Cases to try.

    Examples
    --------
    >>> reduced(lambda choices: choices.integer(0, 100, "n") >= 7, [93])
    [7]
    """
    best, tried, moved = list(made), 0, True
    while moved:
        moved, place = False, 0
        while place < len(best):  # a smaller case may ask for fewer choices
            for smaller in _smaller(best[place]):
                if tried == budget:
                    return best
                tried += 1
                attempt = Recorded([*best[:place], smaller, *best[place + 1 :]])
                if fails(attempt):
                    best, moved = attempt.made, True
                    break
            place += 1
    return best


def _smaller(value: int) -> list[int]:
    return sorted({0, value // 2, value - 1} - {value, -1}) if value > 0 else []
