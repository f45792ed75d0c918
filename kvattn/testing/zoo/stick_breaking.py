"""Cases of `kvattn.variants.dense.stick_breaking`."""

from collections.abc import Sequence

from kvattn.core.weights import Beside
from kvattn.masks import Both
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import mask_of
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.typing import Mask
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.stick_breaking import BEFORE, Remainder, StickBreaking


def stick_breaking(choices: Choices) -> Case:
    """Stick-breaking attention, mostly over the keys before the query, with and without its remainder.

    >>> from kvattn.testing.choices import Recorded
    >>> stick_breaking(Recorded()).variant.mask == BEFORE
    True
    """

    def masks(choices: Choices) -> Mask:
        drawn = mask_of(choices)
        some: tuple[Mask, ...] = (BEFORE, drawn, Both(drawn, BEFORE))
        return pick(choices, some, "current")

    def remainder(choices: Choices, weights: Projections) -> Sequence[Beside]:
        if not choices.integer(0, 1, "remainder"):
            return ()
        return (Remainder(numbers(choices, (weights.heads, weights.value_width), weights.dtype, "remainder")),)

    return weighed_case(choices, lambda choices, weights: StickBreaking(), beside=remainder, mask=masks)
