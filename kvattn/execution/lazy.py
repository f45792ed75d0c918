"""Lazy softmax: queries and keys in chunks, each chunk summed up apart, in memory that grows as √S.

For each chunk of queries, and for each chunk c of keys on its own::

    m_c = max_j s_j,    l_c = Σ_j e^(s_j - m_c),    o_c = Σ_j e^(s_j - m_c) v_j

and when all chunks of keys are done, with ``m = max_c m_c``::

    out = Σ_c e^(m_c - m) o_c / Σ_c e^(m_c - m) l_c,    lse = m + log Σ_c e^(m_c - m) l_c

Unlike the online softmax no chunk waits for another.  What must be held at once for T' queries are the scores of
one chunk of S' keys and the sums of all S / S' chunks; that is least where ``S' = √(S · (Dv + 2))``, or, to the
letter of the paper, about √S.

Shapes: ``q [B, Hq, T, D]``; the sums of a chunk ``[Hq, T', Dv]`` and twice ``[Hq, T']``.
Cost: attention's, plus ``Dv + 2`` products per query and chunk of keys; memory: `numbers_held`.
Source: Rabe & Staats 2021 (arXiv 2112.05682) §2, §3; its figure 1 takes 1,024 queries and 4,096 keys at a time.

Where libraries differ: JAX's and diffusers' versions take the same chunks and a sum over a stacked axis; many
"memory-efficient" kernels that cite the paper are online softmaxes.
"""

import math

import numpy as np

from kvattn import ops
from kvattn.arguments import integer
from kvattn.execution._scores import mix, scores
from kvattn.execution.question import Question
from kvattn.typing import Array, Attended


def lazy_attend(question: Question, *, queries: int = 1024, keys: int | None = None) -> Attended:
    """Answer chunk by chunk.

    Parameters
    ----------
    question
        What is asked.
    queries
        Queries in a chunk, T'.
    keys
        Keys in a chunk, S'; √S, rounded up, unless given.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Raises
    ------
    ArgumentError
        A size below 1.

    Examples
    --------
    >>> x = np.linspace(0, 1, 5).reshape(1, 1, 5, 1)
    >>> found = lazy_attend(Question(x, x, x), queries=2)
    >>> bool(np.allclose(found.out, Question(x, x, x).attend().out, rtol=1e-14))
    True
    """
    queries, keys = _chunks(question, queries, keys)
    out, lse = question.of_sinks()
    lowest = float(np.finfo(out.dtype).min)
    length, count = question.q.shape[2], question.k.shape[2]
    for b in range(len(out)):
        for start in range(0, length, queries):
            asked = slice(start, min(start + queries, length))
            sums = [
                (out[b, :, asked], np.ones_like(lse[b, :, asked]), lse[b, :, asked])
            ]  # the sink: a chunk of its own
            sums += [
                _summary(question.part(asked, slice(first, first + keys)), b, lowest) for first in range(0, count, keys)
            ]
            mixes, totals, tops = (np.stack(x) for x in zip(*sums, strict=True))
            top = np.maximum(tops.max(axis=0), lowest)
            fades = ops.exp(tops - top)
            total = (fades * totals).sum(axis=0)
            divisor = np.where(total == 0.0, 1.0, total).astype(total.dtype, copy=False)
            out[b, :, asked] = (fades[..., None] * mixes).sum(axis=0) / divisor[..., None]
            lse[b, :, asked] = np.where(total == 0.0, -np.inf, top + ops.log(divisor))
    return Attended(out, lse)


def numbers_held(question: Question, *, queries: int = 1024, keys: int | None = None) -> int:
    """Numbers that one chunk of queries needs besides arguments and results: one chunk's scores, all chunks' sums.

    `lazy_attend` takes a small multiple of it, since an elementwise step in NumPy makes a new array.

    Examples
    --------
    >>> x = np.zeros((1, 1, 100, 4))
    >>> numbers_held(Question(x, x, x), queries=2, keys=10)
    140
    """
    queries, keys = _chunks(question, queries, keys)
    _, heads, length, _ = question.q.shape
    count = question.k.shape[2]
    sums = -(-count // keys) * (question.v.shape[3] + 2)
    return int(heads * min(queries, length) * (min(keys, count) + sums))


def _chunks(question: Question, queries: int, keys: int | None) -> tuple[int, int]:
    root = math.isqrt(max(question.k.shape[2] - 1, 0)) + 1
    return integer("queries", queries, 1), root if keys is None else integer("keys", keys, 1)


def _summary(part: Question, b: int, lowest: float) -> tuple[Array, Array, Array]:
    """``o_c [Hq, T', Dv]``, ``l_c`` and ``m_c [Hq, T']`` of one chunk of keys."""
    found, keep = scores(part, b)
    top = found.max(axis=-1)
    weights = ops.exp(found - np.maximum(top, lowest)[..., None])
    return mix(weights, part, b, keep), weights.sum(axis=-1), top
