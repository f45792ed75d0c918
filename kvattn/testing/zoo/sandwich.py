"""Cases of `kvattn.positions.sandwich`."""

from kvattn.positions.sandwich import Sandwich
from kvattn.testing.choices import Choices
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent


def sandwich(choices: Choices) -> Case:
    """Grouped-query attention with Sandwich's bias.

    >>> from kvattn.testing.choices import Recorded
    >>> sandwich(Recorded()).variant.mods[0].slopes
    (0.125,)
    """
    width, base = 2 * choices.integer(1, 4, "width/2"), choices.integer(10, 10000, "base")
    return bent(choices, lambda weights: Sandwich.of(weights.heads, width, base))
