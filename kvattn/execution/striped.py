"""Striped attention: ring attention with tokens dealt out one by one.

    rank of token i  =  i mod P

Under a causal mask every rank then sees, in every step, about half of the pairs it holds: rank r meets the keys of
rank j in a triangle, with its diagonal where ``r >= j`` and without it elsewhere.  With n = S / P tokens each the
slowest rank has ``n (n + 1) / 2`` pairs in a step, the fastest ``n (n - 1) / 2``.

Shapes, cache and bytes are those of `kvattn.execution.ring`.
Cost: on the critical path ``P · n (n + 1) / 2`` pairs per head, where the even cut has
``n (n + 1) / 2 + (P - 1) · n²``: nearly twice that.
Source: Brandon et al. 2023 (arXiv 2311.09431) §3.

Where libraries differ: a mask from row numbers must drop the diagonal where ``r < j``; positions say so by
themselves.
"""

import numpy as np

from kvattn.execution.question import Question
from kvattn.execution.ring import Distributed, ring_attend
from kvattn.typing import Indices


def striped_attend(question: Question, ranks: int) -> Distributed:
    """Answer on a ring of ranks that own stripes.

    Parameters and errors are those of `kvattn.execution.ring.ring_attend`.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.linspace(0, 1, 4).reshape(1, 1, 4, 1)
    >>> found = striped_attend(Question(x, x, x, mask=Causal()), ranks=2)
    >>> found.pairs, found.critical
    (((3, 1), (3, 3)), 6)
    """
    return ring_attend(question, ranks, stripes)


def stripes(tokens: int, ranks: int) -> tuple[Indices, ...]:
    """Every P-th token.

    >>> [share.tolist() for share in stripes(5, 2)]
    [[0, 2, 4], [1, 3]]
    """
    return tuple(np.arange(rank, tokens, ranks) for rank in range(ranks))
