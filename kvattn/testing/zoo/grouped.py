"""Cases of `kvattn.variants.dense.grouped`."""

from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.variants.dense.grouped import Grouped


def grouped(choices: Choices) -> Case:
    """Grouped-query attention under a mask and up to three more features.

    >>> from kvattn.testing.choices import Recorded
    >>> grouped(Recorded()).variant.mask
    Causal()
    """
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    weights = projections_of(choices, dtype, rotary=turned)
    mask = mask_of(choices)
    batch, length, page = choices.integer(1, 3, "B"), length_of(choices), page_of(choices)
    layer = Grouped(
        weights,
        mask,
        query_key=(Rotary.of(weights.width, layout=pick(choices, ("half", "adjacent"), "layout")),) if turned else (),
        mods=(Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else (),
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=sinks_of(choices, weights.heads, dtype),
        page=page,
    )
    return case_of(choices, layer, batch, length, weights.hidden, dtype)
