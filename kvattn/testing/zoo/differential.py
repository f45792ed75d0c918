"""Cases of `kvattn.variants.dense.differential`."""

from kvattn.mods import Softcap
from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of
from kvattn.variants.dense.differential import Differential, initial
from kvattn.variants.dense.output_gate import SigmoidGate
from kvattn.variants.dense.projections import Projections


def differential(choices: Choices) -> Case:
    """Pairs of heads under a mask and up to four more features.

    >>> from kvattn.testing.choices import Recorded
    >>> differential(Recorded()).variant.projections.heads
    2
    """
    dtype = dtype_of(choices)
    kv_heads = 2 * choices.integer(1, 2, "Hkv/2")
    heads = kv_heads * choices.integer(1, 3, "G")
    width, value_width = 2 * choices.integer(1, 4, "D/2"), choices.integer(1, 5, "Dv")
    hidden = choices.integer(1, 11, "M")
    shapes = (hidden, heads * width), (hidden, kv_heads * width), (hidden, kv_heads * value_width)
    query, key, value = (numbers(choices, shape, dtype, "weights", shape[0] ** -0.5) for shape in shapes)
    output = numbers(choices, (heads * value_width, hidden), dtype, "weights", (heads * value_width) ** -0.5)
    norm = 1 + numbers(choices, (2 * value_width,), dtype, "norm", 0.3)
    gate = SigmoidGate(numbers(choices, (hidden, heads // 2), dtype, "gate", hidden**-0.5))
    layer = Differential(
        Projections(query, key, value, output, heads, kv_heads),
        pick(choices, (0.5, 0.0, 1.5, -0.25), "weight"),
        initial(choices.integer(0, 9, "depth")),
        norm if choices.integer(0, 1, "weighted") else None,
        pick(choices, (0.01, 1e-5), "eps"),
        mask_of(choices),
        (Rotary.of(width),) if choices.integer(0, 1, "rotary") else (),
        (gate,) if choices.integer(0, 1, "gated") else (),
        (Alibi.of(heads // 2), Softcap(3.0)) if choices.integer(0, 1, "mods") else (),
        scale=pick(choices, (None, 0.7), "scale"),
        softcap=pick(choices, (None, 1.5), "softcap"),
        page=page_of(choices),
    )
    return case_of(choices, layer, choices.integer(1, 3, "B"), length_of(choices), hidden, dtype)
