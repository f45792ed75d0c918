"""Axial rotary positions: a patch has a row and a column (and a frame), and each axis turns its share of the pairs.

    angle[pair k]  =  coordinate[axes[k]] · θ_k,       D / (2 · axes) pairs for each axis

`repeated` gives every axis the same frequencies, `dealt` deals one list out among the axes; both return a
`kvattn.positions.Rotary`.  `grid` and `centres` return the coordinates of patches in row-major order.

Shapes: rows ``[..., N, D]``, coordinates ``[axes, N]``.  A layer that counts its tokens takes the coordinates through
`kvattn.positions.Multimodal`.
Cached per token: vision encoders see all patches at once and cache nothing; where one does, keys are cached turned.
Cost: that of `kvattn.positions.Rotary`.

Source: Fang et al. 2023 (EVA-02, 2303.11331) §2 names the 2-D form; Heo et al. 2024 (2403.13298) §3.1; Agrawal et al.
2024 (Pixtral, 2410.07073) §2.1; Siméoni et al. 2025 (DINOv3, 2508.10104) §3.2 for coordinates in [-1, 1].

Where libraries differ, for heads of D features in transformers; the page has the table in code:

    Qwen2-VL, Qwen2.5-VL vision   repeated(D), half;  rows, then columns
    Pixtral                       dealt(D), half;  rows take frequencies 0, 2, 4 …, columns 1, 3, 5 …
    Llama-4 vision                repeated(D, layout="adjacent");  columns, then rows, counted from 1; class token at 0
    DINOv3                        repeated(D, base=100), half;  rows, then columns, 2π · centres; other tokens stay
    MiniMax-M3 vision             repeated(6 · (D // 6), 3), half;  frames, rows, columns; the other features pass
    V-JEPA 2                      three slices of 2 · (D // 6) features in adjacent pairs, angles laid out for half:
                                  two features of a pair take different angles, which is no rotation, hence no `Rotary`
"""

from typing import Literal

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary, geometric
from kvattn.typing import Array, Positions


def repeated(width: int, axes: int = 2, base: float = 10000.0, layout: Literal["half", "adjacent"] = "half") -> Rotary:
    """A rotation whose first pairs follow axis 0, the next axis 1, each axis with the frequencies of ``width / axes``.

    Raises
    ------
    ArgumentError
        When width is not a multiple of 2 · axes, or an argument is not of its kind.

    Examples
    --------
    >>> repeated(8, base=100.0)
    Rotary(frequencies=(1.0, 0.1, 1.0, 0.1), layout='half', magnitude=1.0, start=0, axes=(0, 0, 1, 1))
    """
    pairs = _pairs_per_axis(width, axes)
    frequencies = geometric(2 * pairs, base) * axes
    return Rotary(frequencies, layout, axes=tuple(n // pairs for n in range(pairs * axes)))


def dealt(width: int, axes: int = 2, base: float = 10000.0, layout: Literal["half", "adjacent"] = "half") -> Rotary:
    """A rotation whose first pairs follow axis 0, the next axis 1, with the frequencies of ``width`` dealt out in turn.

    Raises
    ------
    ArgumentError
        When width is not a multiple of 2 · axes, or an argument is not of its kind.

    Examples
    --------
    >>> dealt(8, base=10.0**4).frequencies, dealt(8).axes
    ((1.0, 0.01, 0.1, 0.001), (0, 0, 1, 1))
    """
    pairs = _pairs_per_axis(width, axes)
    every = geometric(width, base)
    frequencies = tuple(every[k] for axis in range(axes) for k in range(axis, len(every), axes))
    return Rotary(frequencies, layout, axes=tuple(n // pairs for n in range(pairs * axes)))


def grid(*sizes: int) -> Positions:
    """Coordinates ``[axes, N]`` of a grid, counted from 0; the last axis varies fastest.

    Raises
    ------
    ArgumentError
        When sizes are not integers >= 1.

    Examples
    --------
    >>> grid(2, 3)
    array([[0, 0, 0, 1, 1, 1],
           [0, 1, 2, 0, 1, 2]])
    """
    found = integers("sizes", sizes, 1)
    return np.indices(found, np.int64).reshape(len(found), -1)


def centres(*sizes: int) -> Array:
    """Centres ``[axes, N]`` of the cells of a grid that spans -1 … 1 on every axis.

    Raises
    ------
    ArgumentError
        When sizes are not integers >= 1.

    Examples
    --------
    >>> centres(1, 4)
    array([[ 0.  ,  0.  ,  0.  ,  0.  ],
           [-0.75, -0.25,  0.25,  0.75]])
    """
    found = np.array(integers("sizes", sizes, 1), np.float64)[:, None]
    return np.asarray((2 * grid(*sizes) + 1) / found - 1.0)


def _pairs_per_axis(width: int, axes: int) -> int:
    count = integer("axes", axes, 1)
    if integer("width", width, 2) % (2 * count):
        raise ArgumentError(f"width must be a multiple of 2 · axes = {2 * count}, got {width}")
    return int(width) // (2 * count)
