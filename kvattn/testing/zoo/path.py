"""Cases of `kvattn.variants.dense.path`."""

from dataclasses import replace

from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, page_of, projections_of
from kvattn.variants.dense.path import Path


def path(choices: Choices) -> Case:
    """PaTH attention.

    >>> from kvattn.testing.choices import Recorded
    >>> path(Recorded()).variant.direction.shape
    (1, 1)
    """
    dtype = dtype_of(choices)
    weights = projections_of(choices, dtype)
    shapes = (weights.hidden, weights.kv_heads * weights.width), (weights.hidden, weights.kv_heads)
    direction, strength = (numbers(choices, shape, dtype, "weights", shape[0] ** -0.5) for shape in shapes)
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    scale = pick(choices, (None, 0.7), "scale")
    bias = numbers(choices, (weights.kv_heads,), dtype, "bias") if choices.integer(0, 1, "biased") else None
    layer = Path(weights, direction, strength, bias, scale, page=page_of(choices))
    case = case_of(choices, layer, batch, length, weights.hidden, dtype)
    return replace(case, relative=True, depth=case.depth + 4 * length)  # a reflection more for every token between
