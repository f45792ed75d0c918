"""Cases of `kvattn.variants.dense.cross`."""

from dataclasses import replace

from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of
from kvattn.variants.dense.cross import Cross


def cross(choices: Choices) -> Case:
    """Cross-attention over a memory of another width and length.

    >>> from kvattn.testing.choices import Recorded
    >>> cross(Recorded()).variant.memory.shape
    (1, 1, 1)
    """
    dtype = dtype_of(choices)
    rows = choices.integer(1, 7, "Me")
    weights = projections_of(choices, dtype, source=rows)
    batch, source = choices.integer(1, 3, "B"), choices.integer(1, 20, "S")
    memory = numbers(choices, (batch, source, rows), dtype, "memory")
    page = page_of(choices)
    layer = Cross(weights, memory, softcap=pick(choices, (None, 2.0), "softcap"), page=page)
    length = length_of(choices)
    case = case_of(choices, layer, batch, length, weights.hidden, dtype)
    return replace(case, alone=lambda b: replace(layer, memory=memory[b : b + 1]))
