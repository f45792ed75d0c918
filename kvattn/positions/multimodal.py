"""Multimodal rotary positions (M-RoPE): a token has a time, a height and a width, and each pair follows one of them.

    angle[pair k]  =  coordinate[axes[k]] · θ_k,       text: time = height = width, which is RoPE to the bit

Which axis a pair follows is data, the ``axes`` of a `kvattn.positions.Rotary`:

    `chunked`      t … t h … h w … w              Qwen2-VL, Qwen2.5-VL (half); GLM-4.xV (adjacent)
    `interleaved`  t h w t h w … t t              Qwen3-VL, Qwen3-Omni, Qwen3.5 (half)
    `alternating`  h w h w … t t t                ERNIE-4.5-VL (adjacent)

and which coordinates a token has is a table over positions, `mixed`, held by `Multimodal`, so that a layer goes
on counting tokens 0, 1, 2 … whatever grid they stand on.

Shapes: ``q [B, Hq, T, D]``, ``k [B, Hkv, T, D]``, positions ``[B, 1, T]``; coordinates ``[A, S]`` for the
tokens at positions 0 … S - 1, those still to come included; a position beyond raises.  All sequences of a batch
follow one table: one with other images is another layer value, since selecting beams may move it to any place.
Cached per token: keys are cached turned.
Cost: that of the rotation, and A coordinates of 8 bytes read for each token's query and again for its key.

Source: Wang et al. 2024 (Qwen2-VL, 2409.12191) §2.1.2; Bai et al. 2025 (Qwen3-VL, 2511.21631) §2 for the interleaved
order; the others are their released code.

Where libraries differ: the sections of a configuration are counted in pairs, and Qwen2-VL's first code doubled
them for both halves; Qwen3-VL's leftover pairs, the slowest, follow time.  ERNIE's sections are named (h, w, t).
After an image, text goes on from the largest coordinate plus one, which is less than the number of tokens:
transformers keeps the difference as ``rope_deltas``, and counts rows and columns alone, so that text behind a video of
more frames than both meets its coordinates again.  For video Qwen2.5-VL scales time by seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.arguments import integer, integers, shown
from kvattn.arrays import anything
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError, PositionError, ShapeError
from kvattn.positions._rows import places_of, rows_of
from kvattn.positions.axial import grid
from kvattn.positions.rotary import Rotary
from kvattn.typing import Array, Positions


def chunked(sections: Sequence[int]) -> tuple[int, ...]:
    """Axes in contiguous sections: the first pairs follow axis 0, the next axis 1, and so on.

    Raises
    ------
    ArgumentError
        When sections are not integers >= 0.

    Examples
    --------
    >>> chunked((2, 3, 1))
    (0, 0, 1, 1, 1, 2)
    """
    return tuple(axis for axis, pairs in enumerate(integers("sections", sections, 0)) for _ in range(pairs))


def interleaved(sections: Sequence[int]) -> tuple[int, ...]:
    """Axes in turn, 0 1 2 0 1 2 …, until an axis has its pairs; what is left over follows axis 0.

    Raises
    ------
    ArgumentError
        When sections are not integers >= 0, or a later section is too large to be dealt out.

    Examples
    --------
    >>> interleaved((4, 2, 2))
    (0, 1, 2, 0, 1, 2, 0, 0)
    """
    found = integers("sections", sections, 0)
    axes = [0] * sum(found)
    for axis, pairs in enumerate(found[1:], start=1):
        dealt = range(axis, pairs * len(found), len(found))
        if pairs and dealt[-1] >= len(axes):
            raise ArgumentError(f"sections must leave room to deal out axis {axis}, got {found}")
        for place in dealt:
            axes[place] = axis
    return tuple(axes)


def alternating(sections: Sequence[int]) -> tuple[int, ...]:
    """Axes 1 and 2 by turns, then axis 0: ERNIE's height, width and time.

    Parameters
    ----------
    sections
        Pairs of height, width and time, in this order; as many of height as of width.

    Raises
    ------
    ArgumentError
        When they are not.

    Examples
    --------
    >>> alternating((2, 2, 3))
    (1, 2, 1, 2, 0, 0, 0)
    """
    found = integers("sections", sections, 0)
    if len(found) != 3 or found[0] != found[1]:
        raise ArgumentError(f"sections must be pairs of height, width (as many) and time, got {found}")
    return (1, 2) * found[0] + (0,) * found[2]


def mixed(parts: Sequence[Any]) -> Positions:
    """Coordinates ``[3, S]`` of text and grids in a row.

    A text token has three equal coordinates, one more than the largest before it.  A grid starts there
    too and adds the number of its frame, row and column; frames vary slowest.

    Parameters
    ----------
    parts
        For each text its number of tokens, for each image or video its ``(frames, rows, columns)`` after merging.

    Raises
    ------
    ArgumentError
        When a part is neither.

    Examples
    --------
    >>> mixed([2, (1, 2, 2), 1])
    array([[0, 1, 2, 2, 2, 2, 4],
           [0, 1, 2, 2, 3, 3, 4],
           [0, 1, 2, 3, 2, 3, 4]])
    """
    columns, after = [np.zeros((3, 0), np.int64)], 0
    for n, part in enumerate(parts):
        if isinstance(part, (tuple, list)):
            sizes = integers(f"parts[{n}]", part, 1)
            if len(sizes) != 3:
                raise ArgumentError(f"parts[{n}] must be (frames, rows, columns) or a number of tokens, got {sizes}")
            found = after + grid(*sizes)
        else:
            found = np.broadcast_to(after + np.arange(integer(f"parts[{n}]", part, 0)), (3, int(part)))
        columns.append(found)
        after = int(found.max()) + 1 if found.size else after
    return np.concatenate(columns, axis=1)


@dataclass(frozen=True, eq=False)
class Multimodal:
    """A rotation by the coordinates that a table gives each position; the table is copied.

    Parameters
    ----------
    rotary
        With ``axes``.
    coordinates
        ``[A, S]``, finite numbers.

    Raises
    ------
    ArgumentError
        When rotary has no axes.
    ShapeError, DtypeError
        When coordinates are not numbers of this shape, or are fewer than the axes.

    Examples
    --------
    >>> rotary = Rotary((1.0, 1.0), axes=(0, 1))
    >>> image = Multimodal(rotary, [[0, 0], [0, 5]])
    >>> image.queries(np.ones((2, 4)), np.arange(2)).round(3)
    array([[ 1.   ,  1.   ,  1.   ,  1.   ],
           [ 1.   ,  1.243,  1.   , -0.675]])
    """

    rotary: Rotary
    coordinates: NDArray[Any]

    def __post_init__(self) -> None:
        if getattr(self.rotary, "axes", None) is None:
            raise ArgumentError(f"rotary must be a Rotary with axes, got {shown(self.rotary)}")
        given = anything("coordinates", self.coordinates)
        if given.dtype.kind not in "iuf":
            raise DtypeError(f"coordinates must be numbers, got dtype {given.dtype}")
        held = np.array(given, np.float64)
        least = max(self.rotary.axes or ()) + 1
        if held.ndim != 2 or held.shape[0] < least:
            raise ShapeError(f"coordinates must have shape [A, S] with A >= {least}, got {held.shape}")
        if not np.isfinite(held).all():
            raise DtypeError("coordinates must be finite numbers, got NaN or infinity")
        held.flags.writeable = False
        object.__setattr__(self, "coordinates", held)

    def queries(self, q: Array, positions: Positions) -> Array:
        """``q [..., T, D]`` turned to the coordinates of its positions.

        Raises
        ------
        PositionError
            When a position is not in the table.
        ShapeError, DtypeError
            When positions do not fit q, or q is not floating-point.

        Examples
        --------
        >>> Multimodal(Rotary((1.0,), axes=(0,)), [[0, 1]]).queries(np.ones((1, 2)), np.array([2]))
        Traceback (most recent call last):
        kvattn.errors.PositionError: positions must be in 0 .. 1, which the coordinates cover, got 2
        """
        return self._turned("q", q, positions)

    def keys(self, k: Array, positions: Positions) -> Array:
        """``k [..., T, D]`` turned to the coordinates of its positions; raises as `queries` does.

        >>> Multimodal(Rotary((1.0,), axes=(0,)), [[0, 1]]).keys(np.ones((1, 2)), np.array([0]))
        array([[1., 1.]])
        """
        return self._turned("k", k, positions)

    def queries_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `queries` counts.

        >>> Multimodal(Rotary((1.0,), axes=(0,)), [[0, 1]]).queries_cost(tokens=3, heads=2, width=2)
        Tally(arithmetic=39, transcendental=6, tables_read=24)
        """
        return self.rotary.cost(rows=tokens * heads, positions=tokens) + self._read(tokens)

    def keys_cost(self, *, tokens: int, heads: int, width: int) -> Tally:
        """What `keys` counts.

        >>> Multimodal(Rotary((1.0,), axes=(0,)), [[0, 1]]).keys_cost(tokens=3, heads=1, width=2)
        Tally(arithmetic=21, transcendental=6, tables_read=24)
        """
        return self.rotary.cost(rows=tokens * heads, positions=tokens) + self._read(tokens)

    def _read(self, tokens: int) -> Tally:
        return Tally(tables_read=8 * self.coordinates.shape[0] * tokens)

    def _turned(self, name: str, rows: Array, positions: Positions) -> Array:
        rows = rows_of(name, rows)
        places = places_of(name, positions, rows).astype(np.int64, copy=False)
        table = self.coordinates
        last = table.shape[1] - 1
        lost = places[(places < 0) | (places > last)]
        if lost.size:
            raise PositionError(f"positions must be in 0 .. {last}, which the coordinates cover, got {lost.flat[0]}")
        charge(self._read(places.size))
        return self.rotary.rotate(rows, table[:, places])
