"""What ``mask=`` means: which value shows a key, of which head and sequence, and in which shapes.

Method as in `sight`; a mask that is added to the scores in place of being looked up is betrayed by the
ratio of the two weights that it leaves.
"""

from collections.abc import Callable
from dataclasses import replace
import math

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.places import seen_by
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import FLAT, Recipe, Sizes
from kvattn.testing.diagnosis.sight import agree, describe, row_ratio
from kvattn.typing import Visible

_SIZES, _SQUARE = Sizes(3, 6, 2, 4, 9, 12, 12), Sizes(2, 6, 2, 6, 6, 12, 12)
_HOLES = "(r.random(({B}, {Hq}, {T}, {S})) < 0.5) | (np.arange({S}) == {S} - 1)"

_READINGS: dict[str, Callable[[Visible], Visible]] = {
    "row 0 of the mask for all rows": lambda m: m[:, :, :1],
    "head 0 of the mask for all heads": lambda m: m[:, :1],
    "sequence 0 of the mask for all sequences": lambda m: m[:1],
    "head 0 and sequence 0 of the mask for all": lambda m: m[:1, :1],
    "the mask's heads in reverse": lambda m: m[:, ::-1],
    "the mask's keys in reverse": lambda m: m[..., ::-1],
    "the mask transposed": lambda m: m.swapaxes(2, 3) if m.shape[2] == m.shape[3] else m,
    "the mask moved by one key": lambda m: np.roll(m, 1, -1),
    "the mask moved back by one key": lambda m: np.roll(m, -1, -1),
}


def read_mask(lab: Lab) -> None:
    """Fit what a boolean mask means.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(mask_reads="blocked"))
    >>> read_mask(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('mask-polarity', {'true_means': 'blocked'})
    """
    case = lab.case(_SIZES, FLAT, mask=_HOLES)
    mask = seen_by(case.build().options["mask"])
    weights = lab.weights(case)
    read = lab.support(case)
    if agree(mask, read):
        if _square(lab):
            _shapes(lab)
        return
    if agree(~mask, read):
        detail = "True in the mask hides a key, expected True = may see."
        lab.add("mask-polarity", {"true_means": "blocked"}, detail, case)
        lab.behaviour = replace(lab.behaviour, mask="blocked")
        return
    lab.set_aside("mask")
    if read.all():
        ratio = math.log(row_ratio(weights, mask, ~mask))
        if abs(ratio) <= lab.sharp:
            detail = "mask= changes nothing: every query sees every key."
            lab.add("mask-dropped", {"argument": "mask"}, detail, case)
        else:
            lab.add(
                "mask-polarity",
                {"encoding": "added", "true": round(ratio, 6)},
                f"The mask is added to the scores as 0 and {ratio:.4g}: a hidden key keeps its weight, and a visible"
                f" one has e^{ratio:.4g} times as much.",
                case,
            )
        return
    count = mask.sum(-1, keepdims=True)
    if agree(np.arange(mask.shape[-1]) < count, read):
        detail = "The mask is read as a length: the first n keys are seen, n the number of True."
        lab.add("mask-polarity", {"encoding": "length"}, detail, case)
        return
    for words, reading in _READINGS.items():
        if agree(np.broadcast_to(reading(mask), mask.shape), read):
            lab.add("mask-compose", {"argument": "mask", "reads": words}, f"It reads {words}.", case)
            return
    parameters, words = describe(mask, read)
    lab.add("mask-compose", {"argument": "mask", **parameters}, f"With a mask, {words}.", case)


def _square(lab: Lab) -> bool:
    """Say whether a mask means the same where there are as many queries as keys."""
    case = lab.case(_SQUARE, FLAT, mask=_HOLES)
    mask, read = seen_by(case.build().options["mask"]), lab.support(case)
    if case.sizes.T != case.sizes.S or agree(mask, read):
        return True
    lab.set_aside("mask")
    if agree(mask.swapaxes(2, 3), read):
        detail = "Where T = S the mask is read transposed: row t sees what was given for column t."
        lab.add("mask-compose", {"argument": "mask", "reads": "the mask transposed", "when": "T = S"}, detail, case)
    else:
        parameters, words = describe(mask, read)
        lab.add("mask-compose", {"argument": "mask", "when": "T = S", **parameters}, f"Where T = S, {words}.", case)
    return False


def _shapes(lab: Lab) -> None:
    """A mask of a shape that broadcasts is either refused or means what it means elsewhere."""
    for shape in ("({B}, 1, {T}, {S})", "(1, {Hq}, {T}, {S})", "({T}, {S})", "({B}, 1, 1, {S})", "(1, 1, {T}, {S})"):
        text = f"(r.random({shape}) < 0.5) | (np.arange({{S}}) == {{S}} - 1)"
        case: Recipe = lab.case(_SIZES, FLAT, mask=text)
        mask = seen_by(case.build().options["mask"])
        size = case.sizes
        full = np.broadcast_to(mask, (size.B, size.Hq, size.T, size.S))
        try:
            read = lab.support(case)
        except Refused:
            continue
        if not agree(full, read):
            parameters, words = describe(full, read)
            named = shape.translate(str.maketrans("()", "[]", "{}"))
            detail = f"With a mask of shape {named}, {words}."
            lab.add("mask-compose", {"argument": "mask", "shape": named, **parameters}, detail, case)
            lab.set_aside("mask")
            return
