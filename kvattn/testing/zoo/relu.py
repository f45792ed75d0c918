"""Cases of `kvattn.variants.dense.relu`."""

from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.relu import Relu, SquaredRelu


def relu(choices: Choices) -> Case:
    """ReLU attention.

    >>> from kvattn.testing.choices import Recorded
    >>> relu(Recorded()).variant.weighing
    Relu(keys=1.0)
    """
    return weighed_case(choices, lambda choices, weights: Relu(pick(choices, (1.0, 12.0), "keys")))


def squared_relu(choices: Choices) -> Case:
    """Squared-ReLU attention.

    >>> from kvattn.testing.choices import Recorded
    >>> squared_relu(Recorded()).variant.weighing
    SquaredRelu(keys=1.0)
    """
    return weighed_case(choices, lambda choices, weights: SquaredRelu(pick(choices, (1.0, 12.0), "keys")))
