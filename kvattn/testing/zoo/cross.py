"""Cases of `kvattn.variants.dense.cross`."""

from dataclasses import replace

import numpy as np

from kvattn.masks import Window
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.query_key_norm import HeadRmsNorm
from kvattn.variants.dense.sub_norm import SubNorm


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
    ragged = choices.integer(0, 1, "ragged") == 1
    lengths = tuple(choices.integer(0, source, "real") for _ in range(batch)) if ragged else None
    layer = Cross(
        weights,
        memory,
        mask=pick(choices, (None, Window(3, ahead=2)), "mask"),
        memory_lengths=lengths,
        query_key=(HeadRmsNorm(eps=0.01),) if choices.integer(0, 1, "norm") else (),
        finish=(SubNorm(np.ones(weights.heads * weights.value_width, dtype)),) if choices.integer(0, 1, "gate") else (),
        scale=pick(choices, (None, 0.5), "scale"),
        softcap=pick(choices, (None, 2.0), "softcap"),
        page=page,
    )
    case = case_of(choices, layer, batch, length_of(choices), weights.hidden, dtype)

    def alone(b: int) -> Cross:
        return replace(layer, memory=memory[b : b + 1], memory_lengths=None if lengths is None else lengths[b : b + 1])

    return replace(case, alone=alone, relative=False)
