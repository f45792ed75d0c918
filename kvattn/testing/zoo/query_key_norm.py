"""Cases of `kvattn.variants.dense.query_key_norm`: every norm, before and after rotation, in a grouped layer."""

from collections.abc import Sequence
from dataclasses import replace

from numpy.typing import DTypeLike

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.typing import QueryKey
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import FullRmsNorm, HeadLayerNorm, HeadRmsNorm


def query_key_norm(choices: Choices) -> Case:
    """A norm alone, before or after a rotation.

    >>> from kvattn.testing.choices import Recorded
    >>> query_key_norm(Recorded()).variant.query_key
    (HeadRmsNorm(query=None, key=None, eps=0.01),)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    norm = _norm(choices, w, dtype)
    turn = Rotary.of(w.width, layout=pick(choices, ("half", "adjacent"), "layout"))
    orders: tuple[Sequence[QueryKey], ...] = ((norm,), (norm, turn), (turn, norm))
    query_key = pick(choices, orders, "order")
    layer = Grouped(w, mask_of(choices), query_key, page=page_of(choices))
    case = case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
    bare = isinstance(norm, HeadRmsNorm) and norm.query is None
    # weights behind a rotation feel where it turned to
    return replace(case, relative=case.relative and (bare or query_key[-1] is not norm or len(query_key) == 1))


def _norm(choices: Choices, w: Projections, dtype: DTypeLike) -> QueryKey:
    kind = choices.integer(0, 4, "norm")
    if kind == 0:
        return HeadRmsNorm(eps=0.01)
    by_feature, by_head = ((w.width,), (w.width,)), ((w.heads, w.width), (w.kv_heads, w.width))
    whole = (w.heads * w.width,), (w.kv_heads * w.width,)
    query, key = (
        1 + numbers(choices, shape, dtype, "norm", 0.3) for shape in (by_feature, by_head, whole, by_head)[kind - 1]
    )
    if kind < 3:
        return HeadRmsNorm(query, key, 0.01)
    if kind == 3:
        return FullRmsNorm(query, key)
    bias = numbers(choices, by_feature[0], dtype, "bias", 0.3)
    return HeadLayerNorm(query, key, bias, -bias, 0.01)
