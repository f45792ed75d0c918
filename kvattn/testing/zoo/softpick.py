"""Cases of `kvattn.variants.dense.softpick`."""

from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.softpick import Softpick


def softpick(choices: Choices) -> Case:
    """Softpick attention with a small and a large epsilon.

    >>> from kvattn.testing.choices import Recorded
    >>> softpick(Recorded()).variant.weighing
    Softpick(epsilon=1e-06)
    """
    return weighed_case(choices, lambda choices, weights: Softpick(pick(choices, (1e-6, 0.5), "epsilon")))
