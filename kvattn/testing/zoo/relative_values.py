"""Cases of `kvattn.variants.dense.relative_values`."""

from collections.abc import Sequence

from kvattn.core.weights import Beside, Softmax, Weighing
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.relative_values import RelativeValues
from kvattn.variants.dense.sigmoid import Sigmoid


def relative_values(choices: Choices) -> Case:
    """Relative values under a softmax or a sigmoid.

    >>> from kvattn.testing.choices import Recorded
    >>> relative_values(Recorded()).variant.beside[0].reach
    0
    """

    def table(choices: Choices, weights: Projections) -> Sequence[Beside]:
        shape = 2 * choices.integer(0, 5, "K") + 1, weights.value_width
        return (RelativeValues(numbers(choices, shape, weights.dtype, "table")),)

    def weighing(choices: Choices, _: Projections) -> Weighing:
        chosen: tuple[Weighing, ...] = (Softmax(), Sigmoid())
        return pick(choices, chosen, "weighing")

    return weighed_case(choices, weighing, beside=table)
