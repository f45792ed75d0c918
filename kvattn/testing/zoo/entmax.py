"""Cases of `kvattn.variants.dense.entmax`."""

from kvattn.testing.choices import Choices
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.entmax import Entmax15, Sparsemax


def sparsemax(choices: Choices) -> Case:
    """Sparsemax attention.

    >>> from kvattn.testing.choices import Recorded
    >>> sparsemax(Recorded()).variant.weighing
    Sparsemax()
    """
    return weighed_case(choices, lambda choices, weights: Sparsemax())


def entmax15(choices: Choices) -> Case:
    """1.5-entmax attention.

    >>> from kvattn.testing.choices import Recorded
    >>> entmax15(Recorded()).variant.weighing
    Entmax15()
    """
    return weighed_case(choices, lambda choices, weights: Entmax15())
