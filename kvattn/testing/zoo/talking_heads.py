"""Cases of `kvattn.variants.dense.talking_heads`."""

from kvattn.core.weights import Weighing
from kvattn.testing.choices import Choices, numbers
from kvattn.testing.laws import Case
from kvattn.testing.zoo.weighed import weighed_case
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.talking_heads import TalkingHeads


def talking_heads(choices: Choices) -> Case:
    """Talking-heads attention with matrices between any heads.

    >>> from kvattn.testing.choices import Recorded
    >>> talking_heads(Recorded()).variant.weighing.logits.shape
    (1, 1)
    """

    def matrices(choices: Choices, weights: Projections) -> Weighing:
        shape, spread = (weights.heads, weights.heads), weights.heads**-0.5
        logits, shares = (numbers(choices, shape, weights.dtype, name, spread) for name in ("logits", "weights"))
        return TalkingHeads(logits, shares)

    return weighed_case(choices, matrices)
