"""Global tokens: keys that every query sees, and queries that see every key.

    KeysAt(p):     visible(q, k)  =  k in p
    QueriesAt(p):  visible(q, k)  =  q in p

Longformer and BigBird join both: ``Window(r + 1, ahead=r) | KeysAt(p) | QueriesAt(p)``.  One alone is
seen by all without seeing all, or the other way round.

Cached per token: keys at the listed positions are never forgotten; a listed query needs all keys.
Both look ahead: a step must not leave a listed token behind (`kvattn.masks.ahead`).
Source: Beltagy et al. 2020, Longformer (arXiv 2004.05150) §3.1; Zaheer et al. 2020 (2007.14062) §2.

Where libraries differ: transformers marks them per sequence in ``global_attention_mask``; Longformer
computes them with projections of their own (`kvattn.variants.sparse.longformer`), BigBird does not.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integers
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class KeysAt:
    """Listed keys, for every query.

    Parameters
    ----------
    positions
        Where they stand, each >= 0, in any order.

    Raises
    ------
    ArgumentError
        When positions is no sequence of such integers, or empty.

    Examples
    --------
    >>> KeysAt([0, 3])(0, 0, np.arange(2)[:, None], np.arange(4)).astype(int)
    array([[1, 0, 0, 1],
           [1, 0, 0, 1]])
    """

    positions: Sequence[int] | Positions

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", _sorted(self.positions))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions))
        return np.broadcast_to(np.isin(k_positions, self.positions), shape).copy()

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From how many positions of the span are listed.

        >>> KeysAt([0, 3]).block(0, Span(9, 9), Span(1, 2))
        <Answer.NONE: 'none'>
        """
        return _listed(self.positions, k)

    def __repr__(self) -> str:
        return f"KeysAt({list(self.positions)})"

    __and__ = both
    __or__ = either
    __invert__ = inverse


@dataclass(frozen=True, repr=False)
class QueriesAt:
    """Every key, for listed queries.

    Parameters
    ----------
    positions
        Where they stand, each >= 0, in any order.

    Raises
    ------
    ArgumentError
        When positions is no sequence of such integers, or empty.

    Examples
    --------
    >>> QueriesAt([1])(0, 0, np.arange(2)[:, None], np.arange(3)).astype(int)
    array([[0, 0, 0],
           [1, 1, 1]])
    """

    positions: Sequence[int] | Positions

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", _sorted(self.positions))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        shape = np.broadcast_shapes(np.shape(q_positions), np.shape(k_positions))
        return np.broadcast_to(np.isin(q_positions, self.positions), shape).copy()

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From how many positions of the span are listed.

        >>> QueriesAt([0, 3]).block(0, Span(3, 3), Span(1, 2))
        <Answer.ALL: 'all'>
        """
        return _listed(self.positions, q)

    def __repr__(self) -> str:
        return f"QueriesAt({list(self.positions)})"

    __and__ = both
    __or__ = either
    __invert__ = inverse


def _sorted(positions: Sequence[int] | Positions) -> tuple[int, ...]:
    return tuple(sorted(set(integers("positions", positions, 0))))


def _listed(positions: Sequence[int] | Positions, span: Span) -> Answer:
    inside = bisect_right(positions, span.high) - bisect_left(positions, span.low)
    if inside == span.high - span.low + 1:
        return Answer.ALL
    return Answer.LOOK if inside else Answer.NONE
