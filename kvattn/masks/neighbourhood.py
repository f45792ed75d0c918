"""Neighbourhood: on a grid, the w nearest positions along every axis; at a border the window moves inwards.

    start_a(q)     =  clip(q_a - floor(w_a / 2), 0, n_a - w_a)
    visible(q, k)  =  start_a(q) <= k_a < start_a(q) + w_a     for every axis a

Tokens are numbered row by row, the last axis fastest; one axis is a line, two an image, three a video.
Unlike a sliding window, which loses keys at a border, every query sees exactly ``w_1 · w_2 · …`` keys.

Shapes: ``grid`` and ``window`` have an entry for each axis.  Cached per token: nothing; it is an
encoder's mask and looks ahead.
Source: Hassani et al. 2023, neighborhood attention (arXiv 2204.07143) §3.1.

Where libraries differ: NATTEN clamps, as here; a convolution's zero padding does not.  attention-gym's
``generate_natten`` compares rows with the canvas' width: it agrees on square grids and windows only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integers
from kvattn.errors import ArgumentError, PositionError
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Neighbourhood:
    """The nearest positions of a grid.

    Parameters
    ----------
    grid
        Positions along each axis, >= 1.
    window
        Visible positions along each axis: odd, and at most those that there are.

    Raises
    ------
    ArgumentError
        When they are no integers, differ in length, or a window is even or too large.
    PositionError
        Later, when asked for a position outside the grid.

    Examples
    --------
    >>> at = np.arange(5)
    >>> Neighbourhood([5], [3])(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 1, 1, 1],
           [0, 0, 1, 1, 1]])
    """

    grid: Sequence[int] | Indices
    window: Sequence[int] | Indices

    def __post_init__(self) -> None:
        for name in ("grid", "window"):
            object.__setattr__(self, name, integers(name, getattr(self, name), 1))
        if len(self.grid) != len(self.window):
            raise ArgumentError(f"window must have an entry for each of {len(self.grid)} axes, got {len(self.window)}")
        for count, wide in zip(self.grid, self.window, strict=True):
            if wide % 2 == 0 or wide > count:
                raise ArgumentError(f"window must be odd and at most {count} on an axis of {count}, got {wide}")

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        q, k = self._inside("q_positions", q_positions), self._inside("k_positions", k_positions)
        visible = np.ones(np.broadcast_shapes(q.shape, k.shape), np.bool_)
        for axis in reversed(range(len(self.grid))):
            count, wide = self.grid[axis], self.window[axis]
            away = k % count - np.clip(q % count - wide // 2, 0, count - wide)
            visible &= (away >= 0) & (away < wide)
            q, k = q // count, k // count
        return visible

    def _inside(self, name: str, positions: Positions) -> Positions:
        found, end = np.asarray(positions), int(np.prod(self.grid))
        lost = (found < 0) | (found >= end)
        if lost.any():
            raise PositionError(f"{name} must be from 0 to {end - 1}, inside the grid, got {found[lost][0]}")
        return found

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the first axis, along which positions grow; certain of ALL on a line alone.

        >>> Neighbourhood([6, 5], [3, 3]).block(0, Span(0, 4), Span(15, 29))
        <Answer.NONE: 'none'>
        """
        inner = int(np.prod(self.grid[1:]))
        if min(q.low, k.low) < 0 or max(q.high, k.high) >= self.grid[0] * inner:
            return Answer.LOOK
        start, last = (
            min(max(at // inner - self.window[0] // 2, 0), self.grid[0] - self.window[0]) for at in (q.low, q.high)
        )
        if k.high // inner < start or k.low // inner >= last + self.window[0]:
            return Answer.NONE
        inside = len(self.grid) == 1 and k.low >= last and k.high < start + self.window[0]
        return Answer.ALL if inside else Answer.LOOK

    def __repr__(self) -> str:
        return f"Neighbourhood({list(self.grid)}, {list(self.window)})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
