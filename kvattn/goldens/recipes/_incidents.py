"""Flags that several files of recipes share: conventions that differ, and what really happened."""

from kvattn.goldens.flag import Flag

_ONNX = "https://github.com/onnx/onnx"

ONNX_RESHAPE = Flag(
    "OnnxReshape",
    "KNOWN_BUG",
    "Rows [B, T, Hq·D] are reshaped to [B, Hq, T, D] without the transpose, so heads and tokens are mixed up.",
    (f"{_ONNX}/pull/7142", f"{_ONNX}/commit/b9a3100"),
)
ONNX_TILE = Flag(
    "OnnxTile",
    "KNOWN_BUG",
    "Key/value heads are tiled, so query head h reads head h % Hkv instead of h // G.",
    (f"{_ONNX}/pull/7274", f"{_ONNX}/commit/062ee92"),
)
ONNX_CAUSAL_PAST = Flag(
    "OnnxCausalPast",
    "KNOWN_BUG",
    "A causal mask counts from the first cached key, so a new query loses part of its past.",
    (f"{_ONNX}/pull/7297", f"{_ONNX}/commit/03a1749"),
)
ONNX_SOFTCAP_AFTER_MASK = Flag(
    "OnnxSoftcapAfterMask",
    "KNOWN_BUG",
    "The cap comes after the mask and turns -inf into -cap, so hidden keys get a weight.",
    (f"{_ONNX}/pull/7867", f"{_ONNX}/commit/fe30560"),
)
ONNX_STAGES = Flag(
    "OnnxStages",
    "KNOWN_BUG",
    "The intermediate scores that are handed out are numbered in the wrong order.",
    (f"{_ONNX}/pull/7913", f"{_ONNX}/commit/20ce4b4"),
)
ONNX_EXTERNAL_CACHE = Flag(
    "OnnxExternalCache",
    "KNOWN_BUG",
    "With a cache kept outside, causal is aligned to the first key instead of each sequence's own end, "
    "and composing masks multiplies 0 by -inf, which is NaN.",
    (f"{_ONNX}/pull/8068", f"{_ONNX}/commit/2816da6"),
)
LSE_BASE = Flag(
    "LseBase",
    "KNOWN_BUG",
    "A log-sum-exp to base 2 is read as a natural one, or the other way round, when partial results are merged.",
    (
        "https://github.com/flashinfer-ai/flashinfer/issues/2113",
        "https://github.com/flashinfer-ai/flashinfer/issues/4485",
        "https://github.com/flashinfer-ai/flashinfer/pull/4547",
        "https://github.com/flashinfer-ai/flashinfer/pull/4650",
        "https://github.com/vllm-project/vllm/pull/28840",
        "https://github.com/vllm-project/vllm/pull/47079",
        "https://github.com/sgl-project/sglang/pull/35045",
        "https://github.com/sgl-project/sglang/issues/40903",
        "https://github.com/pytorch/pytorch/issues/181645",
    ),
)
STATE_LAYOUT = Flag(
    "StateLayout",
    "CONVENTION",
    "The log-sum-exp is [heads, tokens] in some engines and [tokens, heads] in others; "
    "where both sizes are equal nothing complains.",
    ("https://github.com/flashinfer-ai/flashinfer/pull/5257",),
)
CACHE_SIZE = Flag(
    "CacheSize",
    "KNOWN_BUG",
    "The size of a cache is computed with hidden / heads for the head's width, with query heads for key/value heads, "
    "or as if latent rows were keys and values.",
    (
        "https://github.com/LMCache/LMCache/issues/688",
        "https://github.com/LMCache/LMCache/pull/694",
        "https://github.com/vllm-project/vllm/pull/2622",
    ),
)
ALIGNMENT = Flag(
    "CausalAlignment",
    "CONVENTION",
    "With fewer queries than keys, the last query stands at the last key (bottom right) or the first at the first "
    "(top left).",
    ("https://docs.pytorch.org/docs/stable/generated/torch.nn.attention.bias.causal_lower_right.html",),
)
WINDOW_BOUND = Flag(
    "WindowBound",
    "CONVENTION",
    "A window of W is W visible keys, self included, or W keys beside self.",
    ("https://github.com/Dao-AILab/flash-attention",),
)
EMPTY_ROW = Flag(
    "EmptyRow",
    "CONVENTION",
    "A row that sees no key is 0, NaN, or the mean of all values.",
    ("https://github.com/pytorch/pytorch/issues/41508",),
)
MASK_POLARITY = Flag("MaskPolarity", "CONVENTION", "True in a boolean mask means visible, or hidden.")
HIDDEN_NOT_FINITE = Flag(
    "HiddenNotFinite", "MASKING", "What stands behind a mask is multiplied by 0, and 0 times NaN or infinity is NaN."
)
SCORE_RANGE = Flag(
    "ScoreRange",
    "NUMERIC_RANGE",
    "Scores are exponentiated without taking their maximum off first, or overflow before.",
)
SINK_COUNT = Flag("SinkCount", "MASKING", "A sink is counted once for each block or key instead of once for each row.")
BOUNDARY = Flag("Boundary", "EDGE_CASE", "A size at which loops, tiles or dimensions begin or end.")
BAD_ARGUMENT = Flag("BadArgument", "BASIC", "Arguments that do not fit are computed with instead of refused.")
ORDER = Flag(
    "PipelineOrder",
    "CONVENTION",
    "Scale, softcap, bias and mask come in another order than scale, softcap, bias, mask.",
)
