"""Context-parallel decoding (DCP, Helix): each rank holds some of the keys and sees all queries.

Rank r of P attends, for every head, to its own keys; then heads are divided, each rank sends every other rank that
one's heads of ``(out_r, lse_r)``, and rank r ends with its ``Hq / P`` heads of the merged answer.  What crosses the
wire does not grow with the number of keys::

    sent by a rank = (P - 1) · B · (Hq / P) · T · (Dv + 1) · itemsize        to all together

Keys are dealt out one by one, token s to rank ``s mod P``, so that a sequence that grows stays balanced.  A sink
belongs to its head: the rank that ends with the head counts it, once.

Shapes: ``q [B, Hq, T, D]`` on every rank; ``k [B, Hkv, S_r, D]`` on rank r.
Cached per token: a token's rows on one rank.  Cost: 1/P of attention, and a merge of P parts of Hq/P heads.
Source: Bhatia et al. 2025, Helix Parallelism (arXiv 2507.07120) §2; the merge: Dao et al. 2022 (2205.14135) §3.1.

Where libraries differ: vLLM gathers every rank's lse, corrects each rank's output by it and reduce-scatters the sum
over heads; deals tokens out in runs of a fixed number; TensorRT-LLM sends parts all-to-all, as here.
"""

import numpy as np

from kvattn.arguments import integer
from kvattn.core.merge import merge
from kvattn.errors import ArgumentError
from kvattn.execution.question import Question
from kvattn.execution.ring import Distributed
from kvattn.execution.striped import stripes
from kvattn.typing import Attended


def context_parallel_attend(question: Question, ranks: int) -> Distributed:
    """Answer on so many simulated ranks.

    Parameters
    ----------
    question
        What is asked.
    ranks
        P; divides the query heads.

    Returns
    -------
    Distributed
        The answer, the bytes that each rank sent, and the pairs that each saw, in one step.

    Raises
    ------
    ArgumentError
        Ranks below 1, or that do not divide the query heads.

    Examples
    --------
    >>> x = np.linspace(0, 1, 6).reshape(1, 2, 3, 1)
    >>> found = context_parallel_attend(Question(x[:, :, :1], x, x), ranks=2)
    >>> found.sent, found.pairs
    ((16, 16), ((4,), (2,)))
    """
    ranks = integer("ranks", ranks, 1)
    heads = question.q.shape[1]
    if heads % ranks:
        raise ArgumentError(f"ranks must divide the {heads} query heads, got {ranks}")
    mine = [question.without_sinks().part(keys=share) for share in stripes(question.k.shape[2], ranks)]
    parts, sinks = [part.attend() for part in mine], question.of_sinks()
    sent, ends = [0] * ranks, []
    for receiver in range(ranks):
        own = slice(receiver * heads // ranks, (receiver + 1) * heads // ranks)
        came = []
        for sender, part in enumerate(parts):
            message = Attended(part.out[:, own], part.lse[:, own])
            sent[sender] += (message.out.nbytes + message.lse.nbytes) * (sender != receiver)
            came.append(message)
        ends.append(merge(*came, Attended(sinks.out[:, own], sinks.lse[:, own])))
    answer = Attended(np.concatenate([end.out for end in ends], 1), np.concatenate([end.lse for end in ends], 1))
    return Distributed(answer, tuple(sent), tuple((int(part.visible().sum()),) for part in mine))


def context_parallel_bytes(question: Question, ranks: int) -> int:
    """What one rank sends in `context_parallel_attend`, in closed form.

    >>> context_parallel_bytes(
    ...     Question(np.zeros((1, 4, 1, 8)), np.zeros((1, 1, 99, 8)), np.zeros((1, 1, 99, 8))), ranks=2
    ... )
    144
    """
    batch, heads, length, _ = question.q.shape
    rows = batch * (heads // ranks) * length
    return int((ranks - 1) * rows * (question.v.shape[3] + 1) * question.q.itemsize)
