"""Cases of `kvattn.variants.dense.off_by_one`."""

from kvattn.positions import Alibi
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.variants.dense.off_by_one import off_by_one as layer_of


def off_by_one(choices: Choices) -> Case:
    """Grouped-query attention with a sink of logit 0.

    >>> from kvattn.testing.choices import Recorded
    >>> off_by_one(Recorded()).variant.sinks
    array([0.])
    """
    dtype = dtype_of(choices)
    weights = projections_of(choices, dtype)
    layer = layer_of(
        weights,
        mask=mask_of(choices),
        mods=(Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else (),
        softcap=pick(choices, (None, 1.5), "softcap"),
        page=page_of(choices),
    )
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), weights.hidden, dtype)
