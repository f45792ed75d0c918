"""Cases of `kvattn.variants.dense.weighed`, and what those of every weighing share."""

from collections.abc import Callable, Sequence

from kvattn.core.weights import Beside, Softmax, Weighing
from kvattn.positions import Alibi, Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of
from kvattn.typing import Mask
from kvattn.variants.dense.output_gate import SigmoidGate
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.weighed import Weighed


def weighed_case(
    choices: Choices,
    weighing: Callable[[Choices, Projections], Weighing],
    *,
    beside: Callable[[Choices, Projections], Sequence[Beside]] = lambda choices, weights: (),
    mask: Callable[[Choices], Mask] = mask_of,
) -> Case:
    """A layer with some weighing, under a mask and up to three more features.

    Parameters
    ----------
    choices
        Where sizes and numbers come from.
    weighing, beside, mask
        Draw what they are named after, for a layer's projections.

    Examples
    --------
    >>> from kvattn.testing.choices import Recorded
    >>> weighed_case(Recorded(), lambda choices, weights: Softmax()).variant.mask
    Causal()
    """
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    weights = projections_of(choices, dtype, rotary=turned)
    batch, length, page = choices.integer(1, 3, "B"), length_of(choices), page_of(choices)
    gate = numbers(choices, (weights.hidden, weights.heads), dtype, "gate", weights.hidden**-0.5)
    layer = Weighed(
        weights,
        weighing(choices, weights),
        mask(choices),
        beside=beside(choices, weights),
        query_key=(Rotary.of(weights.width),) if turned else (),
        mods=(Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else (),
        finish=(SigmoidGate(gate),) if choices.integer(0, 3, "gated") == 3 else (),
        scale=pick(choices, (None, 0.7), "scale"),
        softcap=pick(choices, (None, 1.5), "softcap"),
        page=page,
    )
    return case_of(choices, layer, batch, length, weights.hidden, dtype)


def weighed(choices: Choices) -> Case:
    """The softmax, held whole.

    >>> from kvattn.testing.choices import Recorded
    >>> weighed(Recorded()).variant.weighing
    Softmax()
    """
    return weighed_case(choices, lambda choices, weights: Softmax())
