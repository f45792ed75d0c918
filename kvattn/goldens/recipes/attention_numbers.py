"""Numbers that are hard: large, tiny, equal, cancelling, not finite behind a mask, or given in few bits."""

from typing import Any

import numpy as np

from kvattn.goldens.formats import FORMATS, Bits
from kvattn.goldens.manifest import bits_dtype
from kvattn.goldens.recipe import Recipe, drawn
from kvattn.goldens.recipes._attention import attention, case, ours, tensors, without
from kvattn.goldens.recipes._incidents import HIDDEN_NOT_FINITE, SCORE_RANGE

SEEN = np.array([[1, 0, 1, 1, 0], [1, 0, 1, 0, 1], [1, 0, 1, 1, 1]], np.bool_)[None, None]


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 20
    True
    """
    plain = tensors()
    aligned = {**plain, "k": np.repeat(plain["k"][:, :, :1], 5, axis=2)}
    peaks = {**plain, "k": plain["k"].copy()}
    peaks["k"][:, :, 3] = peaks["k"][:, :, 1]
    cancelling = drawn("cancelling", 1, 2, 5, 7)
    cancelling[:, :, 1], cancelling[:, :, 2] = 2.0**40, -(2.0**40)
    even = {**plain, "v": cancelling, "k": plain["k"].copy()}
    even["k"][:, :, 2] = even["k"][:, :, 1]
    tiny = {**plain, "v": plain["v"] * 2.0**-1040}
    return (
        case(
            "range/large-scores",
            "Scores of several hundred.",
            flags=(SCORE_RANGE,),
            sibling="grouped/plain",
            scale=100.0,
        ),
        case(
            "range/above-exp",
            "Scores above 710, whose exponentials are no float64; the maximum comes off first.",
            flags=(SCORE_RANGE,),
            inputs={**plain, "q": plain["q"] * 512},
        ),
        case(
            "range/far-below",
            "All scores below -745: every exponential is 0 unless the maximum comes off first.",
            flags=(SCORE_RANGE,),
            inputs={**plain, "q": np.abs(plain["q"]) * 512, "k": -np.abs(plain["k"])},
        ),
        case(
            "range/above-float16",
            "Products above 65,504, scaled to a few: they overflow where q·k is taken in float16 before the scale.",
            flags=(SCORE_RANGE,),
            inputs={**plain, "q": plain["q"] * 256, "k": plain["k"] * 256},
            scale=2.0**-16,
        ),
        case(
            "range/equal-scores",
            "All keys are one key: the mean of the values.",
            inputs=aligned,
            sibling="grouped/plain",
        ),
        case("range/two-peaks", "The largest score comes twice.", inputs=peaks, sibling="grouped/plain", scale=16.0),
        case("range/cancelling", "Values of 2^40 and -2^40 weighed alike.", inputs=even),
        case("range/large-values", "Values near 2^500.", inputs={**plain, "v": plain["v"] * 2.0**500}),
        case("range/subnormal-values", "Values below the smallest normal float64.", inputs=tiny),
        case(
            "range/tiny-queries",
            "Scores so small that every weight is nearly 1/5.",
            inputs={**plain, "q": plain["q"] * 2.0**-40},
        ),
        case("range/one-hot", "One key takes nearly all the weight.", sibling="grouped/plain", scale=24.0),
        case("range/zero-query", "A query of zeros weighs all keys alike.", inputs={**plain, "q": plain["q"] * 0.0}),
        case(
            "range/one-hot-values",
            "Values are the unit vectors: the output is the row of weights.",
            inputs={**plain, "v": np.broadcast_to(np.eye(5), (1, 2, 5, 5)).copy()},
        ),
        *(_hidden(word, array, value) for word, array, value in _HIDDEN),
        case(
            "hidden/nan-padding",
            "Rows behind a sequence's end were never written.",
            row="masks/padding",
            inputs=_unwritten(),
            flags=(HIDDEN_NOT_FINITE,),
        ),
        case(
            "hidden/infinite-bias",
            "A bias of +inf on a hidden key.",
            row="mods/bias",
            others={"mask": SEEN, "bias": np.where(SEEN, 0.25, np.inf)},
            flags=(HIDDEN_NOT_FINITE,),
        ),
        *(_few_bits(name) for name in FORMATS if name != "float32"),
        *(_few_bits(name, causal=True) for name in ("bfloat16", "float16", "float8_e4m3fn")),
    )


_HIDDEN = (
    ("nan-key", "k", np.nan),
    ("nan-value", "v", np.nan),
    ("infinite-key", "k", np.inf),
    ("infinite-value", "v", -np.inf),
)


def _hidden(word: str, array: str, value: float) -> Recipe:
    inputs = tensors()
    inputs[array] = inputs[array].copy()
    inputs[array][:, :, 1] = value
    return case(
        f"hidden/{word}",
        f"The second key, which no query sees, holds {value:g} in {array}.",
        row="masks/explicit",
        inputs={**inputs, "mask": SEEN},
        flags=(HIDDEN_NOT_FINITE,),
    )


def _unwritten() -> dict[str, Any]:
    inputs = tensors("pair", batch=2, heads=4, kv_heads=1, queries=3, keys=5, width=6, value_width=7)
    for name in ("k", "v"):
        inputs[name] = inputs[name].copy()
        inputs[name][1, :, 3:] = np.nan
    return {**inputs, "lengths": np.array([5, 3])}


def _few_bits(dtype: str, **parameters: Any) -> Recipe:
    """Inputs in a small format, drawn as bit patterns of moderate size; expected from their exact values."""
    causal = "-causal" if parameters else ""
    return Recipe(
        name=f"dense/few-bits/{dtype.replace('_', '-')}{causal}",
        row="masks/causal" if parameters else "variants/dense/grouped",
        operation="attention",
        comment=f"Queries, keys and values given in {dtype}; the output is that of their exact values.",
        inputs={
            "q": _pattern(dtype, "q", 1, 4, 3, 6),
            "k": _pattern(dtype, "k", 1, 2, 5, 6),
            "v": _pattern(dtype, "v", 1, 2, 5, 7),
        },
        parameters=parameters,
        formula=attention,
        ours=ours,
        mistakes={"no mask at all": without("causal")} if parameters else {},
        sibling=f"dense/few-bits/{dtype.replace('_', '-')}" if parameters else None,
    )


def _pattern(dtype: str, label: str, *shape: int) -> Bits:
    """Signs and mantissas at will, exponents from 2^-3 to 2^0 or what the format has."""
    form = FORMATS[dtype]
    numbers = (drawn(f"{label} in {dtype}", *shape, limit=2.0**20, denominator=1) + 2**20).astype(np.int64)
    mantissa = numbers % 2**form.mantissa
    exponent = form.bias - 3 + (numbers >> 11) % 4 if form.exponent > 2 else (numbers >> 11) % 4
    sign = numbers >> 17 & 1
    bits = (sign << form.bits - 1) | (exponent << form.mantissa) | mantissa
    return Bits(dtype, bits.astype(bits_dtype(dtype)))
