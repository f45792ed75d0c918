"""Chunked: a token sees its own chunk of c positions.

    visible(q, k)  =  floor(q / c) = floor(k / c)          local causal attention:  Causal() & Chunked(c)

Chunks are aligned to position 0.  The mask alone is two-sided.

Cached per token: keys of the current chunk, at most c; the first token of a chunk sees itself only.
Source: Llama 4 (Meta 2025, model card and released code: ``attention_chunk_size``).

Where libraries differ: with left padding, transformers counts chunks from the first real token;
here positions decide, so number the tokens accordingly.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class Chunked:
    """Self and the rest of the chunk.

    Parameters
    ----------
    size
        c >= 1: positions in a chunk.

    Raises
    ------
    ArgumentError
        When size is no integer or below 1.

    Examples
    --------
    >>> import numpy as np
    >>> at = np.arange(4)
    >>> Chunked(2)(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 1],
           [0, 0, 1, 1]])
    """

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size", self.size, 1))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        return np.equal(np.floor_divide(q_positions, self.size), np.floor_divide(k_positions, self.size))

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the chunks of the four ends.

        >>> Chunked(4).block(0, Span(4, 7), Span(4, 6))
        <Answer.ALL: 'all'>
        """
        first, last, lowest, highest = (p // self.size for p in (*q, *k))
        if last < lowest or highest < first:
            return Answer.NONE
        return Answer.ALL if first == last == lowest == highest else Answer.LOOK

    def __repr__(self) -> str:
        return f"Chunked({self.size})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
