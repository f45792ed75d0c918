"""Block diffusion, training: one pass over a noisy copy of a text and the clean one behind it.

Positions 0 … N-1 are the noisy copy, N … 2N-1 the text itself; with ``block(p) = floor((p mod N) / n)``:

    noisy q, noisy k:   block(q) = block(k)
    noisy q, clean k:   block(q) > block(k)
    clean q, clean k:   block(q) >= block(k)
    clean q, noisy k:   never

So every noisy block is denoised behind the clean ones before it, as when decoding, all in one pass.
The mask for decoding has no second copy: it is ``BlockWise(n, Causal())``.

Cached per token: nothing; training has no cache.  When decoding, committed blocks are, and a noisy
block is appended, rolled back, and appended again until it is final.
Source: Arriola et al. 2025, BD3-LM (arXiv 2503.09573) §3.1, and the masks in its supplement.

Where libraries differ: tokens of both copies stand at the same *place* in the text, so a positional
scheme must be given ``p mod N``; some implementations put the clean copy first.
"""

from dataclasses import dataclass

import numpy as np

from kvattn.arguments import integer
from kvattn.masks.combine import both, either, inverse
from kvattn.typing import Answer, Indices, Positions, Span, Visible


@dataclass(frozen=True, repr=False)
class BlockDiffusion:
    """Noisy blocks behind clean ones.

    Parameters
    ----------
    size
        n >= 1: positions in a block.
    length
        N >= 1: tokens of the text, half of the positions.

    Raises
    ------
    ArgumentError
        When a number is no integer or below 1.

    Examples
    --------
    >>> at = np.arange(6)
    >>> BlockDiffusion(2, length=3)(0, 0, at[:, None], at).astype(int)
    array([[1, 1, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0],
           [0, 0, 1, 1, 1, 0],
           [0, 0, 0, 1, 1, 0],
           [0, 0, 0, 1, 1, 0],
           [0, 0, 0, 1, 1, 1]])
    """

    size: int
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size", self.size, 1))
        object.__setattr__(self, "length", integer("length", self.length, 1))

    def __call__(self, b: Indices | int, h: Indices | int, q_positions: Positions, k_positions: Positions) -> Visible:
        """Answer for every pair, the four arguments broadcasting."""
        q_clean, k_clean = np.greater_equal(q_positions, self.length), np.greater_equal(k_positions, self.length)
        ahead = (np.subtract(q_positions, self.length * q_clean)) // self.size
        ahead = ahead - (np.subtract(k_positions, self.length * k_clean)) // self.size
        clean = k_clean & np.where(q_clean, ahead >= 0, ahead > 0)
        visible: Visible = np.where(k_clean, clean, ~q_clean & (ahead == 0))
        return visible

    def block(self, b: int, q: Span, k: Span) -> Answer:
        """From the blocks of the ends, for the noisy and the clean part of each span.

        >>> BlockDiffusion(2, length=8).block(0, Span(8, 15), Span(0, 7))
        <Answer.NONE: 'none'>
        """
        answers = {
            self._part(q_clean, k_clean, mine, theirs)
            for q_clean, mine in self._parts(q)
            for k_clean, theirs in self._parts(k)
        }
        return answers.pop() if len(answers) == 1 else Answer.LOOK

    def _parts(self, span: Span) -> list[tuple[bool, Span]]:
        """Block numbers of the noisy and of the clean part of a span, without empty ones."""
        noisy, clean = Span(span.low, min(span.high, self.length - 1)), Span(max(span.low, self.length), span.high)
        found = [(False, noisy), (True, Span(clean.low - self.length, clean.high - self.length))]
        return [(kind, Span(p.low // self.size, p.high // self.size)) for kind, p in found if p.low <= p.high]

    def _part(self, q_clean: bool, k_clean: bool, q: Span, k: Span) -> Answer:
        if not k_clean:
            if q_clean or q.high < k.low or k.high < q.low:
                return Answer.NONE
            return Answer.ALL if q.low == q.high == k.low == k.high else Answer.LOOK
        least = 0 if q_clean else 1
        if q.low - k.high >= least:
            return Answer.ALL
        return Answer.NONE if q.high - k.low < least else Answer.LOOK

    def __repr__(self) -> str:
        return f"BlockDiffusion({self.size}, length={self.length})"

    __and__ = both
    __or__ = either
    __invert__ = inverse
