"""A grouped layer around a scheme on scores: what the cases of all of them have in common."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kvattn.positions import Rotary
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.typing import Mod
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections


def bent(
    choices: Choices,
    scheme: Callable[[Projections], Mod],
    *,
    relative: bool = True,
    vectors: bool = False,
    both: bool = False,
    layer: Callable[[Projections, dict[str, Any]], Any] | None = None,
) -> Case:
    """A case of a layer with a mod, under a mask, with up to three more features.

    Parameters
    ----------
    choices, scheme
        Where choices come from, and the mod for some weights.
    relative
        Whether only differences of positions matter to the scheme.
    vectors
        Whether the scheme multiplies queries or keys with vectors: turned ones then show where they turned to.
    both
        Whether the scheme is a ``query_key`` as well.
    layer
        Makes the layer of weights and the other arguments; a `Grouped` with the mod unless given.
    """
    dtype = dtype_of(choices)
    turned = choices.integer(0, 1, "rotary") == 1
    weights = projections_of(choices, dtype, rotary=turned)
    mask = mask_of(choices)
    batch, length = choices.integer(1, 3, "B"), length_of(choices)
    mod = scheme(weights)
    others: dict[str, Any] = {
        "mask": mask,
        "query_key": ((Rotary.of(weights.width),) if turned else ()) + ((mod,) if both else ()),
        "scale": pick(choices, (None, 0.75), "scale"),
        "softcap": pick(choices, (None, 1.5), "softcap"),
        "sinks": sinks_of(choices, weights.heads, dtype),
        "page": page_of(choices),
    }
    if layer is not None:
        made = layer(weights, others)
    else:
        made = Grouped(weights, mods=(mod,), **others)
    case = case_of(choices, made, batch, length, weights.hidden, dtype)
    return replace(case, relative=case.relative and relative and not (vectors and turned))
