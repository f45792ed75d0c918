"""Ring attention: queries stay on their rank, keys and values go round.

Each of P ranks owns some tokens.  In step n rank r attends with its queries to the keys that rank
``(r - n) mod P`` owns, merges that into what it has by the log-sum-exp, and passes the keys on to rank r + 1::

    steps = P,    sent by rank r = B · (S - |share of rank r + 1|) · Hkv · (D + Dv) · itemsize

Which tokens a rank owns does not show in the answer, since positions go along with the rows.  It shows in the
time: all ranks wait for the slowest, and under a causal mask the ranks of an even cut differ by almost a factor of
two.  `kvattn.execution.striped` and `kvattn.execution.zigzag` deal the tokens out more evenly.

Shapes: rank r holds ``q [B, Hq, T_r, D]``, ``k [B, Hkv, S_r, D]``, ``v [B, Hkv, S_r, Dv]``.
Cached per token: a token's rows on one rank, and one share in flight.
Cost: attention's pairs, each once; a merge per rank and step; the bytes above.
Source: Liu, Zaharia & Abbeel 2023 (arXiv 2310.01889) §3; the unbalanced causal case: Brandon et al. 2023
(2311.09431) §1.

Where libraries differ: some skip the steps whose keys nobody may see, which spares work and no time; a causal
triangle taken from row numbers in place of positions is right only in the first step.
"""

from collections.abc import Callable, Sequence
import itertools
from typing import NamedTuple

import numpy as np

from kvattn.arguments import integer
from kvattn.core.merge import merge
from kvattn.execution.question import Question
from kvattn.typing import Attended, Indices

Layout = Callable[[int, int], tuple[Indices, ...]]
"""Tokens and ranks to the row numbers that each rank owns."""


class Distributed(NamedTuple):
    """An answer that several ranks found together.

    Attributes
    ----------
    answer
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``, rows in their old order.
    sent
        Bytes that each rank sent.
    pairs
        For each rank and step the visible pairs, summed over sequences and query heads.
    """

    answer: Attended
    sent: tuple[int, ...]
    pairs: tuple[tuple[int, ...], ...]

    @property
    def critical(self) -> int:
        """Pairs on the critical path: in each step all wait for the rank that has most.

        >>> nothing = Attended(np.zeros((1, 1, 0, 1)), np.zeros((1, 1, 0)))
        >>> Distributed(nothing, (0, 0), ((1, 0), (1, 4))).critical
        5
        """
        return sum(max(step) for step in zip(*self.pairs, strict=True))


def ring_attend(question: Question, ranks: int, layout: Layout | None = None) -> Distributed:
    """Answer on so many simulated ranks.

    Parameters
    ----------
    question
        What is asked; queries and keys are dealt out alike.
    ranks
        P; more than there are tokens leaves some without any.
    layout
        Which rows each rank owns; `contiguous` unless given.

    Returns
    -------
    Distributed
        The answer, and what each rank sent and computed.

    Raises
    ------
    ArgumentError
        Fewer than one rank.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.linspace(0, 1, 4).reshape(1, 1, 4, 1)
    >>> found = ring_attend(Question(x, x, x, mask=Causal()), ranks=2)
    >>> found.sent, found.pairs, found.critical
    ((32, 32), ((3, 0), (3, 4)), 7)
    """
    ranks = integer("ranks", ranks, 1)
    deal = contiguous if layout is None else layout
    asked, held = deal(question.q.shape[2], ranks), deal(question.k.shape[2], ranks)
    sent = [0] * ranks
    pairs: list[list[int]] = [[] for _ in range(ranks)]
    alone = question.without_sinks()
    have = [alone.of_sinks()] * ranks
    have = [Attended(part.out[:, :, rows], part.lse[:, :, rows]) for part, rows in zip(have, asked, strict=True)]
    for step in range(ranks):
        for rank in range(ranks):
            share = held[(rank - step) % ranks]
            met = alone.part(asked[rank], share)
            pairs[rank].append(int(met.visible().sum()))
            have[rank] = merge(have[rank], met.attend())
            if step < ranks - 1:
                sent[rank] += met.k.nbytes + met.v.nbytes
    answer = question.of_sinks()
    for rows, part in zip(asked, have, strict=True):
        sinks = Attended(answer.out[:, :, rows], answer.lse[:, :, rows])
        answer.out[:, :, rows], answer.lse[:, :, rows] = merge(part, sinks)
    return Distributed(answer, tuple(sent), tuple(map(tuple, pairs)))


def contiguous(tokens: int, ranks: int) -> tuple[Indices, ...]:
    """Runs of about equal length, in order.

    >>> [share.tolist() for share in contiguous(5, 2)]
    [[0, 1], [2, 3, 4]]
    """
    edges = [tokens * n // ranks for n in range(ranks + 1)]
    return tuple(np.arange(start, stop) for start, stop in itertools.pairwise(edges))


def ring_bytes(question: Question, shares: Sequence[Indices]) -> tuple[int, ...]:
    """What each rank sends in `ring_attend`, in closed form: all shares but that of the rank before which it stands.

    >>> x = np.zeros((1, 1, 4, 1))
    >>> ring_bytes(Question(x, x, x), contiguous(4, 2))
    (32, 32)
    """
    row = len(question.k) * question.row_bytes
    sizes = [len(share) for share in shares]
    return tuple((sum(sizes) - sizes[(rank + 1) % len(sizes)]) * row for rank in range(len(sizes)))
