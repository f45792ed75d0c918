"""Cases of `kvattn.variants.dense.merged`."""

from dataclasses import replace

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.output_gate import SigmoidGate
from kvattn.variants.dense.query_key_norm import HeadRmsNorm


def merged(choices: Choices) -> Case:
    """Own keys under a mask beside a memory, padded or not, normed and turned or not.

    >>> from kvattn.testing.choices import Recorded
    >>> merged(Recorded()).variant.memory.shape
    (1, 1, 1)
    """
    dtype = dtype_of(choices)
    w = projections_of(choices, dtype, rotary=True)
    batch, source = choices.integer(1, 3, "B"), choices.integer(1, 20, "S")
    memory = numbers(choices, (batch, source, w.hidden), dtype, "memory")
    lengths = tuple(choices.integer(0, source, "real") for _ in range(batch))
    padded = choices.integer(0, 1, "padded") == 1
    norm = (HeadRmsNorm(eps=0.01),) if choices.integer(0, 1, "norm") else ()
    turn = (Rotary.of(w.width),) if choices.integer(0, 1, "rotary") else ()
    gate = SigmoidGate(numbers(choices, (w.hidden, w.heads), dtype, "gate", w.hidden**-0.5))
    layer = Merged(
        w,
        memory,
        mask_of(choices),
        lengths if padded else None,
        (*norm, *turn),
        norm,
        (gate,) if choices.integer(0, 1, "gated") else (),
        pick(choices, (None, 0.7), "scale"),
        pick(choices, (None, 2.0), "softcap"),
        page_of(choices),
    )
    case = case_of(choices, layer, batch, length_of(choices), w.hidden, dtype)

    def alone(b: int) -> Merged:
        return replace(layer, memory=memory[b : b + 1], memory_lengths=lengths[b : b + 1] if padded else None)

    # the memory's keys are not turned with the queries
    return replace(case, alone=alone, relative=case.relative and not turn)
