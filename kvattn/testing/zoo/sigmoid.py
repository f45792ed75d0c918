"""Cases of `kvattn.variants.dense.sigmoid`."""

from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.sigmoid import Sigmoid


def sigmoid(choices: Choices) -> Case:
    """Sigmoid attention with and without a bias.

    >>> from kvattn.testing.choices import Recorded
    >>> sigmoid(Recorded()).variant.weighing
    Sigmoid(bias=0.0)
    """
    return weighed_case(choices, lambda choices, weights: pick(choices, (Sigmoid(), Sigmoid.of(20)), "bias"))
