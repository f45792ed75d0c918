"""Rotary positions: layouts, partial rotation, bases, offsets, and every scaling of the frequencies.

    s_ij = scale · (R_i q_i) · (R_j k_j),     R_p turns pair k by p · θ_k,     j visible where position j <= position i

"rotary attention": inputs ``q``, ``k``, ``v``, ``q_positions`` and ``k_positions [B, T]``; with ``starts [B]``, keys
are numbered by rows, and those before ``starts`` are padding.  The first ``rotary_dim`` features turn (from ``start``
on, where given; negative from the end), in ``layout`` half unless given, with ``base``; ``scheme`` says how
frequencies are scaled, not at all unless given, and its parameters are

    linear, ntk      factor; alpha            θ over the factor; base · α^(r/(r-2))
    dynamic          factor, trained          α = factor · L / trained - (factor - 1) at length L
    yarn             factor, trained          with fast 32, slow 1, truncate true, mscale 1,
                                                      mscale_all_dim 0; attention_factor is the magnitude
    llama3           factor, trained          with low and high
    longrope         short, long, trained with factor, short_magnitude, long_magnitude
    proportional     share, factor            none: nothing turns

``scale_mscale`` multiplies the softmax scale by (0.1 · it · ln factor + 1)².  "rotary attention by own length": the
same, each query and the keys it meets by the frequencies of as many tokens as the query sees.

Expected: ``k_rotated``, the keys as they are turned (a right table that is applied to the wrong pairs shows there),
``out`` and ``lse``.  Source: Su et al. 2021 (arXiv 2104.09864) §3.4.2; the scalings name theirs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, reciprocal_root
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._forms import Asked, Worn, attention_forms, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, before, causal, every_row, turn
from kvattn.goldens.recipes._scalings import frequencies, magnitude, mscale
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.masks.padding import Padding
from kvattn.positions import dynamic_ntk, linear_interpolation, llama3, longrope, ntk, proportional, rotary, yarn
from kvattn.variants.dense.before_rotation import BeforeRotation
from kvattn.variants.dense.grouped import Grouped

LAYOUT = Flag(
    "RotaryLayout",
    "LAYOUT",
    "Pairs features (k, k + r/2) where the case has (2k, 2k + 1), or the other way round; both are right with weights "
    "that fit.",
    (
        "EleutherAI/gpt-neox#834",
        "NeuraLegion/shainet#111",
        "jzhang38/TinyLlama#24",
        "raiyanyahya/how-to-train-your-gpt#6",
        "ggml-org/llama.cpp#2376",
    ),
)
PARTIAL = Flag(
    "RotaryPartial",
    "KNOWN_BUG",
    "Takes exponents or pair distance from the head's width, rotates all features, or other ones.",
    (
        "pie-project/pie#602",
        "AI-Hypercomputer/maxtext#4742",
        "vllm-project/vllm#43770",
        "labscommunity/cascadia#69",
        "lucidrains/RETRO-pytorch#12",
    ),
)
OFFSET = Flag(
    "RotaryOffset",
    "KNOWN_BUG",
    "Gives a new token another position than the number of tokens before it.",
    (
        "sgl-project/sglang#25015",
        "pytorch/executorch#2010",
        "lucidrains/x-transformers#219",
        "lucidrains/native-sparse-attention-pytorch#20",
        "ml-explore/mlx-lm#1702",
    ),
)
PADDED = Flag(
    "RotaryPaddedRows",
    "KNOWN_BUG",
    "Gives all rows of a left-padded batch the same positions.",
    (
        "unslothai/unsloth#3699",
        "ndif-team/nnsight#673",
        "rasbt/reasoning-from-scratch#33",
        "huggingface/transformers#25790",
        "turboderp-org/exllamav2#606",
    ),
)
PRECISION = Flag(
    "RotaryPrecision",
    "NUMERIC_RANGE",
    "Rounds positions, frequencies or angles to fewer digits than a large position needs.",
    (
        "huggingface/candle#3520",
        "sgl-project/sglang-jax#1472",
        "EleutherAI/gpt-neox#1003",
        "huggingface/transformers#29285",
    ),
)
TABLE = Flag(
    "RotaryTable",
    "KNOWN_BUG",
    "Has a table of cosines that ends before the context does.",
    ("pegainfer-project/pegainfer#220", "huggingface/transformers#29496"),
)
BANDS = Flag(
    "Llama3Bands",
    "KNOWN_BUG",
    "Leaves out the three bands of wavelengths, or computes them and returns the frequencies unscaled.",
    (
        "huggingface/transformers#32330",
        "lablup/mlxcel#1355",
        "jmaczan/tiny-vllm#1",
        "unslothai/unsloth#6197",
        "Xilinx/mlir-air#1948",
    ),
)
YARN = Flag(
    "YarnMagnitude",
    "KNOWN_BUG",
    "Takes the plain 0.1 ln f + 1 where an attention factor or two equal mscales are given, or the reverse.",
    (
        "ml-explore/mlx-lm#1507",
        "vllm-project/vllm#48351",
        "vllm-project/vllm#48623",
        "sgl-project/sglang#22711",
        "turboderp-org/exllamav3#259",
        "microsoft/onnxruntime-genai#2076",
    ),
)
YARN_SCALE = Flag(
    "YarnSoftmaxScale",
    "KNOWN_BUG",
    "Leaves the square of m(mscale_all_dim) out of the softmax scale, or takes m(mscale) for it.",
    ("huggingface/transformers#47435", "NVIDIA/Megatron-LM#1429"),
)
SWITCH = Flag(
    "LongRopeSwitch",
    "KNOWN_BUG",
    "Switches lists at another length, or keeps keys turned by the other list.",
    (
        "unslothai/unsloth#10681",
        "huggingface/transformers#33129",
        "microsoft/onnxruntime-genai#1161",
        "ggml-org/llama.cpp#8995",
        "vllm-project/vllm#27431",
        "lablup/mlxcel#1358",
        "ggml-org/llama.cpp#6849",
    ),
)
DYNAMIC = Flag(
    "DynamicBase",
    "KNOWN_BUG",
    "Turns keys by the base of the length at their arrival, or by that of the longest length ever.",
    (
        "huggingface/transformers#25104",
        "huggingface/transformers#25306",
        "vllm-project/vllm#3488",
    ),
)
BASIC = Flag("Rotary", "BASIC", "Gets rotary positions wrong.")


def _rotated(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Turn queries and keys by one list of frequencies, and attend to what came before."""
    thetas, factor = frequencies(n, p, p.get("length", 0)), magnitude(n, p, p.get("length", 0))

    def turned(rows: Nested, positions: Nested, layout: str, further: int) -> Nested:
        def place(b: int, t: int) -> int:
            position: int = t if p.get("row_numbers") else positions[b][t]
            return int(p.get("at", {}).get(str(position), position)) + further

        return every_row(
            rows,
            lambda b, h, t, row: turn(
                n,
                row,
                [place(b, t) * theta for theta in thetas],
                layout=layout,
                magnitude=factor,
                start=p.get("start", 0),
            ),
        )

    layout = p.get("layout", "half")
    q = turned(a["q"], a["q_positions"], layout, p.get("query_offset", 0))
    k = turned(a["k"], a["k_positions"], p.get("key_layout", layout), 0)
    scale = reciprocal_root(n, len(q[0][0][0]))
    if "scale_mscale" in p:
        each = mscale(n, p["factor"], p["scale_mscale"])
        scale = scale * each * each
    starts = a.get("starts")
    order = causal(a["q_positions"], a["k_positions"]) if starts is None else before
    answer = attention(
        n,
        q,
        k,
        a["v"],
        see=lambda b, h, t, s: order(b, h, t, s) and (starts is None or s >= starts[b]),
        scale=scale,
    )
    return {"k_rotated": k, **answer}


def _by_own_length(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Turn each query, and the keys it meets, by the frequencies of the query's own length."""
    out: Nested = [[[] for _ in heads] for heads in a["q"]]
    lse: Nested = [[[] for _ in heads] for heads in a["q"]]
    for t in range(len(a["q"][0][0])):
        key_lengths = [s + 1 if p.get("keys_at_arrival") else t + 1 for s in range(t + 1)]
        mine = frequencies(n, p, t + 1), magnitude(n, p, t + 1)
        theirs = [(frequencies(n, p, length), magnitude(n, p, length)) for length in key_lengths]

        def turned(s: int, row: Nested, theirs: Any = theirs) -> Nested:
            return turn(n, row, [s * x for x in theirs[s][0]], magnitude=theirs[s][1])

        q = [[[turn(n, head[t], [t * x for x in mine[0]], magnitude=mine[1])] for head in heads] for heads in a["q"]]
        k = [[[turned(s, row) for s, row in enumerate(head[: t + 1])] for head in heads] for heads in a["k"]]
        v = [[head[: t + 1] for head in heads] for heads in a["v"]]
        answer = attention(n, q, k, v)
        for b, heads in enumerate(answer["out"]):
            for h, rows in enumerate(heads):
                out[b][h].append(rows[0])
                lse[b][h].append(answer["lse"][b][h][0])
    return {"out": out, "lse": lse}


def _rotary_of(p: Mapping[str, Any]) -> rotary.Rotary:
    """kvattn's rotation of a case."""
    scheme, width, base = p.get("scheme", "plain"), p["rotary_dim"], p["base"]
    where: Any = {"layout": p.get("layout", "half"), "start": p.get("start", 0)}
    if scheme == "none":
        return rotary.Rotary((0.0,) * (width // 2), **where)
    if scheme == "linear":
        return linear_interpolation.linear_rotary(width, factor=p["factor"], base=base, **where)
    if scheme == "ntk":
        return ntk.ntk_rotary(width, alpha=p["alpha"], base=base, **where)
    if scheme == "dynamic":
        return dynamic_ntk.DynamicNTK(width, p["factor"], p["trained"], base, **where).rotary_at(p["length"])
    if scheme == "longrope":
        return _long_of(p).rotary_at(p["length"])
    if scheme == "proportional":
        return proportional.proportional_rotary(width, share=p["share"], factor=p["factor"], base=base, **where)
    if scheme == "llama3":
        named = {name: p[name] for name in ("factor", "trained", "low", "high")}
        return llama3.llama3_rotary(width, base=base, **named, **where)
    if scheme == "yarn":
        named = {name: p[name] for name in ("factor", "trained", "fast", "slow", "truncate") if name in p}
        times = yarn.yarn_magnitude(
            p["factor"], mscale=p.get("mscale", 1.0), mscale_all_dim=p.get("mscale_all_dim", 0.0)
        )
        times = times if p.get("attention_factor") is None else p["attention_factor"]
        return yarn.yarn_rotary(width, base=base, magnitude=times, **named, **where)
    return rotary.Rotary.of(width, base, **where)


def _long_of(p: Mapping[str, Any]) -> longrope.LongRope:
    explicit = {name: p[name] for name in ("short_magnitude", "long_magnitude") if name in p}
    return longrope.LongRope(tuple(p["short"]), tuple(p["long"]), p["trained"], p["factor"], p["base"], **explicit)


def _scale(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> float | None:
    if "scale_mscale" not in p:
        return None
    factor = yarn.yarn_scale_factor(p["factor"], mscale_all_dim=p["scale_mscale"])
    return float(factor / np.sqrt(inputs["q"].shape[3]))


def _asked(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    turned, q_at, k_at = _rotary_of(p), inputs["q_positions"], inputs["k_positions"]
    q, k = turned.rotate(inputs["q"], q_at[:, None]), turned.rotate(inputs["k"], k_at[:, None])
    how: dict[str, Any] = {"mask": Causal(), "scale": _scale(inputs, p)}
    if "starts" in inputs:
        q_at = k_at = np.broadcast_to(np.arange(q.shape[2]), q_at.shape)
        how["mask"] = Causal() & Padding(starts=inputs["starts"].tolist())
    return Asked(q, k, inputs["v"], q_at, k_at, how, {"k_rotated": k})


def _worn(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    layer = Grouped(projections, query_key=(_rotary_of(p),), scale=_scale(inputs, p))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _forms(inputs: Mapping[str, Any]) -> dict[str, Ours]:
    """A layer too, where tokens are numbered from 0."""
    forms = attention_forms(_asked)
    counted = np.arange(inputs["q"].shape[2])
    if all(np.array_equal(inputs[name], [counted] * len(inputs[name])) for name in ("q_positions", "k_positions")):
        forms |= {f"layer: {name}": form for name, form in layer_forms(_worn).items()}
    return forms


def _worn_before(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    scheme: Any = (
        dynamic_ntk.DynamicNTK(p["rotary_dim"], p["factor"], p["trained"], p["base"])
        if p["scheme"] == "dynamic"
        else _long_of(p)
    )
    return Worn(BeforeRotation(projections, scheme), x, inputs["q"].shape[1], inputs["v"].shape[3])


def _heads(width: int, queries: int = 5, keys: int = 5, batch: int = 1) -> dict[str, Any]:
    label = f"rotary {width} {queries} {keys} {batch} "
    return {
        "q": drawn(label + "q", batch, 4, queries, width),
        "k": drawn(label + "k", batch, 2, keys, width),
        "v": drawn(label + "v", batch, 2, keys, 3),
    }


def _counted(inputs: dict[str, Any], first: int, first_key: int) -> dict[str, Any]:
    batch, _, queries, _ = inputs["q"].shape
    keys = inputs["k"].shape[2]
    return {
        **inputs,
        "q_positions": np.tile(np.arange(first, first + queries), (batch, 1)),
        "k_positions": np.tile(np.arange(first_key, first_key + keys), (batch, 1)),
    }


def _rope(name: str, row: str, comment: str, parameters: dict[str, Any], first: int = 0, **others: Any) -> Recipe:
    """A case of five tokens from position ``first`` on."""
    width = others.pop("width", 6)
    inputs = others.pop("inputs", None) or _counted(_heads(width), first, first)
    group = others.pop("group", "rotary")
    given = {"rotary_dim": width, "base": 10000.0} | parameters
    sibling = others.pop("sibling", f"positions/rotary/none-{width}")
    if sibling and not sibling.startswith("positions/"):
        sibling = f"positions/{group}/{sibling}"
    return told(
        f"positions/{group}/{name}",
        f"positions/{row}",
        "rotary attention",
        comment,
        inputs,
        given,
        _rotated,
        _forms(inputs),
        sibling=sibling,
        **others,
    )


def _own(name: str, row: str, comment: str, parameters: dict[str, Any], sibling: str, flag: Flag) -> Recipe:
    """A case whose queries each have their own frequencies; keys are kept unturned."""
    inputs = _heads(6, 7, 7)
    return told(
        f"positions/scaling/{name}",
        f"positions/{row}",
        "rotary attention by own length",
        comment,
        inputs,
        {"rotary_dim": 6, "base": 100.0} | parameters,
        _by_own_length,
        layer_forms(_worn_before),
        sibling=f"positions/scaling/{sibling}",
        flags=(flag,),
        mistakes={"keys turned at arrival stay": {"keys_at_arrival": True}, "never scaled": {"scheme": "plain"}},
    )


def _layouts() -> tuple[Recipe, ...]:
    adjacent = {"layout": "adjacent"}
    none = {"scheme": "none"}
    return (
        _rope("none-6", "rotary", "No pair turns: the plain case.", none, sibling=None, flags=(BASIC,)),
        _rope("none-8", "rotary", "No pair turns: the plain case.", none, width=8, sibling=None, flags=(BASIC,)),
        _rope("half", "rotary", "Pairs (k, k + r/2), all features.", {}, flags=(BASIC,), mistakes={"other": adjacent}),
        _rope(
            "adjacent",
            "rotary",
            "Pairs (2k, 2k + 1), all features.",
            adjacent,
            sibling="half",
            flags=(LAYOUT,),
            mistakes={"halves": {"layout": "half"}, "keys in halves": {"key_layout": "half"}},
        ),
        _rope(
            "half-far",
            "rotary",
            "Behind position 0, where the layouts agree, they differ more and more.",
            {},
            first=700,
            sibling="half",
            flags=(LAYOUT,),
            mistakes={"adjacent": adjacent, "keys adjacent": {"key_layout": "adjacent"}},
        ),
        _rope(
            "partial",
            "rotary",
            "The first four of six features turn; exponents divide by 4, and pairs are (0, 2) and (1, 3).",
            {"rotary_dim": 4},
            first=11,
            flags=(PARTIAL,),
            mistakes={
                "all features": {"rotary_dim": 6},
                "exponents of the head": {"scheme": "whole exponents", "head_dim": 6},
                "last features": {"start": -4},
            },
        ),
        _rope(
            "partial-far",
            "rotary",
            "At position 700 and later a wrong exponent can no longer hide.",
            {"rotary_dim": 4},
            first=700,
            width=8,
            flags=(PARTIAL,),
            mistakes={"exponents of the head": {"scheme": "whole exponents", "head_dim": 8}},
        ),
        _rope(
            "partial-adjacent",
            "rotary",
            "Pairs (0, 1) and (2, 3) of eight features.",
            {"rotary_dim": 4, **adjacent},
            first=11,
            width=8,
            sibling="partial-far",
            flags=(PARTIAL, LAYOUT),
            mistakes={"halves": {"layout": "half"}},
        ),
        _rope(
            "quarter",
            "rotary",
            "One pair of eight features turns.",
            {"rotary_dim": 2},
            first=3,
            width=8,
            flags=(PARTIAL,),
            mistakes={"all features": {"rotary_dim": 8}},
        ),
        _rope(
            "last-features",
            "rotary",
            "The last four of six features turn, in adjacent pairs, as in DeepSeek-V4.",
            {"rotary_dim": 4, "start": -4, **adjacent},
            first=3,
            flags=(PARTIAL,),
            mistakes={"first features": {"start": 0}},
        ),
        _rope(
            "base-500000",
            "rotary",
            "Llama 3's base.",
            {"base": 500000.0},
            first=90,
            sibling="half",
            flags=(BASIC,),
            mistakes={"the paper's base": {"base": 10000.0}},
        ),
        _rope(
            "base-1000000",
            "rotary",
            "Qwen2's base, in adjacent pairs.",
            {"base": 1000000.0, **adjacent},
            first=90,
            sibling="adjacent",
            flags=(BASIC,),
            mistakes={"the paper's base": {"base": 10000.0}},
        ),
    )


def _offsets() -> tuple[Recipe, ...]:
    left_padded = {
        **_heads(6, 5, 5, 2),
        "q_positions": np.array([[0, 0, 0, 0, 1], [0, 1, 2, 3, 4]]),
        "k_positions": np.array([[0, 0, 0, 0, 1], [0, 1, 2, 3, 4]]),
        "starts": np.array([3, 0]),
    }
    return (
        _rope(
            "behind-a-cache",
            "rotary",
            "Three queries behind six keys stand at 6, 7 and 8.",
            {},
            inputs=_counted(_heads(6, 3, 9), 6, 0),
            sibling=None,
            flags=(OFFSET,),
            mistakes={"counted from 0 again": {"query_offset": -6}, "one too far": {"query_offset": 1}},
        ),
        _rope(
            "one-new-token",
            "rotary",
            "The query behind seven keys stands at 7; an increment before the forward pass makes it 8.",
            {"layout": "adjacent"},
            inputs=_counted(_heads(6, 1, 8), 7, 0),
            sibling=None,
            flags=(OFFSET,),
            mistakes={"one too far": {"query_offset": 1}, "one too near": {"query_offset": -1}},
        ),
        _rope(
            "left-padded-rows",
            "rotary",
            "Rows of 2 and of 5 tokens, the first with three pads in front: positions count real tokens.  "
            "Rows at pads see nothing: output 0, log-sum-exp -inf.",
            {},
            inputs=left_padded,
            sibling=None,
            flags=(PADDED,),
            mistakes={"row numbers": {"row_numbers": True}},
        ),
        _rope(
            "position-257",
            "rotary",
            "257 is the first integer that bfloat16 does not have: it becomes 256.",
            {},
            first=257,
            sibling="half",
            flags=(PRECISION,),
            mistakes={"bfloat16 positions": {"at": {"257": 256, "259": 260, "261": 260}}},
        ),
        _rope(
            "position-1857",
            "rotary",
            "In half precision cosines are off by 0.8 here: the position becomes 1856 in bfloat16.",
            {},
            first=1857,
            width=8,
            flags=(PRECISION,),
            mistakes={"bfloat16 positions": {"at": {str(p): 1856 for p in range(1857, 1861)} | {"1861": 1864}}},
        ),
        _rope(
            "position-4095",
            "rotary",
            "Frequencies rounded before the product lose digits here; 4096 is beyond a table of 4096 rows.",
            {},
            first=4094,
            width=8,
            flags=(PRECISION, TABLE),
            mistakes={"last row of the table again": {"at": {str(p): 4095 for p in range(4096, 4099)}}},
        ),
        _rope(
            "position-15962",
            "rotary",
            "bfloat16 has no position between 15936 and 16000.",
            {"layout": "adjacent"},
            first=15962,
            width=8,
            flags=(PRECISION,),
            mistakes={"bfloat16 positions": {"at": {"15962": 15936, "15963": 15936, "15966": 15936}}},
        ),
        _rope(
            "position-131072",
            "rotary",
            "Base 500000, 131,072 tokens in: float32 angles of the fastest pair are off by 0.004.",
            {"base": 500000.0},
            first=131071,
            sibling="base-500000",
            flags=(PRECISION,),
            mistakes={"bfloat16 positions": {"at": {"131073": 131072, "131075": 131072}}},
        ),
    )


def _scaled(name: str, row: str, comment: str, parameters: dict[str, Any], **others: Any) -> Recipe:
    return _rope(name, row, comment, parameters, group="scaling", **{"first": 37, **others})


def _scalings() -> tuple[Recipe, ...]:
    plain = {"unscaled": {"scheme": "plain"}}
    deep = {"scheme": "yarn", "factor": 4.0, "trained": 64, "base": 100.0}
    three = {"scheme": "llama3", "factor": 8.0, "trained": 1024, "low": 1.0, "high": 4.0, "base": 10000.0}
    short_long = {"scheme": "longrope", "trained": 40, "factor": 8.0, "base": 100.0}
    short_long |= {"short": [1.0, 1.25, 1.5], "long": [1.0, 4.0, 16.0]}
    grows = {"scheme": "dynamic", "factor": 2.0, "trained": 40, "base": 100.0}
    return (
        _scaled("plain-6", "rotary", "No scaling, at the scaled cases' positions.", {"base": 100.0}, flags=(BASIC,)),
        _scaled(
            "plain-8", "rotary", "No scaling, at the scaled cases' positions.", {"base": 100.0}, width=8, flags=(BASIC,)
        ),
        _scaled(
            "linear",
            "linear_interpolation",
            "Every frequency over 4.",
            {"scheme": "linear", "factor": 4.0, "base": 100.0},
            sibling="plain-6",
            flags=(BASIC,),
            mistakes={**plain, "times the factor": {"factor": 0.25}},
        ),
        _scaled(
            "ntk",
            "ntk",
            "The base times α^(r/(r-2)): the fastest pair stays, the slowest is divided by α.",
            {"scheme": "ntk", "alpha": 5.0, "base": 100.0},
            sibling="plain-6",
            flags=(BASIC,),
            mistakes={**plain, "linear": {"scheme": "linear", "factor": 5.0}},
        ),
        _scaled(
            "dynamic-at-the-trained-length",
            "dynamic_ntk",
            "40 tokens where 40 were trained: nothing is scaled.",
            {**grows, "length": 40},
            flags=(DYNAMIC,),
            mistakes={"for the longest length": {"length": 80}},
        ),
        _scaled(
            "dynamic-one-more",
            "dynamic_ntk",
            "41 tokens where 40 were trained: α = 2 · 41/40 - 1.",
            {**grows, "length": 41},
            sibling="dynamic-at-the-trained-length",
            flags=(DYNAMIC,),
            mistakes={**plain, "one token late": {"length": 40}},
        ),
        _scaled(
            "dynamic-twice",
            "dynamic_ntk",
            "80 tokens where 40 were trained: α = 3.",
            {**grows, "length": 80},
            sibling="dynamic-one-more",
            flags=(DYNAMIC,),
            mistakes={**plain, "static": {"scheme": "ntk", "alpha": 2.0}},
        ),
        _own(
            "dynamic-by-own-length",
            "dynamic_ntk",
            "Each query, and every key it meets, turns by the base of the query's own length; 4 were trained.",
            {"scheme": "dynamic", "factor": 2.0, "trained": 4},
            "longrope-by-own-length",
            DYNAMIC,
        ),
        _scaled(
            "yarn",
            "yarn",
            "The paper's: frequencies by parts, cosine and sine times 0.1 ln 4 + 1.",
            deep,
            width=8,
            sibling="plain-8",
            flags=(YARN,),
            mistakes={**plain, "no magnitude": {"attention_factor": 1.0}, "linear": {"scheme": "linear"}},
        ),
        _scaled(
            "yarn-not-rounded",
            "yarn",
            "The range of pairs is not rounded, as in gpt-oss.",
            {**deep, "truncate": False, "base": 5000.0},
            width=8,
            sibling="yarn",
            flags=(YARN,),
            mistakes={"rounded": {"truncate": True}},
        ),
        _scaled(
            "yarn-other-turns",
            "yarn",
            "From 8 turns on pairs are left alone, up to 2 they are interpolated.",
            {**deep, "fast": 8.0, "slow": 2.0, "base": 1000.0},
            width=8,
            sibling="yarn",
            flags=(YARN,),
            mistakes={"the paper's turns": {"fast": 32.0, "slow": 1.0}},
        ),
        _scaled(
            "yarn-both-mscales",
            "yarn",
            "mscale and mscale_all_dim are equal: their ratio, 1, and not 1.277.",
            {**deep, "factor": 16.0, "mscale": 1.0, "mscale_all_dim": 1.0},
            width=8,
            sibling="yarn",
            flags=(YARN,),
            mistakes={"mscales ignored": {"mscale_all_dim": 0.0}},
        ),
        _scaled(
            "yarn-two-mscales",
            "yarn",
            "mscale 0.707 over mscale_all_dim 1: m(0.707) / m(1).",
            {**deep, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0},
            width=8,
            sibling="yarn",
            flags=(YARN,),
            mistakes={
                "mscales ignored": {"mscale": 1.0, "mscale_all_dim": 0.0},
                "upside down": {"mscale": 1.0, "mscale_all_dim": 0.707},
            },
        ),
        _scaled(
            "yarn-explicit-factor",
            "yarn",
            "An attention factor of 1 at factor 64: cosine and sine stay, where the formula gives 1.416.",
            {**deep, "factor": 64.0, "attention_factor": 1.0},
            width=8,
            sibling="yarn",
            flags=(YARN,),
            mistakes={"ignored": {"attention_factor": None}},
        ),
        _scaled(
            "yarn-softmax-scale",
            "yarn",
            "DeepSeek: magnitude 1, and the softmax scale times m(0.707)².",
            {
                **deep,
                "factor": 40.0,
                "mscale": 0.707,
                "mscale_all_dim": 0.707,
                "scale_mscale": 0.707,
                "layout": "adjacent",
            },
            width=8,
            sibling="yarn",
            flags=(YARN_SCALE,),
            mistakes={"left out": {"scale_mscale": 0.0}, "of mscale 1": {"scale_mscale": 1.0}},
        ),
        _scaled(
            "llama3",
            "llama3",
            "Three bands: a pair that is kept, one between, and two that are divided by 8.",
            three,
            width=8,
            sibling="plain-8",
            flags=(BANDS,),
            mistakes={**plain, "all divided": {"scheme": "linear"}},
        ),
        _scaled(
            "llama3-factor-32",
            "llama3",
            "Llama 3.2's factor.",
            {**three, "factor": 32.0, "base": 500000.0, "trained": 8192},
            width=8,
            sibling="llama3",
            flags=(BANDS,),
            mistakes={**plain, "factor 8": {"factor": 8.0}},
        ),
        _scaled(
            "llama3-far",
            "llama3",
            "At position 5000, adjacent pairs, as the released weights have them.",
            {**three, "layout": "adjacent"},
            width=8,
            first=5000,
            sibling="llama3",
            flags=(BANDS,),
            mistakes=plain,
        ),
        _scaled(
            "longrope-at-the-trained-length",
            "longrope",
            "40 tokens where 40 were trained: the short list.",
            {**short_long, "length": 40},
            sibling="plain-6",
            flags=(SWITCH,),
            mistakes={"one token early": {"length": 41}, "no magnitude": {"short_magnitude": 1.0}},
        ),
        _scaled(
            "longrope-one-more",
            "longrope",
            "41 tokens where 40 were trained: the long list.",
            {**short_long, "length": 41},
            sibling="longrope-at-the-trained-length",
            flags=(SWITCH,),
            mistakes={"one token late": {"length": 40}},
        ),
        _scaled(
            "longrope-two-magnitudes",
            "longrope",
            "PhiMoE's explicit magnitude for the long list.",
            {**short_long, "length": 41, "short_magnitude": 1.25, "long_magnitude": 1.5},
            sibling="longrope-one-more",
            flags=(SWITCH,),
            mistakes={"by the formula": {"long_magnitude": None}, "the other": {"long_magnitude": 1.25}},
        ),
        _own(
            "longrope-by-own-length",
            "longrope",
            "Each query, and every key it meets, turns by the list of the query's own length; 4 were trained.",
            {**short_long, "trained": 4},
            "dynamic-by-own-length",
            SWITCH,
        ),
        _scaled(
            "proportional",
            "proportional",
            "Half of the four pairs turn, at the frequencies of all eight features; the others stand still.",
            {"scheme": "proportional", "share": 0.5, "factor": 1.0, "base": 100.0},
            width=8,
            sibling="plain-8",
            flags=(PARTIAL,),
            mistakes={**plain, "partial rotation": {"scheme": "plain", "rotary_dim": 4}},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of rotary positions.

    >>> len({recipe.name for recipe in recipes()}) > 40
    True
    """
    return _layouts() + _offsets() + _scalings()
