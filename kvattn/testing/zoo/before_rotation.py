"""Cases of `kvattn.variants.dense.before_rotation`."""

from dataclasses import replace
from typing import Literal

from kvattn.positions import Alibi, DynamicNTK, LongRope, Rotary
from kvattn.testing.choices import Choices, numbers, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo.parts import case_of, dtype_of, length_of, mask_of, page_of, projections_of, sinks_of
from kvattn.variants.dense.before_rotation import BeforeRotation, ByLength, Unchanging
from kvattn.variants.dense.query_key_norm import HeadRmsNorm


def before_rotation(choices: Choices) -> Case:
    """Keys cached before rotation, with a rotation that changes near the length of the case.

    >>> from kvattn.testing.choices import Recorded
    >>> before_rotation(Recorded()).variant.scheme.rotary_at(3).frequencies
    (1.0,)
    """
    dtype = dtype_of(choices)
    weights = projections_of(choices, dtype, rotary=True)
    mask = mask_of(choices)
    batch, length, page = choices.integer(1, 3, "B"), length_of(choices), page_of(choices)
    scheme = scheme_of(choices, weights.width, length)
    normed = choices.integer(0, 1, "norm") == 1
    query, key = (numbers(choices, (weights.width,), dtype, "norm") for _ in ("query", "key"))
    norm = HeadRmsNorm(query, key)
    layer = BeforeRotation(
        weights,
        scheme,
        mask,
        query_key=(norm,) if normed else (),
        mods=(Alibi.of(weights.heads),) if choices.integer(0, 1, "alibi") else (),
        scale=pick(choices, (None, 0.3), "scale"),
        softcap=pick(choices, (None, 1.5), "softcap"),
        sinks=sinks_of(choices, weights.heads, dtype),
        page=page,
    )
    case = case_of(choices, layer, batch, length, weights.hidden, dtype)
    return replace(case, relative=case.relative and isinstance(scheme, Unchanging))


def scheme_of(choices: Choices, width: int, length: int) -> ByLength:
    """A rotation for every length; those that change do so once before, at or behind the end.

    >>> from kvattn.testing.choices import Recorded
    >>> scheme_of(Recorded([2]), 4, 9).trained
    8
    """
    kind = choices.integer(0, 2, "scheme")
    layout: Literal["half", "adjacent"] = pick(choices, ("half", "adjacent"), "layout")
    if kind == 0:
        return Unchanging(Rotary.of(width, layout=layout))
    trained = max(2, length + pick(choices, (-1, 0, 1, -7, -length // 2), "trained"))
    if kind == 1 and width >= 4:
        return DynamicNTK(width, pick(choices, (2.0, 8.0), "factor"), trained, layout=layout)
    short, long = (tuple(1.0 + steep * k for k in range(width // 2)) for steep in (0.25, 3.0))
    return LongRope(short, tuple(2 * divisor for divisor in long), trained, factor=4.0, layout=layout)
