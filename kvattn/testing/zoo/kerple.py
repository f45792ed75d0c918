"""Cases of `kvattn.positions.kerple`."""

from kvattn.positions.kerple import KerpleLog, KerplePower
from kvattn.testing.choices import Choices, numbers
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def kerple(choices: Choices) -> Case:
    """Grouped-query attention with KERPLE's penalty, logarithmic or a power.

    >>> from kvattn.testing.choices import Recorded
    >>> len(kerple(Recorded()).variant.mods)
    1
    """

    def scheme(weights: Projections) -> Mod:
        first, second = abs(numbers(choices, (2, weights.heads), float, "kerple")) + 0.01
        if choices.integer(0, 1, "power"):
            return KerplePower(tuple(first), tuple(second.clip(0.01, 2.0)))
        return KerpleLog(tuple(first), tuple(second))

    return bent(choices, scheme)
