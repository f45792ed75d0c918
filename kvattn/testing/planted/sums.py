"""Planted faults of denominators, log-sum-exps, merges, empty rows, fills, factors, dropout and number formats."""

import math

from kvattn.testing.planted.attention import Planted
from kvattn.testing.planted.mutant import Mutant
from kvattn.testing.planted.wrapped import OwnSink

SINKS = (
    Mutant("sinks ignored", Planted(ignore=("sinks",)), "sink", {"count": 0}),
    Mutant("sinks twice", Planted(sink_count=2), "sink", {"factor": 1.0, "count": 2.0}),
    Mutant("sinks scaled", Planted(sink_factor=0.25), "sink", {"factor": 0.25, "count": 1.0}),
    Mutant("sinks negated", Planted(sink_factor=-1.0), "sink", {"factor": -1.0, "count": 1.0}),
    Mutant("sinks once per part", Planted(sink_in="each"), "sink", {"counted": "once per part"}),
    Mutant("sinks in no part", Planted(sink_in="none", lost={"splits": "splits == 1"}), "sink", {}),
    Mutant(
        "sinks through a gate of a base-2 lse",
        Planted(formulas={"sinks": "0.0", "gate": "1 / (1 + exp(z - l / log(2)))"}),
        "sink",
        {"form": "sigmoid(lse - sink)", "base": 2},
    ),
    Mutant(
        "sinks left out of the lse",
        Planted(formulas={"lse": "log(maximum(total - sink, 0)) + top"}),
        "sink",
        {"in_lse": False},
    ),
    *(
        Mutant(f"a sink of {words} in every call", OwnSink(logit, counted), "sink", {"always": True, **parameters})
        for words, logit, counted, parameters in (
            ("0", 0.0, True, {"logit": 0.0, "in_lse": True}),
            ("0, not in the lse,", 0.0, False, {"logit": 0.0, "in_lse": False}),
            ("0.7", 0.7, True, {"logit": 0.7, "in_lse": True}),
            ("each head", (0.5, -0.25), True, {"logit": [0.5, -0.25, 0.5, -0.25, 0.5, -0.25]}),
        )
    ),
    Mutant("sinks lost beside a window", Planted(lost={"sinks": "window is not None"}), "sink", {"argument": "sinks"}),
)

LSE = (
    Mutant("base-2 lse", Planted(log_base=2), "lse-merge", {"base": 2, "factor": 1 / math.log(2)}),
    Mutant("base-10 lse", Planted(log_base=10), "lse-merge", {"base": 10}),
    Mutant(
        "lse without the maximum",
        Planted(formulas={"lse": "log(total)"}),
        "lse-merge",
        {"content": "log of the sum without the maximum"},
    ),
    Mutant("maximum for lse", Planted(formulas={"lse": "top"}), "lse-merge", {"content": "the maximum alone"}),
    Mutant(
        "sum for lse",
        Planted(formulas={"lse": "total * exp(top)"}),
        "lse-merge",
        {"content": "the sum, not its logarithm"},
    ),
    Mutant("lse of a mean", Planted(formulas={"lse": "l - log(S)"}), "lse-merge", {"content": "mean in place of sum"}),
    Mutant("negated lse", Planted(formulas={"lse": "-l"}), "lse-merge", {"content": "negated"}),
)

MERGES = (
    Mutant("parts averaged", Planted(formulas={"part": "1.0"}), "lse-merge", {"merge": "the average of the parts"}),
    Mutant("base-2 merge", Planted(formulas={"part": "2 ** (l - most)"}), "lse-merge", {"merge": "weights 2 ** lse"}),
    Mutant(
        "base-2 lse in a natural merge",
        Planted(formulas={"part": "exp((l - most) / log(2))"}),
        "lse-merge",
        {"merge": "weights e ** (lse / ln 2)"},
    ),
    Mutant(
        "only the largest part",
        Planted(formulas={"part": "(l == most) * 1.0"}),
        "lse-merge",
        {"merge": "the part with the largest lse alone"},
    ),
    Mutant(
        "parts without a key are NaN",
        Planted(formulas={"part": "exp(l - where(l == -inf, nan, most))"}),
        "lse-merge",
        {"empty_part": "nan"},
    ),
)

EMPTY = (
    Mutant("NaN for nothing", Planted(empty="nan"), "empty-row", {"out": "nan"}),
    Mutant("mean for nothing", Planted(empty="mean"), "empty-row", {"out": "mean of v"}),
    Mutant("NaN through the mask", Planted(guard_values=False), "masked-nan", {"poison": "nan", "of": ["v"]}),
)

FILLS = (
    *(
        Mutant(
            f"hidden scores are {fill:g}",
            Planted(formulas={"hidden": f"where(keep, x, {fill!r})"}),
            "mask-fill-overflow",
            {"fill": fill, "form": "in place of the score"},
        )
        for fill in (-1e4, -5e4, -65504.0, -1e6)
    ),
    *(
        Mutant(
            f"{fill:g} is added to hidden scores",
            Planted(formulas={"hidden": f"x + where(keep, 0, {fill!r})"}),
            "mask-fill-overflow",
            {"fill": fill, "form": "added to the score"},
        )
        for fill in (-1e3, -1e4)
    ),
    Mutant(
        "the running maximum starts at -5e4",
        Planted(formulas={"top": "maximum(x.max(-1, keepdims=True), -5e4)"}),
        "mask-fill-overflow",
        {"start": -5e4},
    ),
    Mutant(
        "the running maximum starts at 0",
        Planted(formulas={"top": "maximum(x.max(-1, keepdims=True), 0)"}),
        "mask-fill-overflow",
        {"start": 0.0},
    ),
    Mutant(
        "two smallest numbers added",
        Planted(formulas={"hidden": "x + sum(where(seen, 0, finfo(float).min) for seen in planes)"}),
        "mask-fill-overflow",
        {"form": "sum of two minima"},
    ),
)

FACTORS = (
    Mutant(
        "keys not rescaled",
        Planted(formulas={"k_scale": "x"}),
        "quantised-kv",
        {"argument": "k_scale", "used": "not at all"},
    ),
    Mutant(
        "values not rescaled",
        Planted(formulas={"v_scale": "x"}),
        "quantised-kv",
        {"argument": "v_scale", "used": "not at all"},
    ),
    Mutant(
        "head 0's scale for all keys",
        Planted(formulas={"k_scale": "x * f[0]"}),
        "quantised-kv",
        {"used": "of head 0 for all"},
    ),
    Mutant(
        "head 0's scale for all values",
        Planted(formulas={"v_scale": "x * f[0]"}),
        "quantised-kv",
        {"used": "of head 0 for all"},
    ),
    Mutant(
        "keys divided",
        Planted(formulas={"k_scale": "x / f"}),
        "quantised-kv",
        {"argument": "k_scale", "used": "divided by"},
    ),
    Mutant(
        "values scaled twice",
        Planted(formulas={"v_scale": "x * f * f"}),
        "quantised-kv",
        {"argument": "v_scale", "used": "twice"},
    ),
)

DROPOUT = (Mutant("dropout at evaluation", Planted(formulas={"dropped": "True"}), "dropout-eval", {"applied": True}),)

PRECISION = tuple(
    Mutant(f"{stage} in {name}", Planted(rounded={stage: name}), "precision", {"stage": stage, "format": name})
    for stage, names in {
        "q, k": ("float32", "bfloat16", "float8_e4m3"),
        "v": ("float16", "bfloat16"),
        "products": ("float32", "bfloat16"),
        "scores": ("float32", "float16", "tf32"),
        "exp": ("float32", "bfloat16"),
        "probabilities": ("float32", "float16", "bfloat16", "float8_e5m2"),
        "out": ("float16", "bfloat16"),
    }.items()
    for name in names
)
