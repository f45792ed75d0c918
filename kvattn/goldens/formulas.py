"""Attention in loops over nested lists, for the formulas of recipes.

    s = scale * q.k  ->  softcap  ->  bend  ->  see  ->  sinks  ->  softmax  ->  mix

Every function takes the arithmetic ``n`` first (`kvattn.goldens.numbers.Numbers`) and nested lists of its
numbers; there is no array in sight.  Sums go through ``n.sum``, which any order of adding satisfies.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, TypeAlias

from kvattn.goldens.numbers import Number, Numbers

See: TypeAlias = Callable[[int, int, int, int], bool]
"""``see(b, h, t, s)``: whether query row t of head h may see key row s."""

Bend: TypeAlias = Callable[[Number, int, int, int, int], Number]
"""``bend(score, b, h, t, s)``: the score after scale and softcap, as a bias or a mod leaves it."""


def dot(n: Numbers, a: Sequence[Number], b: Sequence[Number]) -> Number:
    """The inner product.

    >>> from kvattn.goldens.numbers import Decimals
    >>> n = Decimals()
    >>> dot(n, [n(1), n(2)], [n(3), n(4)]).rounded()
    11.0
    """
    return n.sum(x * y for x, y in zip(a, b, strict=True))


def product(n: Numbers, x: Sequence[Sequence[Number]], weight: Sequence[Sequence[Number]]) -> list[list[Number]]:
    """``x [T, M] @ weight [M, N]``.

    >>> from kvattn.goldens.numbers import Decimals
    >>> n = Decimals()
    >>> product(n, [[n(2)]], [[n(3), n(4)]])[0][1].rounded()
    8.0
    """
    columns = list(zip(*weight, strict=True))
    return [[dot(n, row, column) for column in columns] for row in x]


def reciprocal_root(n: Numbers, width: int) -> Number:
    """``1/sqrt(width)``, the scale unless another is given.

    >>> from kvattn.goldens.numbers import Decimals
    >>> reciprocal_root(Decimals(), 4).rounded()
    0.5
    """
    return 1 / n.sqrt(n(width))


def sigmoid(n: Numbers, x: Number) -> Number:
    """``1 / (1 + exp(-x))``.

    >>> from kvattn.goldens.numbers import Decimals
    >>> sigmoid(Decimals(), Decimals()(0)).rounded()
    0.5
    """
    return 1 / (1 + n.exp(-x))


def capped(n: Numbers, x: Number, cap: Number) -> Number:
    """``cap * tanh(x / cap)``.

    >>> from kvattn.goldens.numbers import Decimals
    >>> capped(Decimals(), Decimals()(0), Decimals()(5)).rounded()
    0.0
    """
    return cap * n.tanh(x / cap)


def softmax(n: Numbers, scores: Sequence[Number], sinks: Sequence[Number] = ()) -> tuple[list[Number], Any]:
    """The weights of the scores, and the natural log of their sum; sinks are in the sum alone.

    No score and no sink gives no weights and the float -inf.

    >>> from kvattn.goldens.numbers import Decimals
    >>> n = Decimals()
    >>> weights, lse = softmax(n, [n(0), n(0)])
    >>> weights[0].rounded(), lse.rounded() == math.log(2)
    (0.5, True)
    """
    every = [*scores, *sinks]
    if not every:
        return [], -math.inf
    top = n.max(every)
    exponentials = [n.exp(score - top) for score in scores]
    total = n.sum([*exponentials, *(n.exp(sink - top) for sink in sinks)])
    return [part / total for part in exponentials], top + n.log(total)


def mixed(n: Numbers, weights: Sequence[Number], values: Sequence[Sequence[Number]], width: int) -> list[Any]:
    """The sum of value rows, weighed; plain zeros of no rows.

    >>> from kvattn.goldens.numbers import Decimals
    >>> n = Decimals()
    >>> mixed(n, [n(0.5), n(0.5)], [[n(1)], [n(3)]], 1)[0].rounded()
    2.0
    """
    if not weights:
        return [0.0] * width
    return [n.sum(w * row[d] for w, row in zip(weights, values, strict=True)) for d in range(width)]


def attention(
    n: Numbers,
    q: Any,
    k: Any,
    v: Any,
    *,
    see: See = lambda b, h, t, s: True,
    bend: Bend = lambda score, b, h, t, s: score,
    scale: Number | None = None,
    softcap: Number | None = None,
    sinks: Sequence[Any] | None = None,
    reads: Callable[[int], int] | None = None,
    width: int | None = None,
) -> dict[str, Any]:
    """Attention of ``q [B, Hq, T, D]`` over ``k [B, Hkv, S, D]`` and ``v [B, Hkv, S, Dv]``.

    Parameters
    ----------
    n
        The arithmetic.
    q, k, v
        Nested lists of its numbers.
    see
        Which pairs are visible, by the numbers of sequence, query head, query row and key row.
    bend
        What happens to a visible score after the cap; the float -inf takes the key away.
    scale
        ``1/sqrt(D)`` unless given.
    softcap
        None for no cap.
    sinks
        ``[Hq]``: numbers, or the float -inf for no sink.
    reads
        Which key/value head a query head reads, ``h // (Hq / Hkv)`` unless given.
    width
        Dv, which nested lists do not say where there is no key.

    Returns
    -------
    dict
        ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``; 0 and -inf in a row that sees nothing.

    Examples
    --------
    >>> from kvattn.goldens.numbers import Decimals
    >>> n = Decimals()
    >>> x = [[[[n(1), n(0)], [n(0), n(1)]]]]
    >>> attention(n, x, x, x, see=lambda b, h, t, s: s <= t)["out"][0][0][0][0].rounded()
    1.0
    """
    width = len(v[0][0][0]) if width is None else width
    group = len(q[0]) // len(k[0])
    head_of = (lambda h: h // group) if reads is None else reads
    scale = reciprocal_root(n, len(q[0][0][0])) if scale is None else scale
    out: list[Any] = []
    lse: list[Any] = []
    for b, sequence in enumerate(q):
        out.append([])
        lse.append([])
        for h, rows in enumerate(sequence):
            keys, values = k[b][head_of(h)], v[b][head_of(h)]
            sink = [] if sinks is None or isinstance(sinks[h], float) else [sinks[h]]
            out[-1].append([])
            lse[-1].append([])
            for t, row in enumerate(rows):
                seen = [s for s in range(len(keys)) if see(b, h, t, s)]
                scores = [dot(n, row, keys[s]) * scale for s in seen]
                if softcap is not None:
                    scores = [capped(n, score, softcap) for score in scores]
                bent = [bend(score, b, h, t, s) for score, s in zip(scores, seen, strict=True)]
                left = [(score, s) for score, s in zip(bent, seen, strict=True) if not isinstance(score, float)]
                weights, total = softmax(n, [score for score, _ in left], sink)
                out[-1][-1].append(mixed(n, weights, [values[s] for _, s in left], width))
                lse[-1][-1].append(total)
    return {"out": out, "lse": lse}
