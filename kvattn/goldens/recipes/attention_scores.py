"""How scores are bent: scale, softcap, bias, slopes, sinks, and the base of the log-sum-exp."""

import math
from typing import Any

import numpy as np

from kvattn.goldens.recipe import Recipe, drawn
from kvattn.goldens.recipes._attention import as_if, case, tensors, without
from kvattn.goldens.recipes._incidents import LSE_BASE, ONNX_SOFTCAP_AFTER_MASK, ORDER, SINK_COUNT

PLAIN = "grouped/plain"
SEEN = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [1, 1, 0, 0, 0]], np.bool_)[None, None]
BIAS = drawn("bias", 1, 4, 3, 5)
SINKS = np.array([0.5, -1.25, 2.0, 0.125])


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 40
    True
    """
    return (*_scales(), *_caps(), *_biases(), *_slopes(), *_sinks(), *_logs())


def _scales() -> tuple[Recipe, ...]:
    default = {"1/sqrt(D) all the same": without("scale")}
    return (
        case("scale/given", "A scale of its own.", mistakes=default, sibling=PLAIN, scale=0.3125),
        case("scale/one", "No scale.", mistakes=default, sibling=PLAIN, scale=1.0),
        case("scale/zero", "A scale of 0 weighs all keys alike.", mistakes=default, sibling=PLAIN, scale=0.0),
        case("scale/negative", "A negative scale is legal.", mistakes=default, sibling=PLAIN, scale=-0.5),
        case("scale/inverse-width", "1/D, as μP has it: here 1/8.", inputs=tensors("eight", width=8), scale=0.125),
        case(
            "scale/of-another-width",
            "1/16 where D is 6: a checkpoint's query_pre_attn_scalar of 256, not its head's width.",
            mistakes=default,
            sibling=PLAIN,
            scale=0.0625,
        ),
        case(
            "scale/default-is-of-keys",
            "Unless given, the scale comes from D = 16, not from Dv = 9, and not from all heads' width.",
            inputs=tensors("of keys", width=16, value_width=9),
            mistakes={"1/sqrt(Dv)": as_if(scale=1 / 3), "1/sqrt(Hq D)": as_if(scale=0.125)},
        ),
        case(
            "scale/with-bias",
            "The scale bends scores before the bias, not the bias.",
            others={"bias": BIAS},
            flags=(ORDER,),
            mistakes={"the bias is scaled too": as_if(order=("bias", "scale"))},
            sibling="bias/full",
            scale=0.25,
        ),
    )


def _caps() -> tuple[Recipe, ...]:
    row = "mods/softcap"
    leak = {"capped after the mask": as_if(order=("scale", "bias", "mask", "softcap"))}
    none = {"no cap": without("softcap")}
    before = {"capped before the scale": as_if(order=("softcap", "scale", "bias", "mask"))}
    return (
        case("softcap/plain", "A cap of 1.5.", row=row, mistakes={**none, **before}, sibling=PLAIN, softcap=1.5),
        case(
            "softcap/tight", "A cap of 1/8 flattens everything.", row=row, mistakes=none, sibling=PLAIN, softcap=0.125
        ),
        case(
            "softcap/wide",
            "A cap of 50, as Gemma 2 has, hardly shows.",
            row=row,
            mistakes=none,
            sibling=PLAIN,
            softcap=50.0,
        ),
        case(
            "softcap/large-scores",
            "Scores far above the cap.",
            row=row,
            mistakes=none,
            sibling=PLAIN,
            softcap=5.0,
            scale=8.0,
        ),
        case(
            "softcap/mask",
            "Hidden keys stay hidden when scores are capped.",
            row=row,
            others={"mask": SEEN},
            flags=(ONNX_SOFTCAP_AFTER_MASK,),
            mistakes={**leak, **none},
            sibling="array/shared",
            softcap=1.5,
        ),
        case(
            "softcap/causal",
            "The same under a causal mask over cached keys.",
            row=row,
            flags=(ONNX_SOFTCAP_AFTER_MASK,),
            mistakes={**leak, **none},
            sibling="causal/fewer-queries",
            softcap=1.5,
            causal=True,
        ),
        case(
            "softcap/window",
            "The same in a window.",
            row=row,
            flags=(ONNX_SOFTCAP_AFTER_MASK,),
            mistakes={**leak, **none},
            sibling="window/fewer-queries",
            softcap=1.5,
            causal=True,
            window=3,
        ),
        case(
            "softcap/bias",
            "The bias comes after the cap.",
            row=row,
            others={"bias": BIAS},
            flags=(ORDER,),
            mistakes={"the bias is capped too": as_if(order=("scale", "bias", "softcap", "mask"))},
            sibling="bias/full",
            softcap=1.5,
        ),
        case(
            "softcap/minus-infinity",
            "A bias of -inf hides a key although scores are capped.",
            row=row,
            others={"bias": np.where(SEEN, 0.25, -np.inf)},
            flags=(ONNX_SOFTCAP_AFTER_MASK,),
            mistakes={"the bias is capped too": as_if(order=("scale", "bias", "softcap", "mask"))},
            sibling="bias/minus-infinity",
            softcap=1.5,
        ),
        case(
            "softcap/sinks",
            "Sinks are not capped.",
            row=row,
            others={"sinks": SINKS},
            mistakes={"no sink": without("sinks")},
            sibling="sinks/plain",
            softcap=1.5,
        ),
    )


def _biases() -> tuple[Recipe, ...]:
    row, none = "mods/bias", {"no bias": without("bias")}
    return (
        case("bias/full", "A bias for every pair.", row=row, others={"bias": BIAS}, mistakes=none, sibling=PLAIN),
        case(
            "bias/shared-by-heads",
            "One bias for all heads.",
            row=row,
            others={"bias": BIAS[:, :1]},
            sibling="bias/full",
        ),
        case(
            "bias/of-keys",
            "One row for all queries.",
            row=row,
            others={"bias": BIAS[:, :, :1]},
            sibling="bias/full",
        ),
        case(
            "bias/of-queries",
            "A bias that is the same for all keys changes the log-sum-exp alone.",
            row=row,
            others={"bias": BIAS[:, :, :, :1]},
            sibling=PLAIN,
        ),
        case(
            "bias/per-sequence",
            "A bias for each sequence.",
            row=row,
            inputs={
                **tensors("pair", batch=2, heads=4, kv_heads=1, queries=3, keys=5, width=6, value_width=7),
                "bias": drawn("bias of a pair", 2, 1, 3, 5),
            },
            sibling="padding/none",
        ),
        case(
            "bias/minus-infinity",
            "A bias of -inf hides a key.",
            row=row,
            others={"bias": np.where(SEEN, 0.25, -np.inf)},
            sibling=PLAIN,
        ),
        case(
            "bias/causal",
            "A bias under a causal mask: what it says of hidden keys does not matter.",
            row=row,
            others={"bias": BIAS},
            mistakes=none,
            sibling="causal/fewer-queries",
            causal=True,
        ),
        case(
            "bias/large-on-hidden",
            "A large bias on a hidden key does not unhide it.",
            row=row,
            others={"bias": np.where(SEEN, 0.0, 64.0), "mask": SEEN},
            mistakes={"the mask is not the last": without("mask")},
        ),
        case(
            "bias/mask-as-number",
            "Zeros and minus 10,000 are no mask, but near one.",
            row=row,
            others={"bias": np.where(SEEN, 0.0, -10000.0)},
            sibling=PLAIN,
        ),
    )


def _slopes() -> tuple[Recipe, ...]:
    row, slopes = "positions/alibi", {"slopes": np.array([0.5, 0.25, 0.125, 0.0625])}
    return (
        case(
            "slopes/causal",
            "A bias that falls with distance, a slope for each head.",
            row=row,
            others=slopes,
            mistakes={
                "no slopes": without("slopes"),
                "distances counted from the top left": as_if(alignment="top_left", causal=False),
            },
            sibling="causal/fewer-queries",
            causal=True,
        ),
        case(
            "slopes/both-ways",
            "Without a mask, keys ahead are rewarded: the bias is linear in the distance, not in its size.",
            row=row,
            inputs={**tensors("square", queries=5), **slopes},
            mistakes={"no slopes": without("slopes")},
            sibling="causal/square-all",
        ),
        case(
            "slopes/negative",
            "The other sign rewards distance.",
            row=row,
            others={"slopes": -slopes["slopes"]},
            sibling="slopes/causal",
            causal=True,
        ),
        case(
            "slopes/softcap",
            "Slopes come after the cap.",
            row=row,
            others=slopes,
            flags=(ORDER,),
            mistakes={"slopes are capped too": as_if(order=("scale", "bias", "softcap", "mask"))},
            sibling="slopes/causal",
            causal=True,
            softcap=1.5,
        ),
        case(
            "slopes/window",
            "Slopes in a window.",
            row=row,
            others=slopes,
            sibling="window/fewer-queries",
            causal=True,
            window=3,
        ),
        case(
            "slopes/positions-with-gaps",
            "Distances are of positions, not of rows.",
            row=row,
            others={**slopes, "q_positions": np.array([[4, 9, 30]]), "k_positions": np.array([[0, 3, 9, 10, 31]])},
            mistakes={"rows taken for positions": without("q_positions", "k_positions")},
            sibling="slopes/causal",
            causal=True,
        ),
    )


def _sinks() -> tuple[Recipe, ...]:
    row, given = "variants/sparse/sinks", {"sinks": SINKS}
    wrong = {
        "no sink": without("sinks"),
        "the sink counted twice": as_if(sink_count=2),
        "the sink left out of the log-sum-exp": as_if(sinks_in_lse=False),
    }
    return (
        case(
            "sinks/plain",
            "A logit for each head in the denominator.",
            row=row,
            others=given,
            flags=(SINK_COUNT,),
            mistakes=wrong,
            sibling=PLAIN,
        ),
        case(
            "sinks/causal",
            "Sinks under a causal mask.",
            row=row,
            others=given,
            flags=(SINK_COUNT,),
            mistakes=wrong,
            sibling="causal/fewer-queries",
            causal=True,
        ),
        case(
            "sinks/window",
            "Sinks in a window, as gpt-oss has them.",
            row=row,
            others=given,
            flags=(SINK_COUNT,),
            mistakes=wrong,
            sibling="window/fewer-queries",
            causal=True,
            window=3,
        ),
        case(
            "sinks/two-blocks",
            "One query over 259 keys and a sink that outweighs them: counted once, not once for each block of keys.",
            row=row,
            inputs={
                **tensors("blocks", heads=2, kv_heads=1, queries=1, keys=259, width=3, value_width=1),
                "sinks": np.array([5.0, 4.0]),
            },
            flags=(SINK_COUNT,),
            mistakes=wrong,
        ),
        case(
            "sinks/zero",
            "Sinks of 0 are the off-by-one softmax.",
            row="variants/dense/off_by_one",
            others={"sinks": np.zeros(4)},
            mistakes=wrong,
            sibling=PLAIN,
        ),
        case(
            "sinks/none",
            "A sink of -inf is no sink; the other heads keep theirs.",
            row=row,
            others={"sinks": np.array([0.5, -np.inf, 2.0, -np.inf])},
            sibling="sinks/plain",
        ),
        case(
            "sinks/dominant",
            "Sinks so large that nothing else counts.",
            row=row,
            others={"sinks": np.array([40.0, 60.0, 90.0, 120.0])},
            sibling="sinks/plain",
        ),
        case(
            "sinks/feeble",
            "Sinks so small that they hardly count.",
            row=row,
            others={"sinks": np.array([-8.0, -12.0, -16.0, -20.0])},
            sibling=PLAIN,
        ),
        case(
            "sinks/scale",
            "Sinks are not scaled.",
            row=row,
            others=given,
            sibling="sinks/plain",
            mistakes={"the sink left out of the log-sum-exp": as_if(sinks_in_lse=False)},
            scale=0.125,
        ),
        case(
            "sinks/outside-lse",
            "An engine whose log-sum-exp leaves the sink out, to add it after merging.",
            row=row,
            others=given,
            sibling="sinks/plain",
            sinks_in_lse=False,
        ),
    )


def _logs() -> tuple[Recipe, ...]:
    wrong: dict[str, Any] = {"a natural log": as_if(lse_base="e")}
    return (
        case(
            "lse/base-2", "The log-sum-exp to base 2.", flags=(LSE_BASE,), mistakes=wrong, sibling=PLAIN, lse_base="2"
        ),
        case(
            "lse/base-2-causal",
            "To base 2 under a causal mask with an empty row, which stays -inf.",
            inputs=tensors("tall", queries=5, keys=3),
            flags=(LSE_BASE,),
            mistakes=wrong,
            causal=True,
            lse_base="2",
        ),
        case(
            "lse/base-2-sinks",
            "To base 2 with sinks, whose logits are natural.",
            others={"sinks": SINKS},
            flags=(LSE_BASE,),
            mistakes=wrong,
            sibling="sinks/plain",
            lse_base="2",
        ),
        case(
            "lse/natural",
            "The natural log-sum-exp of large scores, which to base 2 is another number.",
            flags=(LSE_BASE,),
            mistakes={"a log to base 2": as_if(lse_base="2")},
            sibling=PLAIN,
            scale=4.0,
        ),
        case(
            "lse/one-key",
            "Of one key it is the score.",
            inputs=tensors("one key", keys=1),
            flags=(LSE_BASE,),
            mistakes={"a log to base 2": as_if(lse_base="2")},
            scale=0.5,
        ),
        case(
            "lse/equal-scores",
            f"Of equal scores it is the score and the log of their number: {math.log(5):.3f} where the scores are 0.",
            inputs={**tensors(), "q": np.zeros((1, 4, 3, 6))},
            flags=(LSE_BASE,),
            mistakes={"a log to base 2": as_if(lse_base="2")},
            sibling=PLAIN,
        ),
    )
