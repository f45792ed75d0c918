"""Tree: draft tokens of speculative decoding that share a past and branch.

    visible(q, k)  =  k < start            what is committed
                      or k an ancestor of q, or q itself

Node n stands at *arrival* position ``start + n``, one of its own, so that siblings differ; its
parent is an earlier node or, with -1, the end of the committed past.  A positional scheme needs
depth instead: `Tree.positions` gives siblings the same position.  Queries before ``start`` see
causally, so the mask also serves a step that brings the last committed token along.

Shapes: ``parents [N]``.  Cached per token: one row per node; after a verdict keep the accepted path.
Source: Miao et al. 2023, SpecInfer (arXiv 2305.09781) §4.2; Cai et al. 2024, Medusa (2401.10774) §2.1.2.

Where libraries differ: engines hand over a packed N × N bitmap of nodes and see the past implicitly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvattn.arguments import integer, integers
from kvattn.errors import ArgumentError, PositionError
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Tree:
    """The committed past, ancestors and self.

    Parameters
    ----------
    parents
        For each node the number of its parent, which is smaller, or -1 for a child of the past.
    start
        How many tokens are committed: the arrival position of node 0.

    Raises
    ------
    ArgumentError
        When a parent does not come before its child, or start is negative.
    PositionError
        Later, when asked for a position behind the last node.

    Examples
    --------
    >>> import numpy as np
    >>> tree = Tree([-1, 0, 0], start=2)
    >>> tree(0, 0, np.arange(2, 5)[:, None], np.arange(5)).astype(int)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 1, 0],
           [1, 1, 1, 0, 1]])
    >>> tree.positions
    array([2, 3, 3])
    """

    parents: Sequence[int] | Indices
    start: int
    _sees: Visible = field(init=False, compare=False)
    _depths: Indices = field(init=False, compare=False)

    def __post_init__(self) -> None:
        parents = integers("parents", self.parents, -1)
        object.__setattr__(self, "parents", parents)
        object.__setattr__(self, "start", integer("start", self.start, 0))
        sees = np.eye(len(parents), dtype=np.bool_)
        depths = np.zeros(len(parents), np.int64)
        for node, parent in enumerate(parents):
            if parent >= node:
                raise ArgumentError(f"parents[{node}] must be a number below {node}, got {parent}")
            if parent >= 0:
                sees[node] |= sees[parent]
                depths[node] = depths[parent] + 1
        sees.flags.writeable = depths.flags.writeable = False
        object.__setattr__(self, "_sees", sees)
        object.__setattr__(self, "_depths", depths)

    @property
    def depths(self) -> Indices:
        """How far each node is from the past, ``[N]``; 0 for its children.

        >>> Tree([-1, 0, 1, 0], start=5).depths
        array([0, 1, 2, 1])
        """
        return self._depths

    @property
    def positions(self) -> Positions:
        """``start + depths``, ``[N]``: where a positional scheme should put each node.

        >>> Tree([-1, 0, 1, 0], start=5).positions
        array([5, 6, 7, 6])
        """
        return self.start + self._depths

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair of arrival positions, the four arguments broadcasting."""
        q_nodes, k_nodes = self._nodes("q_positions", q_positions), self._nodes("k_positions", k_positions)
        among = self._sees[np.maximum(q_nodes, 0), np.maximum(k_nodes, 0)]
        visible: Visible = np.where(k_nodes < 0, q_nodes >= k_nodes, among & (q_nodes >= 0))
        return visible

    def _nodes(self, name: str, positions: Positions) -> Any:
        nodes = np.subtract(positions, self.start)
        lost = nodes >= len(self.parents)
        if lost.any():
            last = self.start + len(self.parents) - 1
            raise PositionError(f"{name} must be at most {last}, the last node, got {nodes[lost][0] + self.start}")
        return nodes

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the ends, and among nodes from the table of ancestors.

        >>> Tree([-1, 0, 0], start=300).block(0, Span(300, 302), Span(0, 255))
        <Answer.ALL: 'all'>
        """
        behind = self.start + len(self.parents)
        if max(q.high, k.high) >= behind:
            return Answer.LOOK
        if k.low > q.high:
            return Answer.NONE
        if k.high < self.start:
            return Answer.ALL if q.low >= k.high else Answer.LOOK
        if min(q.low, k.low) < self.start:
            return Answer.LOOK
        part = self._sees[q.low - self.start : q.high - self.start + 1, k.low - self.start : k.high - self.start + 1]
        if part.all():
            return Answer.ALL
        return Answer.LOOK if part.any() else Answer.NONE

    def __repr__(self) -> str:
        return f"Tree({list(self.parents)}, start={self.start})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
