"""Anchors: where other libraries hang the causal triangle when T ≠ S.

    top left:      row t sees columns 0 … t            query positions 0 … T-1
    bottom right:  row t sees columns 0 … t + S - T    query positions S-T … S-1

Here positions say who comes first, so an anchor is no option of the mask: these functions give the
query positions that make ``Causal()`` over keys at 0 … S-1 the one triangle or the other, and the
triangles themselves, ``[T, S]``.  With T > S the first rows of "bottom right" see nothing: their
positions are negative.

Where libraries differ: torch SDPA ``is_causal`` and JAX are top left; flash-attn ≥ 2.1, ONNX ≥ 1.23 and
every engine that decodes are bottom right; ONNX ≤ 1.18 was top left whatever the past.
"""

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.causal import Causal
from kvattn.typing import Positions, Visible


def top_left_positions(queries: int) -> Positions:
    """``0 … T-1``.

    Raises
    ------
    ArgumentError
        When queries is no integer or negative.

    Examples
    --------
    >>> top_left_positions(3)
    array([0, 1, 2])
    """
    return np.arange(integer("queries", queries, 0), dtype=np.int64)


def bottom_right_positions(queries: int, keys: int) -> Positions:
    """``S-T … S-1``: the queries are the last T positions.

    Raises
    ------
    ArgumentError
        When a number is no integer or negative.

    Examples
    --------
    >>> bottom_right_positions(2, 5), bottom_right_positions(3, 2)
    (array([3, 4]), array([-1,  0,  1]))
    """
    count, end = integer("queries", queries, 0), integer("keys", keys, 0)
    return np.arange(end - count, end, dtype=np.int64)


def top_left(queries: int, keys: int) -> Visible:
    """The triangle ``[T, S]`` that starts in the top left corner.

    Raises
    ------
    ArgumentError
        When a number is no integer or negative.

    Examples
    --------
    >>> top_left(2, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0]])
    """
    at = np.arange(integer("keys", keys, 0), dtype=np.int64)
    return Causal()(0, 0, top_left_positions(queries)[:, None], at)


def bottom_right(queries: int, keys: int) -> Visible:
    """The triangle ``[T, S]`` that ends in the bottom right corner.

    Raises
    ------
    ArgumentError
        When a number is no integer or negative.

    Examples
    --------
    >>> bottom_right(2, 4).astype(int)
    array([[1, 1, 1, 0],
           [1, 1, 1, 1]])
    """
    at = np.arange(integer("keys", keys, 0), dtype=np.int64)
    return Causal()(0, 0, bottom_right_positions(queries, keys)[:, None], at)
