"""Cases of `kvattn.positions.fire`."""

from kvattn.positions.fire import Fire
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def fire(choices: Choices) -> Case:
    """Grouped-query attention with FIRE's network, whose threshold lies inside the sequence or beyond it.

    >>> from kvattn.testing.choices import Recorded
    >>> fire(Recorded()).relative
    False
    """

    def scheme(weights: Projections) -> Mod:
        units = choices.integer(1, 5, "W")
        inner, shift = numbers(choices, (2, units), float, "fire")
        outer = numbers(choices, (weights.heads, units), float, "fire")
        threshold = pick(choices, (4.0, 512.0, 0.5), "threshold")
        return Fire(inner, shift, outer, outer[:, 0], rate=0.1, threshold=threshold, epsilon=1e-6)

    return bent(choices, scheme, relative=False)
