"""transformers models end to end: kvattn computes their attention, and the logits stay what they are.

Each model is tiny, with every norm, gate, bias, sink and scale drawn at random, and runs four ways under kvattn and
under the library's own ``sdpa`` or ``eager``: whole; through its cache (a prefill, single tokens, a chunk of several);
and both again with a padded sequence beside a full one.

How close.  Everything runs in float64, what the library writes as float32 too (`in_float64`), so that ``eager`` is as
good a witness as ``sdpa``; the two runs then differ by the rounding of the attention alone.  Each call's two results
lie within twice `kvattn.testing.tolerance`'s worst case of each other, asserted to be below 1e-13 of the largest value
that is mixed.  How much of that reaches the logits is measured: attention outputs are moved by a random 1e-6 of that
value, and the logits may differ by 1e-6 of what they then move by: 1e-7 for 1e-13 in place of 1e-6, times 10 for errors
that agree in sign where the random ones do not.  That comes to 5e-12 to 4e-10; seen is 2e-13 or less, and every planted
mistake moves the logits by 1e-3 or more.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

import kvattn
from kvattn.interop import transformers as adapter
from kvattn.testing.tolerance import Arithmetic, bounds

torch = pytest.importorskip("torch", reason="runs transformers models, which need torch: kvattn[peers]")
transformers = pytest.importorskip("transformers", minversion="5.23", reason="runs its models: kvattn[peers]")

pytestmark = pytest.mark.peer

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 2}
ROUTED = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
WINDOW: dict[str, Any] = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 8}
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.5, 3.0, 4.0],
    "factor": 8.0,
    "original_max_position_embeddings": 8,
}
LATENT = {
    "head_dim": None,
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
}
GROUPS = {"n_routed_experts": 4, "n_group": 2, "topk_group": 2, "n_shared_experts": 1, "first_k_dense_replace": 1}
BY_LAYER = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 61}
CAPPED = {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 5}
TWO_SIDES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
BUCKETS = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 1,
}
GEMMA = {**SIZES, **CAPPED, "num_hidden_layers": 2, "sliding_window": 4, "layer_types": WINDOW["layer_types"][:2]}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "afmoe": (
        "sdpa",
        "sigmoid output gate, QK-norm, windows with rotation beside full layers without",
        {**WINDOW, **ROUTED, "num_experts": 2, "num_shared_experts": 1, "num_dense_layers": 1},
    ),
    "apertus": ("sdpa", "QK-norm, xIELU", {}),
    "bart": ("sdpa", "encoder and decoder, cross-attention, learned positions", TWO_SIDES),
    "cohere": ("sdpa", "adjacent rotation, parallel block, QK layer norm, logit scale", {"use_qk_norm": True}),
    "cohere2": ("sdpa", "windows with adjacent rotation, full layers without positions", WINDOW),
    "deepseek_v2": ("sdpa", "latent attention, complex rotation, Dv ≠ D", {**LATENT, **ROUTED, **GROUPS}),
    "deepseek_v3": (
        "sdpa",
        "latent attention, interleaved rotation, YaRN mscale in the scale",
        {**LATENT, **ROUTED, **GROUPS, "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7}},
    ),
    "diffllama": ("sdpa", "differential attention: two calls a layer", {}),
    "ernie4_5": ("sdpa", "adjacent rotation", {}),
    "exaone4": ("sdpa", "windows with rotation, full layers without, norms after", WINDOW),
    "gemma2": ("eager", "softcap, scale of its own, windows", {**WINDOW, **CAPPED}),
    "gemma3_text": ("sdpa", "QK-norm, two rotary bases, windows", {**WINDOW, "query_pre_attn_scalar": 5}),
    "gemma3n_text": (
        "sdpa",
        "layers that share keys and values, AltUp, LAuReL, scale 1",
        {
            **WINDOW,
            **BY_LAYER,
            "num_kv_shared_layers": 2,
            "laurel_rank": 3,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "gemma4_text": (
        "sdpa",
        "value norm, layers that share keys and values, scale 1",
        {**WINDOW, **BY_LAYER, "num_kv_shared_layers": 2, "global_head_dim": 16},
    ),
    "gemma4_text: keys are values": (
        "sdpa",
        "K = V, wider global heads, proportional rotation",
        {**WINDOW, **BY_LAYER, "attention_k_eq_v": True, "num_global_key_value_heads": 1, "global_head_dim": 16},
    ),
    "glm": ("sdpa", "adjacent rotation of half the features", {"partial_rotary_factor": 0.5}),
    "glm4": ("sdpa", "adjacent rotation of half the features, norms on both sides", {"partial_rotary_factor": 0.5}),
    "gpt2": ("sdpa", "learned positions, scale by layer", {**GPT, "scale_attn_by_inverse_layer_idx": True}),
    "gpt_bigcode": ("sdpa", "one key/value head", {**GPT, "multi_query": True}),
    "gpt_neox": (
        "sdpa",
        "half rotation of half the features, fused projections, biases",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
            "num_key_value_heads": None,
        },
    ),
    "gpt_oss": (
        "eager",
        "learned sinks, windows, YaRN without truncation, biases",
        {**WINDOW, **EXPERTS, "rope_parameters": {**YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}},
    ),
    "granite": (
        "sdpa",
        "scale, residuals, embeddings and logits by multipliers",
        {
            "attention_multiplier": 0.7,
            "embedding_multiplier": 2.0,
            "logits_scaling": 3.0,
            "residual_multiplier": 0.5,
        },
    ),
    "granite_swa": ("eager", "sinks written as a factor sigmoid(lse - sink)", {**WINDOW, "attention_multiplier": 0.7}),
    "hunyuan_v1_dense": (
        "sdpa",
        "QK-norm after rotation, NTK by alpha",
        {
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 100.0,
                "alpha": 50.0,
                "factor": 1.0,
                "mscale": 1.0,
                "beta_fast": 32,
                "beta_slow": 1,
            }
        },
    ),
    "inkling_text": (
        "sdpa",
        "position bias from projected relations, short convolutions, windows, scale 1/D",
        {
            **ROUTED,
            "layer_types": ["hybrid_sliding", "hybrid"] * 2,
            "sliding_window_size": 4,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "d_rel": 4,
            "rel_extent": 8,
            "n_routed_experts": 2,
            "n_shared_experts": 1,
            "logits_mup_width_multiplier": 1.0,
        },
    ),
    "laguna": (
        "sdpa",
        "output gate, query heads by layer",
        {
            **WINDOW,
            **ROUTED,
            "num_experts": 2,
            "shared_expert_intermediate_size": 16,
            "num_attention_heads_per_layer": [4, 6, 4, 6],
        },
    ),
    "llama": ("sdpa", "grouped heads, half rotation", {}),
    "llama: dynamic": (
        "sdpa",
        "dynamic NTK",
        {
            "max_position_embeddings": 8,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 100.0,
                "factor": 2.0,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "llama: linear": (
        "sdpa",
        "linear interpolation",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}},
    ),
    "llama: llama3": (
        "sdpa",
        "Llama-3 frequencies",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama: longrope": ("sdpa", "LongRoPE", {"rope_parameters": LONG}),
    "llama: proportional": (
        "sdpa",
        "rotation of the first frequencies only",
        {"rope_parameters": {"rope_type": "proportional", "rope_theta": 100.0, "partial_rotary_factor": 0.5}},
    ),
    "llama: yarn": (
        "sdpa",
        "YaRN with both mscales",
        {"rope_parameters": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.5}},
    ),
    "llama4_text": (
        "sdpa",
        "chunks, temperature on layers without positions, L2 QK-norm",
        {
            **EXPERTS,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": 4,
            "no_rope_layers": [1, 0, 1, 0],
            "floor_scale": 2,
            "attn_scale": 0.5,
            "use_qk_norm": True,
            "interleave_moe_layer_step": 2,
            "rope_parameters": PLAIN,
        },
    ),
    "mimo_v2_flash": (
        "eager",
        "sinks in window layers, Dv ≠ D, partial rotation",
        {**WINDOW, **ROUTED, "n_routed_experts": 2, "v_head_dim": 6, "mlp_layer_types": ["dense", "sparse"] * 2},
    ),
    "minicpm3": ("sdpa", "latent attention, scaled residuals", LATENT),
    "minimax_m2": ("sdpa", "QK-norm over all heads, partial rotation", {**EXPERTS, "rotary_dim": 4}),
    "ministral3": (
        "sdpa",
        "temperature by position, YaRN",
        {"rope_parameters": {**YARN, "llama_4_scaling_beta": 0.3}, "sliding_window": 4},
    ),
    "mistral": ("sdpa", "a window in every layer", {"sliding_window": 4}),
    "mixtral": ("sdpa", "a window in every layer, experts", {**EXPERTS, "sliding_window": 4}),
    "nemotron": ("sdpa", "partial rotation, layer norms of weight 1 + w", {}),
    "olmo2": ("sdpa", "QK-norm over all heads, norms after", {}),
    "olmo3": (
        "sdpa",
        "windows, YaRN on full layers",
        {**WINDOW, "rope_parameters": {"full_attention": YARN, "sliding_attention": PLAIN}},
    ),
    "opt": (
        "sdpa",
        "learned positions from 2, norms after",
        {"ffn_dim": 48, "do_layer_norm_before": False, "word_embed_proj_dim": 32},
    ),
    "persimmon": ("sdpa", "QK layer norm, partial rotation", {"qk_layernorm": True, "num_key_value_heads": None}),
    "phi": (
        "sdpa",
        "QK layer norm, partial rotation, parallel block",
        {"qk_layernorm": True, "partial_rotary_factor": 0.5},
    ),
    "phi3": (
        "sdpa",
        "LongRoPE, a window, fused projections",
        {"original_max_position_embeddings": 8, "rope_parameters": LONG, "sliding_window": 8},
    ),
    "qwen2": (
        "sdpa",
        "windows from the third layer on",
        {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4},
    ),
    "qwen3": (
        "sdpa",
        "QK-norm by head, windows",
        {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4},
    ),
    "smollm3": ("sdpa", "no rotation in every second layer", {"no_rope_layers": [1, 0, 1, 0]}),
    "stablelm": (
        "sdpa",
        "QK layer norm by head, partial rotation",
        {"qk_layernorm": True, "partial_rotary_factor": 0.25},
    ),
    "starcoder2": ("sdpa", "a window in every layer, biases", {"sliding_window": 4}),
    "t5": ("sdpa", "bucketed position bias, no scale, cross-attention", BUCKETS),
    "t5gemma": (
        "eager",
        "softcap, windows, grouped cross-attention",
        {"encoder": GEMMA, "decoder": {**GEMMA, "cross_attention_hidden_size": 32}},
    ),
    "umt5": ("sdpa", "bucketed position bias in every layer", BUCKETS),
    "vaultgemma": ("eager", "softcap, windows", {**WINDOW, **CAPPED}),
    "whisper": (
        "sdpa",
        "audio encoder, cross-attention",
        {**TWO_SIDES, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32},
    ),
}
"""Type (and what is special): the library's own function that it is compared with, what it exercises, its options."""

SCALED = {
    *("gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4_text: keys are values", "gpt2", "granite"),
    *("granite_swa", "inkling_text", "opt", "t5", "t5gemma", "umt5", "vaultgemma", "whisper", "deepseek_v3"),
}
"""The scale is not 1/sqrt(D): a number of the model's own, or queries that are scaled already."""

LATENTS = {"deepseek_v2", "deepseek_v3"}

CALLS = {"bart": 6, "diffllama": 8, "t5": 6, "t5gemma": 6, "umt5": 6, "whisper": 6}
"""Attention calls of one forward pass, where they are not 4."""

LENGTH_DEPENDENT = {"llama: dynamic", "llama: longrope", "phi3"}
"""Frequencies change when a sequence outgrows the trained length; keys cached before that keep the old ones."""

WINDOWED = {
    *("afmoe", "cohere2", "exaone4", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text"),
    *("gemma4_text: keys are values", "gpt_oss", "granite_swa", "inkling_text", "laguna", "llama4_text"),
    *(
        "mimo_v2_flash",
        "ministral3",
        "mistral",
        "mixtral",
        "olmo3",
        "phi3",
        "qwen2",
        "qwen3",
        "starcoder2",
        "t5gemma",
        "vaultgemma",
    ),
}
"""Some layer shows fewer keys than came before."""

WAYS = ("whole", "cached", "padded", "padded and cached")
CUTS = (5, 1, 1, 4)


@contextmanager
def in_float64() -> Iterator[None]:
    """Where transformers writes ``torch.float32`` or ``.float()``, float64 is meant."""
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


def draw_everything(model: Any) -> None:
    """Weights of unit gain; what starts as zeros, ones or nothing at all (norms, gates, biases, sinks, scales) too."""
    generator = torch.Generator().manual_seed(0)
    fixed = ("inv_freq", "embed_scale", "embed_pos", "embed_positions")
    buffers = [(n, b) for n, b in model.named_buffers() if b.is_floating_point() and not any(f in n for f in fixed)]
    for name, weight in [*model.named_parameters(), *buffers]:
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if weight.dim() < 2 or min(weight.shape) == 1:
            drawn = 0.3 * drawn + float(bool((weight == 1).all()))
        elif "embed" not in name:
            drawn *= 1.5 / weight.shape[-1] ** 0.5
        weight.data.copy_(drawn)


class Tiny(NamedTuple):
    """A model, its logits under its own attention, and how far other logits may stand from them."""

    name: str
    model: Any
    expected: dict[str, Any]
    allowed: list[float]

    def under(self, implementation: str, way: str) -> Any:
        """Logits of the real tokens, ``[tokens, vocabulary]``, each way of running it."""
        self.model.set_attn_implementation(implementation)
        padded, cached = "padded" in way, "cached" in way
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randint(3, 61, (2, sum(CUTS)), generator=generator)
        mask = torch.ones_like(tokens)
        mask[1, :3] = 1 - padded
        cuts = CUTS if cached else (sum(CUTS),)
        with in_float64():
            logits = torch.cat(list(self.pieces(tokens, mask if padded else None, cuts, cached)), dim=1)
        assert logits.dtype == torch.float64
        return logits[mask.bool()]

    def pieces(self, tokens: Any, mask: Any, cuts: tuple[int, ...], cached: bool) -> Iterator[Any]:
        """Logits piece by piece."""
        config, two = self.model.config, self.model.config.is_encoder_decoder
        cache: Any = None
        options: dict[str, Any] = {}
        prefix = "decoder_" if two else ""
        if two:
            generator = torch.Generator().manual_seed(2)
            if config.model_type == "whisper":
                source = {"input_features": torch.randn((2, 8, 32), generator=generator, dtype=torch.float64)}
            else:
                source = {"input_ids": torch.randint(3, 61, (2, 7), generator=generator)}
                if mask is not None:
                    source["attention_mask"] = torch.ones_like(source["input_ids"])
                    source["attention_mask"][1, 5:] = 0
                    options["attention_mask"] = source["attention_mask"]
            options["encoder_outputs"] = self.model.get_encoder()(**source)
        if cached:
            cache = transformers.DynamicCache(config=config.get_text_config(decoder=True))
            if two:
                cache = transformers.EncoderDecoderCache(cache, transformers.DynamicCache())
        at = 0
        for count in cuts:
            if mask is not None:
                options[f"{prefix}attention_mask"] = mask[:, : at + count]
            now = {f"{prefix}input_ids": tokens[:, at : at + count]}
            yield self.model(**now, past_key_values=cache, use_cache=cached, **options).logits
            at += count


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    before, level = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    adapter.register()
    yield
    torch.set_num_threads(before)
    transformers.logging.set_verbosity(level)


@pytest.fixture(scope="module", params=MODELS)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    name = str(request.param)
    model_type = name.partition(":")[0]
    reference, _, options = MODELS[name]
    common = {n: SIZES[n] for n in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}
    whole = common if {"d_model", "encoder"} & options.keys() else SIZES
    given = {n: x for n, x in {**whole, **options}.items() if x is not None or n == "forced_eos_token_id"}
    config = transformers.AutoConfig.for_model(model_type, **given)
    one = config.is_encoder_decoder
    kind: Any = transformers.AutoModelForSeq2SeqLM if one else transformers.AutoModelForCausalLM
    kind = transformers.WhisperForConditionalGeneration._from_config if model_type == "whisper" else kind.from_config
    # the experts' default product takes float32 only
    model = kind(config, attn_implementation=reference, experts_implementation="eager").eval().double()
    draw_everything(model)
    made = Tiny(name, model, {}, [])
    made.expected.update({way: made.under(reference, way) for way in WAYS})
    made.allowed.append(1e-6 * moved_by(made, 1e-6))
    return made


def rounding(calls: list[tuple[Any, ...]]) -> Any:
    """Twice the worst case of each call, in units of the largest value that it mixes."""
    double = Arithmetic("float64")
    for q, k, v, words in calls:
        options = {
            n: np.asarray(words[n].detach() if n == "sinks" else words[n])
            for n in ("bias", "sinks")
            if words[n] is not None
        }
        worst = bounds(
            *(np.asarray(x) for x in (q, k, v)),
            arithmetic=double,
            scale=words["scale"],
            softcap=words["softcap"],
            visible=words["mask"],
            **options,
        ).worst
        yield float(2 * worst.max() / np.abs(np.asarray(v)).max())


def moved_by(tiny: Tiny, size: float) -> float:
    """How far the logits move when every attention output is moved at random, relative to its largest value."""
    generator = torch.Generator().manual_seed(3)

    def nudged(module: Any, q: Any, k: Any, v: Any, *args: Any, **options: Any) -> Any:
        out, _ = adapter.attention_forward(module, q, k, v, *args, **options)
        random = torch.rand(out.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return out + size * v.abs().max() * random, None

    implementation = planted("nudged", nudged)
    return float((tiny.under(implementation, "whole") - tiny.expected["whole"]).abs().max())


def planted(name: str, forward: Callable[..., Any]) -> str:
    """Register another function beside ours, with our mask."""
    masks = transformers.masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    transformers.AttentionInterface.register(name, forward)
    transformers.AttentionMaskInterface.register(name, masks["kvattn"])
    return name


@pytest.mark.peer("interop/transformers", "transformers: every model type of MODELS", "1e-10: rounding, as it grows")
def test_logits_agree_whole_cached_and_padded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def noted(q: Any, k: Any, v: Any, *, dtype: Any, **words: Any) -> Any:
        calls.append((q, k, v, words))
        return kvattn.attend(q, k, v, dtype=dtype, **words)

    bound = tiny.allowed[0]
    assert bound < 1e-9
    monkeypatch.setattr("kvattn.interop.transformers.attend", noted)
    for way in WAYS:
        calls.clear()
        error = float((tiny.under("kvattn", way) - tiny.expected[way]).abs().max())
        assert error <= bound, way
        passes = len(CUTS) if "cached" in way else 1
        encoder = 2 * (1 - passes) if tiny.model.config.is_encoder_decoder else 0  # it runs once
        assert len(calls) == CALLS.get(tiny.name, 4) * passes + encoder
        assert max(rounding(calls)) < 1e-13


def test_no_weight_is_left_at_zeros_or_ones(tiny: Tiny) -> None:
    constant = [n for n, weight in tiny.model.named_parameters() if weight.numel() > 1 and weight.unique().numel() < 2]
    assert constant == []


def test_float64_goes_all_the_way(tiny: Tiny) -> None:
    """Five digits less in the attention move the logits by five digits less, far below float32."""
    assert moved_by(tiny, 1e-11) == pytest.approx(1e-5 * (tiny.allowed[0] / 1e-6), rel=0.05)


def test_cached_is_recomputed_but_where_frequencies_change_with_length(tiny: Tiny) -> None:
    """Under kvattn and under the library alike."""
    for logits in (lambda way: tiny.under("kvattn", way), tiny.expected.__getitem__):
        for whole, cached in (WAYS[:2], WAYS[2:]):
            apart = float((logits(whole) - logits(cached)).abs().max())
            assert (apart > 1e-3) == (tiny.name in LENGTH_DEPENDENT)
            assert apart > 1e-3 or apart <= tiny.allowed[0]


def heads_tiled(k: Any, v: Any, mask: Any, words: dict[str, Any], heads: int) -> Any:
    """Query head h reads head h % Hkv."""
    k, v = (x.repeat(1, heads // x.shape[1], 1, 1) for x in (k, v))
    return k, v, mask, words


def left_out(keyword: str) -> Any:
    return lambda k, v, mask, words, _: (k, v, mask, {**words, keyword: None})


def older_key(k: Any, v: Any, mask: Any, words: dict[str, Any], _: int) -> Any:
    """A window of W shows W + 1 keys."""
    mask = mask.clone()
    mask[..., :-1] |= mask[..., 1:].clone()
    return k, v, mask, words


def next_key(k: Any, v: Any, mask: Any, words: dict[str, Any], _: int) -> Any:
    """The diagonal is one too far to the right."""
    if mask is not None:
        mask = mask.clone()
        mask[..., 1:] |= mask[..., :-1].clone()
    return k, v, mask, words


def top_left(k: Any, v: Any, mask: Any, words: dict[str, Any], _: int) -> Any:
    """With a past, the first query sees the first key only."""
    if mask is not None and mask.shape[2] < mask.shape[3]:
        mask = torch.ones_like(mask).tril()
    return k, v, mask, words


def first_sequence(k: Any, v: Any, mask: Any, words: dict[str, Any], _: int) -> Any:
    """Everybody is padded like the first sequence."""
    return k, v, mask if mask is None else mask[:1].expand_as(mask), words


ONE_HEAD_EACH = {"gpt2", "gpt_neox", "minicpm3", "opt", "persimmon", "phi", *CALLS, *LATENTS} - {"diffllama", "t5gemma"}
"""As many key/value heads as query heads."""

MISTAKES: dict[str, tuple[str, Any, set[str]]] = {
    "query head h reads head h % Hkv": ("whole", heads_tiled, set(MODELS) - ONE_HEAD_EACH - {"gpt_bigcode"}),
    "softcap left out": ("whole", left_out("softcap"), {"gemma2", "t5gemma", "vaultgemma"}),
    "s_aux left out": ("whole", left_out("s_aux"), {"gpt_oss", "granite_swa", "mimo_v2_flash"}),
    "position_bias left out": ("whole", left_out("position_bias"), {"inkling_text", "t5", "umt5"}),
    "scaling left out": ("whole", left_out("scaling"), SCALED),
    "a window shows W + 1 keys": ("whole", older_key, WINDOWED),
    "the next key is seen": ("whole", next_key, set(MODELS)),
    "the causal corner is top left": ("cached", top_left, set(MODELS)),
    "padding is not looked at": ("padded", first_sequence, set(MODELS)),
}
"""What is done wrong, where it shows, how, and the models that can get it wrong."""


def test_planted_mistakes_are_noticed(tiny: Tiny) -> None:
    missed = []
    for mistake, (way, change, models) in MISTAKES.items():

        def wrong(m: Any, q: Any, k: Any, v: Any, attention_mask: Any, _change: Any = change, **words: Any) -> Any:
            k, v, attention_mask, words = _change(k, v, attention_mask, words, q.shape[1])
            return adapter.attention_forward(m, q, k, v, attention_mask, **words)

        if tiny.name in models:
            moved = float((tiny.under(planted("wrong", wrong), way) - tiny.expected[way]).abs().max())
            missed += [(mistake, moved)] if moved < 1e-3 else []
    assert not missed
