"""Cases of `kvattn.positions.shaw`."""

from kvattn.positions.shaw import ShawKeys
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def shaw(choices: Choices) -> Case:
    """Grouped-query attention with relative keys, one table for all heads or one for each.

    >>> from kvattn.testing.choices import Recorded
    >>> shaw(Recorded()).variant.mods[0].table.vectors.shape
    (1, 3, 1)
    """

    def scheme(weights: Projections) -> Mod:
        tables = weights.heads if choices.integer(0, 1, "a table for each head") else 1
        behind, ahead = choices.integer(2, 9, "behind"), pick(choices, (0, 3), "ahead")
        vectors = numbers(choices, (tables, behind + ahead + 1, weights.width), float, "vectors")
        return ShawKeys.of(vectors, behind, pick(choices, (None, 0.5), "scale"))

    return bent(choices, scheme, vectors=True)
