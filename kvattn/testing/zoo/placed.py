"""Cases of `kvattn.variants.dense.placed`, with the ways of `kvattn.variants.dense.self_extend` and of
`kvattn.variants.dense.dual_chunk`.
"""

from dataclasses import replace
from typing import Literal

from kvattn.masks import Causal
from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.variants.dense.dual_chunk import dual_chunk
from kvattn.variants.dense.placed import Floor, Placed, Way
from kvattn.variants.dense.query_key_norm import HeadRmsNorm
from kvattn.variants.dense.self_extend import self_extend


def placed(choices: Choices) -> Case:
    """Plain positions, Self-Extend or dual chunks, of sizes that a case of some tokens meets.

    >>> from kvattn.testing.choices import Recorded
    >>> placed(Recorded()).variant.ways
    (Way(mask=Causal(), queries=Floor(group=1, offset=0), keys=Floor(group=1, offset=0)),)
    """
    dtype = dtype_of(choices)
    weights = projections_of(choices, dtype, rotary=True)
    mask = pick(choices, (None, mask_of(choices)), "masked")
    batch, length, page = choices.integer(1, 3, "B"), length_of(choices), page_of(choices)
    layout: Literal["half", "adjacent"] = pick(choices, ("half", "adjacent"), "layout")
    normed = choices.integer(0, 1, "norm") == 1
    query, key = (numbers(choices, (weights.width,), dtype, "norm") for _ in ("query", "key"))
    layer = Placed(
        weights,
        Rotary.of(weights.width, layout=layout),
        ways_of(choices),
        mask,
        query_key=(HeadRmsNorm(query, key),) if normed else (),
        mods=(Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else (),
        scale=pick(choices, (None, 0.3), "scale"),
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=sinks_of(choices, weights.heads, dtype),
        page=page,
    )
    case = case_of(choices, layer, batch, length, weights.hidden, dtype)
    return replace(case, relative=case.relative and len(layer.ways) == 1)


def ways_of(choices: Choices) -> tuple[Way, ...]:
    """One, two or three ways.

    >>> from kvattn.testing.choices import Recorded
    >>> len(ways_of(Recorded([2])))
    3
    """
    kind = choices.integer(0, 2, "ways")
    if kind == 0:
        return (Way(Causal(), Floor(), Floor()),)
    size = pick(choices, (1, 2, 3, 5, 8, 100), "size")
    if kind == 1:
        return self_extend(group=pick(choices, (1, 2, 3, 7), "group"), window=size)
    return dual_chunk(chunk=size, farthest=size + choices.integer(0, size - 1, "farthest"))
