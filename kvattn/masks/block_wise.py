"""Block-wise: a mask whose positions are blocks of n tokens.

    visible(q, k)  =  mask(floor(q / n), floor(k / n))

Blocks are aligned to position 0; within a pair of blocks all pairs are alike.  So are written:

- block diffusion, two-sided inside a block and causal over blocks: ``BlockWise(n, Causal())``;
- BigBird: ``BlockWise(n, Window(2, ahead=1) | QueriesAt(ends) | KeysAt(ends) | Chosen(table))``;
- Phi-3-small: ``Causal() & BlockWise(64, Window(16) | PerHead(columns))``, see `kvattn.masks.columns`;
- sliding tiles over tokens in tile order: ``BlockWise(tile, Neighbourhood(tiles, window))``.

Cached per token: nothing of its own.  ``BlockWise(n, Causal())`` looks ahead to the end of the block:
cached decoding equals recomputation where every step ends at a block border, and is refused elsewhere
(`kvattn.masks.ahead`).  A block that is not final is appended, rolled back, and appended again.

Source: Arriola et al. 2025, BD3-LM (arXiv 2503.09573) §3.1; Zaheer et al. 2020, BigBird (2007.14062) §2.
Where libraries differ: in some block-sparse kernels blocks of queries and of keys differ in size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvattn.arguments import integer, shown
from kvattn.errors import ArgumentError
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Mask, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class BlockWise:
    """What ``mask`` shows between blocks of ``size`` positions.

    Parameters
    ----------
    size
        n >= 1: positions in a block.
    mask
        Answers for block numbers, counted from 0.

    Raises
    ------
    ArgumentError
        When size is no integer or below 1, or mask is no mask.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> at = np.arange(5)
    >>> BlockWise(2, Causal())(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [1, 1, 1, 1, 0],
           [1, 1, 1, 1, 0],
           [1, 1, 1, 1, 1]])
    """

    size: int
    mask: Mask

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size", self.size, 1))
        mask: Any = self.mask
        if isinstance(mask, type) or not callable(mask) or not callable(getattr(mask, "block", None)):
            raise ArgumentError(f"mask must be a mask, callable and with a block method, got {shown(mask)}")

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        return self.mask(b, h, np.floor_divide(q_positions, self.size), np.floor_divide(k_positions, self.size))

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """What the mask answers for the blocks of the four ends.

        >>> from kvattn.masks import Causal
        >>> BlockWise(4, Causal()).block(0, Span(4, 7), Span(0, 6))
        <Answer.ALL: 'all'>
        """
        first, last = (Span(at.low // self.size, at.high // self.size) for at in (q, k))
        return self.mask.block(b, first, last)

    def __repr__(self) -> str:
        return f"BlockWise({self.size}, {self.mask!r})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
