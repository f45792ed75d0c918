"""Cases of `kvattn.variants.compressed.tied`: a shared projection and a shared row."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import DTypeLike

from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, sinks_of
from kvattn.typing import QueryKey
from kvattn.variants.compressed.tied import SharedProjection, SharedRow, TurnBack, tied
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import HeadRmsNorm


def shared_projection(choices: Choices) -> Case:
    """One projection whose rows are normed apart, under a mask and up to four more features.

    >>> from kvattn.testing.choices import Recorded
    >>> shared_projection(Recorded()).variant.norm
    HeadRmsNorm(query=None, key=None, eps=0.01)
    """
    dtype = dtype_of(choices)
    w = _weights(choices, dtype)
    gains = [1 + numbers(choices, (w.width,), dtype, "norm", 0.3) for _ in range(2)]
    norm = HeadRmsNorm(gains[0], gains[1], 0.01) if choices.integer(0, 1, "weighted") else HeadRmsNorm(eps=0.01)
    turn = Rotary.of(w.width, layout=pick(choices, ("half", "adjacent"), "layout"))
    rotation = turn if choices.integer(0, 1, "rotary") else None
    bends = _bends(choices, w, dtype)
    layer = SharedProjection(w, norm, mask_of(choices), rotation, **bends)
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)


def shared_row(choices: Choices) -> Case:
    """One row for key and value, turned and turned back or left, under a mask and up to four more features.

    >>> from kvattn.testing.choices import Recorded
    >>> shared_row(Recorded()).variant.query_key
    ()
    """
    dtype = dtype_of(choices)
    w = _weights(choices, dtype)
    last = Rotary.of(2, layout="adjacent", start=-2)
    orders: tuple[Sequence[QueryKey], ...] = ((), (HeadRmsNorm(eps=0.01),), (HeadRmsNorm(eps=0.01), last), (last,))
    query_key = pick(choices, orders, "order")
    finish = (TurnBack(last),) if last in query_key else ()
    bends = _bends(choices, w, dtype)
    layer = SharedRow(w, mask_of(choices), query_key, finish, **bends)
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)


def _weights(choices: Choices, dtype: DTypeLike) -> Projections:
    kv_heads = choices.integer(1, 3, "Hkv")
    heads = kv_heads * choices.integer(1, 3, "G")
    width, hidden = 2 * choices.integer(1, 5, "D/2"), choices.integer(1, 11, "M")
    shapes = (hidden, heads * width), (hidden, kv_heads * width), (heads * width, hidden)
    query, key, output = (numbers(choices, shape, dtype, "weights", shape[0] ** -0.5) for shape in shapes)
    return tied(query, key, output, heads, kv_heads)


def _bends(choices: Choices, w: Projections, dtype: DTypeLike) -> dict[str, Any]:
    return {
        "mods": (Alibi.of(w.heads),) if choices.integer(0, 1, "alibi") else (),
        "scale": pick(choices, (None, 1.0), "scale"),
        "softcap": pick(choices, (None, 1.5), "softcap"),
        "sinks": sinks_of(choices, w.heads, dtype),
        "page": page_of(choices),
    }
