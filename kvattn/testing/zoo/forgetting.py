"""Cases of `kvattn.variants.dense.forgetting`."""

from typing import Any

from kvattn.positions import Alibi
from kvattn.testing.choices import Choices, numbers
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.variants.dense.forgetting import Forgetting
from kvattn.variants.dense.projections import Projections


def forgetting(choices: Choices) -> Case:
    """A layer with forget gates.

    >>> from kvattn.testing.choices import Recorded
    >>> forgetting(Recorded()).variant.gate.shape
    (1, 1)
    """

    def layer(weights: Projections, others: dict[str, Any]) -> Forgetting:
        gate = numbers(choices, (weights.hidden, weights.heads), weights.dtype, "W_f", weights.hidden**-0.5)
        shift = numbers(choices, (weights.heads,), weights.dtype, "b_f", 2.0)
        mods = (Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else ()
        return Forgetting(weights, gate, shift, mods=mods, **others)

    return bent(choices, lambda weights: Alibi.of(weights.heads), layer=layer)
