"""Cases of `kvattn.positions.log_cpb`."""

from kvattn.positions.log_cpb import GridBias, log_cpb
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def grid_bias(choices: Choices) -> Case:
    """Grouped-query attention over a grid in raster order, with a learned table or log-CPB's.

    >>> from kvattn.testing.choices import Recorded
    >>> grid_bias(Recorded()).variant.mods[0].columns
    3
    """

    def scheme(weights: Projections) -> Mod:
        rows, columns = pick(
            choices, ((180, 3), (1, 540), (80, 7)), "grid"
        )  # room for the longest case twice: one law rolls back
        if choices.integer(0, 1, "learned"):
            return GridBias(numbers(choices, (weights.heads, 2 * rows - 1, 2 * columns - 1), float, "table"))
        inner, shift = numbers(choices, (2, 4), float, "network"), numbers(choices, (4,), float, "network")
        return log_cpb((rows, columns), inner, shift, numbers(choices, (4, weights.heads), float, "network"))

    return bent(choices, scheme, relative=False)
