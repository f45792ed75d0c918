"""Zigzag attention: ring attention where each rank owns an early and a late run of tokens.

    the tokens are cut into 2P runs;  rank r owns runs r and 2P - 1 - r

Under a causal mask every rank has the same number of pairs in every step.  With runs of c tokens: in the first step
two triangles and a square, ``c (c + 1) + c²``; in each other one ``2 c²``, be it that both of its runs see the early
run that comes by, or that its late run sees both.

Shapes, cache and bytes are those of `kvattn.execution.ring`.
Cost: on the critical path ``c (c + 1) + c² + (P - 1) · 2c²`` pairs per head: exactly 1/P of all.
Source: the layout: Llama 3 (arXiv 2407.21783) §3.3.2, context parallelism, which gathers all keys first; in a ring,
by this name: zhuzilin's ring-flash-attention; torch's context parallelism calls it head-tail.

Where libraries differ: the two runs of a rank lie next to each other in memory though not in position: rotary
tables taken by row number turn the late run wrongly.
"""

import numpy as np

from kvattn.execution.question import Question
from kvattn.execution.ring import Distributed, contiguous, ring_attend
from kvattn.typing import Indices


def zigzag_attend(question: Question, ranks: int) -> Distributed:
    """Answer on a ring of ranks that own two runs each.

    Parameters and errors are those of `kvattn.execution.ring.ring_attend`.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.linspace(0, 1, 4).reshape(1, 1, 4, 1)
    >>> found = zigzag_attend(Question(x, x, x, mask=Causal()), ranks=2)
    >>> found.pairs, found.critical
    (((3, 2), (3, 2)), 5)
    """
    return ring_attend(question, ranks, folded)


def folded(tokens: int, ranks: int) -> tuple[Indices, ...]:
    """Run r and run 2P - 1 - r.

    >>> [share.tolist() for share in folded(8, 2)]
    [[0, 1, 6, 7], [2, 3, 4, 5]]
    """
    runs = contiguous(tokens, 2 * ranks)
    return tuple(np.concatenate([runs[rank], runs[-1 - rank]]) for rank in range(ranks))
