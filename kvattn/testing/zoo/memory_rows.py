"""Cases of `kvattn.variants.dense.memory_rows`."""

from dataclasses import replace

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.variants.dense.memory_rows import MemoryRows
from kvattn.variants.dense.output_gate import SigmoidGate


def memory_rows(choices: Choices) -> Case:
    """A few learned rows, under a mask and up to four more features.

    >>> from kvattn.testing.choices import Recorded
    >>> memory_rows(Recorded()).variant.keys.shape
    (1, 1, 2)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    count = choices.integer(1, 5, "m")
    keys, values = (numbers(choices, (w.kv_heads, count, width), dtype, "memory") for width in (w.width, w.value_width))
    gate = SigmoidGate(numbers(choices, (w.hidden, w.heads), dtype, "gate", w.hidden**-0.5))
    turned = choices.integer(0, 1, "rotary") == 1
    layer = MemoryRows(
        w,
        keys,
        values,
        mask_of(choices),
        (Rotary.of(w.width),) if turned else (),
        (gate,) if choices.integer(0, 1, "gated") else (),
        pick(choices, (None, 0.7), "scale"),
        pick(choices, (None, 2.0), "softcap"),
        page_of(choices),
    )
    case = case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), w.hidden, dtype)
    return replace(case, relative=case.relative and not turned)
