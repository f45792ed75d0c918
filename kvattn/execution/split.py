"""Split keys (flash-decoding): parts of the keys are attended to apart and merged by their log-sum-exp.

    (out_p, lse_p) = attention over part p,    out = Σ_p e^(lse_p - lse) out_p,    lse = log Σ_p e^lse_p

One query against many keys leaves most of a processor idle; parts of the keys are work for all of it.  Parts may
be empty, more than there are keys, or any sets of keys.  The sink is a part of its own, with no value: so it is
counted once, however many parts are empty.

Shapes: ``q [B, Hq, T, D]``; each part ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.
Cached per token: as without.  Cost: attention's, plus `kvattn.core.merge.merge_cost` for P parts and the sink.
Source: Dao et al. 2023, "Flash-Decoding for long-context inference", PyTorch blog; the merge: Milakov &
Gimelshein 2018 (arXiv 1805.02867) §3.1.

Where libraries differ: a sink added in each part, or in the first one that is not empty (rocm-libraries #12227);
parts whose lse is to base 2, as FlashInfer keeps it, merged as natural logs (sglang #40903): convert with
`kvattn.core.merge.natural_from_base2`.
"""

from collections.abc import Sequence
import itertools

from kvattn.arguments import integer, integers
from kvattn.core.merge import merge
from kvattn.errors import ArgumentError
from kvattn.execution.question import Question
from kvattn.typing import Attended


def split_attend(question: Question, parts: int) -> Attended:
    """Answer from so many parts of about equal size, in order.

    Parameters
    ----------
    question
        What is asked.
    parts
        How many; more than there are keys leaves some empty.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Raises
    ------
    ArgumentError
        Fewer than one part.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 5).reshape(1, 1, 5, 1)
    >>> question = Question(x, x, x, sinks=np.zeros(1))
    >>> bool(np.allclose(split_attend(question, 3).lse, question.attend().lse, rtol=1e-14))
    True
    """
    parts = integer("parts", parts, 1)
    count = question.k.shape[2]
    return merge(*attend_parts(question, [count * n // parts for n in range(1, parts)]), question.of_sinks())


def attend_parts(question: Question, edges: Sequence[int]) -> tuple[Attended, ...]:
    """Attention over each part of the keys, without sinks: what a merge takes.

    Parameters
    ----------
    question
        What is asked.
    edges
        The first key of each part but the first, not falling; an edge twice makes an empty part.

    Raises
    ------
    ArgumentError
        Edges that fall, or lie outside the keys.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((1, 1, 3, 1))
    >>> [float(np.exp(part.lse[0, 0, 0])) for part in attend_parts(Question(x, x, x), [1, 1])]
    [1.0, 0.0, 2.0]
    """
    count = question.k.shape[2]
    cuts = [0, *(integers("edges", edges, 0) if len(edges) else ()), count]
    if cuts != sorted(cuts):
        raise ArgumentError(f"edges must not fall and must lie in 0 .. {count}, got {list(edges)}")
    alone = question.without_sinks()
    return tuple(alone.part(keys=slice(start, stop)).attend() for start, stop in itertools.pairwise(cuts))
