"""Cases of `kvattn.variants.dense.contextual_positions`."""

from dataclasses import replace

from kvattn.core.weights import Weighing
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.contextual_positions import ContextualPositions
from kvattn.variants.dense.projections import Projections


def contextual_positions(choices: Choices) -> Case:
    """Contextual positions with tables shorter and longer than what is counted.

    >>> from kvattn.testing.choices import Recorded
    >>> contextual_positions(Recorded()).variant.weighing.table.shape
    (1, 1)
    """

    def table(choices: Choices, weights: Projections) -> Weighing:
        count = choices.integer(1, 11, "P")
        held = numbers(choices, (count, weights.width), weights.dtype, "table")
        return ContextualPositions(held, pick(choices, (1.0, 3.0), "gates"))

    case = weighed_case(choices, table)
    return replace(case, relative=case.relative and not case.variant.query_key)  # a turned query meets the table turned
