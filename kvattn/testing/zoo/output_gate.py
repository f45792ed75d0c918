"""Cases of `kvattn.variants.dense.output_gate` in a grouped layer."""

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.output_gate import SigmoidGate, SoftplusGate


def output_gate(choices: Choices) -> Case:
    """Either gate for each head or each feature, under a mask, with sinks or a rotation.

    >>> from kvattn.testing.choices import Recorded
    >>> output_gate(Recorded()).variant.finish[0].weight.shape
    (1, 1)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    opens_wide = choices.integer(0, 1, "softplus") == 1
    columns = w.heads * pick(choices, (1, w.value_width), "columns")
    weight = numbers(choices, (w.hidden, columns), dtype, "gate", w.hidden**-0.5)
    finish = (SoftplusGate(weight) if opens_wide else SigmoidGate(weight),)
    query_key = (Rotary.of(w.width),) if choices.integer(0, 1, "rotary") else ()
    layer = Grouped(
        w, mask_of(choices), query_key, finish, sinks=sinks_of(choices, w.heads, dtype), page=page_of(choices)
    )
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
