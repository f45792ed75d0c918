"""Cases of `kvattn.variants.dense.sub_norm`: a grouped layer whose mix is normed."""

from kvattn.testing.choices import Choices, numbers
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.sub_norm import SubNorm


def sub_norm(choices: Choices) -> Case:
    """A norm of the mix, with or without sinks.

    >>> from kvattn.testing.choices import Recorded
    >>> sub_norm(Recorded()).variant.finish[0].weight.shape
    (1,)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype)
    weight = 1 + numbers(choices, (w.heads * w.value_width,), dtype, "norm", 0.3)
    sinks = sinks_of(choices, w.heads, dtype)
    layer = Grouped(w, mask_of(choices), finish=(SubNorm(weight, 0.01),), sinks=sinks, page=page_of(choices))
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
