"""Cases of `kvattn.positions.linear_interpolation`, `kvattn.positions.ntk`, `kvattn.positions.dynamic_ntk`,
`kvattn.positions.yarn`, `kvattn.positions.longrope`, `kvattn.positions.llama3` and `kvattn.positions.proportional`:
one rotation for the whole sequence, its keys cached turned.
"""

from typing import Literal

from kvattn.positions import (
    DynamicNTK,
    LongRope,
    Rotary,
    linear_rotary,
    llama3_rotary,
    ntk_rotary,
    proportional_rotary,
    yarn_rotary,
)
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.variants.dense.grouped import Grouped


def rotary_scalings(choices: Choices) -> Case:
    """Grouped-query attention under one of the scalings, or under one chosen for the longest length and frozen.

    >>> from kvattn.testing.choices import Recorded
    >>> rotary_scalings(Recorded()).variant.query_key[0] == linear_rotary(2, factor=4.0)
    True
    """
    dtype = dtype_of(choices)
    weights = projections_of(choices, dtype, rotary=True)
    mask = mask_of(choices)
    batch, length, page = choices.integer(1, 3, "B"), length_of(choices), page_of(choices)
    layer = Grouped(
        weights,
        mask,
        query_key=(scaled(choices, weights.width),),
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=sinks_of(choices, weights.heads, dtype),
        page=page,
    )
    return case_of(choices, layer, batch, length, weights.hidden, dtype)


def scaled(choices: Choices, width: int) -> Rotary:
    """One of the scalings, for a trained length of 16 tokens and a base of 100.

    >>> from kvattn.testing.choices import Recorded
    >>> scaled(Recorded([4]), 4) == yarn_rotary(4, factor=4.0, trained=16, base=100.0)
    True
    """
    kind = choices.integer(0, 6, "scaling")
    layout: Literal["half", "adjacent"] = pick(choices, ("half", "adjacent"), "layout")
    if kind == 1:
        return proportional_rotary(width, share=0.5, base=100.0, layout=layout)
    if kind == 2:
        return llama3_rotary(width, trained=16, base=100.0, layout=layout)
    if kind == 3:
        divisors = tuple(1.0 + 0.5 * k for k in range(width // 2))
        scheme = LongRope(divisors, tuple(3 * d for d in divisors), 16, 4.0, 100.0, layout=layout)
        return scheme.rotary_at(pick(choices, (16, 17), "most"))
    if kind == 4:
        return yarn_rotary(width, factor=4.0, trained=16, base=100.0, layout=layout)
    if kind == 5 and width >= 4:
        return ntk_rotary(width, alpha=4.0, base=100.0, layout=layout)
    if kind == 6 and width >= 4:
        return DynamicNTK(width, 2.0, 16, 100.0, layout).rotary_at(pick(choices, (16, 40), "most"))
    return linear_rotary(width, factor=4.0, layout=layout)
