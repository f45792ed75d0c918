"""Cases of `kvattn.variants.dense.relative_projection`."""

from dataclasses import replace
from typing import Any

from kvattn.positions import Alibi, Rotary
from kvattn.positions.relative_projection import RelativeProjection
from kvattn.testing.choices import Choices, numbers
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.relative_projection import RelativeProjected


def relative_projection(choices: Choices) -> Case:
    """A layer whose queries mix curves over distance.

    >>> from kvattn.testing.choices import Recorded
    >>> relative_projection(Recorded()).variant.curves.curves.shape
    (2, 1)
    """

    def layer(weights: Projections, others: dict[str, Any]) -> RelativeProjected:
        width, extent = 2 * choices.integer(1, 3, "R/2"), choices.integer(1, 9, "extent")
        relative = numbers(choices, (weights.hidden, weights.heads * width), weights.dtype, "W_r")
        curves = RelativeProjection(numbers(choices, (width, extent), float, "curves"))
        turned = (Rotary.of(width),) if choices.integer(0, 1, "relative_key") else ()
        mods = (Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else ()
        return RelativeProjected(weights, relative, curves, turned, mods=mods, **others)

    case = bent(choices, lambda weights: Alibi.of(weights.heads), layer=layer)
    return replace(case, relative=case.relative and not case.variant.relative_key)  # a turned r shows where it is
