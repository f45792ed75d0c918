"""The online softmax: one pass over tiles of keys, in any order, each met once.

Per query row, with running maximum *m*, sum *l* and mix *o*, for each tile::

    m' = max(m, max_j s_j)
    l' = l · e^(m - m') + Σ_j e^(s_j - m')
    o' = o · e^(m - m') + Σ_j e^(s_j - m') v_j

and in the end ``out = o / l``, ``lse = m + log l``; a sink enters once.  Whatever the sizes of the tiles and
their order, the result is that of the two-pass softmax within a few roundings.  A tile of pairs that the mask
hides is skipped, one that it shows whole is not looked at.

Shapes: ``q [B, Hq, T, D]``; scores exist for ``rows × columns`` pairs per head.
Cost: ``2·(D + Dv)`` FLOPs per pair in a tile that is met, and none for the others: `tiles` says what that saves.
Source: Milakov & Gimelshein 2018 (arXiv 1805.02867) alg. 3; Dao et al. 2022 (2205.14135) alg. 1; skipping:
Dao 2023 (2307.08691) §3.1.

Where libraries differ: a first tile that is all hidden has maximum -inf, and ``-inf - -inf`` is NaN in kernels
that do not guard it (flashinfer #4401); FlashAttention-4 rescales only where the maximum has grown enough.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from kvattn import ops
from kvattn.arguments import integer, integers
from kvattn.errors import ArgumentError
from kvattn.execution._scores import mix, scores
from kvattn.execution.question import Question
from kvattn.typing import Answer, Attended, Span


class Tiles(NamedTuple):
    """Which tiles are met, over all sequences.

    Attributes
    ----------
    met, skipped
        Tiles of pairs that are computed; that the mask hides whole.
    whole
        Those met of which the mask shows every pair.
    matmul, saved
        FLOPs of the matrix products in tiles met; in tiles skipped.
    """

    met: int
    skipped: int
    whole: int
    matmul: int
    saved: int


def online_attend(
    question: Question, *, rows: int = 64, columns: int = 64, order: Sequence[int] | None = None
) -> Attended:
    """Answer with a running softmax.

    Parameters
    ----------
    question
        What is asked.
    rows, columns
        Queries and keys in a tile.
    order
        The numbers of the key tiles, each once, in the order to meet them in; from the first on unless given.

    Returns
    -------
    Attended
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.

    Raises
    ------
    ArgumentError
        A size below 1; an order that is not one of all tiles.

    Examples
    --------
    >>> x = np.linspace(0, 1, 5).reshape(1, 1, 5, 1)
    >>> forth, back = (online_attend(Question(x, x, x), columns=2, order=o) for o in ([0, 1, 2], [2, 1, 0]))
    >>> bool(np.allclose(forth.out, back.out, rtol=1e-14))
    True
    """
    rows, columns = integer("rows", rows, 1), integer("columns", columns, 1)
    count = -(-question.k.shape[2] // columns)
    turn = tuple(range(count)) if order is None else integers("order", order, 0)
    if sorted(turn) != list(range(count)):
        raise ArgumentError(f"order must hold each tile of 0 .. {count - 1} once, got {list(turn)}")
    out, lse = question.of_sinks()
    lowest = float(np.finfo(out.dtype).min)
    for b in range(len(question.q)):
        for asked in _cuts(question.q.shape[2], rows):
            top = np.full(lse[b, :, asked].shape, -np.inf, lse.dtype)
            total = np.zeros_like(top)
            mixed = np.zeros_like(out[b, :, asked])
            for number in turn:
                part = question.part(asked, slice(number * columns, (number + 1) * columns))
                answer = _answer(part, b)
                if answer is Answer.NONE:
                    continue
                found, keep = scores(part, b, look=answer is Answer.LOOK)
                peak = np.maximum(top, found.max(axis=-1))
                shift = np.maximum(peak, lowest)  # -inf less -inf is no number
                weights = ops.exp(found - shift[..., None])
                fade = ops.exp(top - shift)
                total = total * fade + weights.sum(axis=-1)
                mixed = mixed * fade[..., None] + mix(weights, part, b, keep)
                top = peak
            sink = lse[b, :, asked]
            peak = np.maximum(top, sink)
            shift = np.maximum(peak, lowest)
            fade = ops.exp(top - shift)
            total = total * fade + ops.exp(sink - shift)
            divisor = np.where(total == 0.0, 1.0, total).astype(total.dtype, copy=False)
            out[b, :, asked] = mixed * fade[..., None] / divisor[..., None]
            lse[b, :, asked] = np.where(total == 0.0, -np.inf, peak + ops.log(divisor))
    return Attended(out, lse)


def tiles(question: Question, *, rows: int = 64, columns: int = 64) -> Tiles:
    """What `online_attend` meets and skips, without computing anything.

    Examples
    --------
    >>> from kvattn.masks import Causal
    >>> x = np.zeros((1, 1, 4, 1))
    >>> tiles(Question(x, x, x, mask=Causal()), rows=2, columns=2)
    Tiles(met=3, skipped=1, whole=1, matmul=48, saved=16)
    """
    rows, columns = integer("rows", rows, 1), integer("columns", columns, 1)
    heads, width = question.q.shape[1], question.q.shape[3] + question.v.shape[3]
    met = skipped = whole = matmul = saved = 0
    for b in range(len(question.q)):
        for asked in _cuts(question.q.shape[2], rows):
            for held in _cuts(question.k.shape[2], columns):
                part = question.part(asked, held)
                work = 2 * heads * part.q.shape[2] * part.k.shape[2] * width
                answer = _answer(part, b)
                if answer is Answer.NONE:
                    skipped, saved = skipped + 1, saved + work
                else:
                    met, matmul, whole = met + 1, matmul + work, whole + (answer is Answer.ALL)
    return Tiles(met, skipped, whole, matmul, saved)


def _cuts(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _answer(part: Question, b: int) -> Answer:
    if part.mask is None:
        return Answer.ALL
    q, k = part.q_positions[b], part.k_positions[b]
    return part.mask.block(b, Span(int(q.min()), int(q.max())), Span(int(k.min()), int(k.max())))
