"""Attention modules of transformers whose heads are normed, gated, paired or shared, with all weights drawn at random.

transformers computes norms, softmax and rotations in float32 whatever it is given; for these tests float and float32
mean float64, so that both sides compute in float64 and differ by roundings only: a few hundred of 1.1e-16 on numbers
of size 1, below the 1e-13 allowed.  Masks, cosines and sines are ours.
"""

from collections.abc import Iterator
import math
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Causal, Chunked, Window
from kvattn.mods import Bias
from kvattn.positions import Rotary
from kvattn.positions.temperature import Stepped, Temperature
from kvattn.testing.laws import stepped
from kvattn.variants.compressed.tied import SharedProjection, SharedRow, TurnBack, tied
from kvattn.variants.dense.cosine import Cosine
from kvattn.variants.dense.differential import Differential, from_halves, initial, learned
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import Layers
from kvattn.variants.dense.memory_rows import MemoryRows
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.output_gate import SigmoidGate, SoftplusGate, parted
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import FullRmsNorm, HeadLayerNorm, HeadRmsNorm
from kvattn.variants.dense.value_residual import ValueResidual

torch = pytest.importorskip("torch", reason="heads: transformers runs on torch")
pytest.importorskip(
    "transformers", minversion="5.23", reason="heads: needs transformers, which the peers extra installs"
)

BATCH, T, M, HEADS, KV_HEADS, D = 2, 7, 12, 4, 2, 6
EPS = 0.125
"""Large, so that a misplaced ε shows."""

SIZES = {
    "hidden_size": M,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": D,
    "num_hidden_layers": 2,
    "rms_norm_eps": EPS,
    "attn_implementation": "eager",
}
TURN = Rotary.of(D)


@pytest.fixture(autouse=True)
def _float32_is_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def held(layer: Any) -> dict[str, Any]:
    """Fill a layer with random weights, and return them, matrices turned to ``[in, out]``."""
    generator = np.random.default_rng(1)
    found = {}
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            drawn = generator.standard_normal(tuple(parameter.shape))
            matrix = name.endswith("_proj.weight")
            drawn = drawn / math.sqrt(drawn.shape[1]) if matrix else 1 + drawn * 0.3
            parameter.copy_(torch.from_numpy(drawn))
            found[name] = drawn.T if matrix else drawn
    return found


def projections(theirs: dict[str, Any]) -> Projections:
    query, key, value, output = (theirs[f"{name}_proj.weight"] for name in "qkvo")
    return Projections(query, key, value, output, HEADS, KV_HEADS)


def hidden() -> Any:
    return np.random.default_rng(0).standard_normal((BATCH, T, M))


def angles(rotation: Rotary, layout: str = "half") -> tuple[Any, Any]:
    """Cosines and sines ``[1, T, D]`` as transformers hands them to a layer."""
    turned = np.arange(T)[:, None] * np.array(rotation.frequencies)
    whole = np.concatenate([turned] * 2, axis=-1) if layout == "half" else turned.repeat(2, axis=-1)
    return torch.from_numpy(np.cos(whole))[None], torch.from_numpy(np.sin(whole))[None]


def causal() -> Any:
    seen = np.tril(np.ones((T, T), bool))
    return torch.from_numpy(np.where(seen, 0.0, -np.inf))[None, None].expand(BATCH, 1, -1, -1)


def output_of(layer: Any, x: Any, turned: Any, **others: Any) -> Any:
    layer.eval()
    with torch.no_grad():
        result = layer(torch.from_numpy(x), position_embeddings=turned, attention_mask=causal(), **others)
    return result[0].numpy()


def agrees(ours: Any, wanted: Any, but_not: Any) -> None:
    """Both verbs within 1e-13, and a layer that differs in the point of the test farther than 1e-3."""
    x = hidden()
    np.testing.assert_allclose(stepped(ours, x, (4, 5))[0].out, wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours.definition(x, np.arange(T)).out, wanted, rtol=0, atol=1e-13)
    assert np.abs(but_not.definition(x, np.arange(T)).out - wanted).max() > 1e-3


ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


@pytest.mark.peer("variants/dense/query_key_norm", "transformers Qwen3Attention", "1e-13: float64 throughout")
def test_qwen3() -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Config

    layer = Qwen3Attention(Qwen3Config(**SIZES, **ROPE), 0)
    theirs = held(layer)
    norm = HeadRmsNorm(theirs["q_norm.weight"], theirs["k_norm.weight"], EPS)
    w = projections(theirs)
    wanted = output_of(layer, hidden(), angles(TURN))
    agrees(Grouped(w, query_key=(norm, TURN)), wanted, Grouped(w, query_key=(TURN, norm)))


@pytest.mark.peer("variants/dense/query_key_norm", "transformers Gemma3Attention", "1e-13: float64 throughout")
def test_gemma3() -> None:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3Attention, Gemma3TextConfig

    config = Gemma3TextConfig(**SIZES, query_pre_attn_scalar=5, layer_types=["full_attention"] * 2)
    layer = Gemma3Attention(config, 0)
    theirs = held(layer)
    stored = theirs["q_norm.weight"], theirs["k_norm.weight"], EPS
    w = projections(theirs)
    wanted = output_of(layer, hidden(), angles(TURN))
    ours = Grouped(w, query_key=(HeadRmsNorm.zero_centred(*stored), TURN), scale=5**-0.5)
    agrees(ours, wanted, Grouped(w, query_key=(HeadRmsNorm(*stored), TURN), scale=5**-0.5))


@pytest.mark.peer("variants/dense/query_key_norm", "transformers Olmo2Attention", "1e-13: float64 throughout")
def test_olmo2() -> None:
    from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2Config

    layer = Olmo2Attention(Olmo2Config(**SIZES, **ROPE), 0)
    theirs = held(layer)
    query, key = theirs["q_norm.weight"], theirs["k_norm.weight"]
    w = projections(theirs)
    wanted = output_of(layer, hidden(), angles(TURN))
    each = HeadRmsNorm(query.reshape(HEADS, D), key.reshape(KV_HEADS, D), EPS)
    agrees(Grouped(w, query_key=(FullRmsNorm(query, key, EPS), TURN)), wanted, Grouped(w, query_key=(each, TURN)))


@pytest.mark.peer("variants/dense/query_key_norm", "transformers CohereAttention", "1e-13: float64 throughout")
def test_cohere() -> None:
    from transformers.models.cohere.modeling_cohere import CohereAttention, CohereConfig

    sizes = {name: value for name, value in SIZES.items() if name != "rms_norm_eps"}
    layer = CohereAttention(CohereConfig(**sizes, **ROPE, use_qk_norm=True, layer_norm_eps=EPS), 0)
    theirs = held(layer)
    query, key = theirs["q_norm.weight"], theirs["k_norm.weight"]
    w = projections(theirs)
    turn = Rotary.of(D, layout="adjacent")
    wanted = output_of(layer, hidden(), angles(turn, "adjacent"))
    ours = Grouped(w, query_key=(HeadLayerNorm(query, key, eps=EPS), turn))
    agrees(ours, wanted, Grouped(w, query_key=(HeadRmsNorm(query, key, EPS), turn)))


@pytest.mark.peer("variants/dense/query_key_norm", "transformers HunYuanDenseV1Attention", "1e-13: float64 throughout")
def test_hunyuan() -> None:
    from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import (
        HunYuanDenseV1Attention,
        HunYuanDenseV1Config,
    )

    layer = HunYuanDenseV1Attention(HunYuanDenseV1Config(**SIZES, **ROPE), 0)
    theirs = held(layer)
    norm = HeadRmsNorm(theirs["query_layernorm.weight"], theirs["key_layernorm.weight"], EPS)
    w = projections(theirs)
    wanted = output_of(layer, hidden(), angles(TURN))
    agrees(Grouped(w, query_key=(TURN, norm)), wanted, Grouped(w, query_key=(norm, TURN)))


@pytest.mark.peer("variants/dense/query_key_norm", "transformers Llama4TextAttention", "1e-13: float64 throughout")
def test_llama4() -> None:
    from transformers.models.llama4.modeling_llama4 import Llama4TextAttention, Llama4TextConfig

    layer = Llama4TextAttention(Llama4TextConfig(**SIZES, use_qk_norm=True, no_rope_layers=[1, 1]), 0)
    w = projections(held(layer))
    turn = Rotary.of(D, layout="adjacent")
    turned = np.exp(1j * np.arange(T)[:, None] * np.array(turn.frequencies))
    wanted = output_of(layer, hidden(), torch.from_numpy(turned)[None])
    unit = HeadRmsNorm(np.full(D, D**-0.5), np.full(D, D**-0.5), EPS)  # length 1, as the name would have it
    agrees(Grouped(w, query_key=(turn, HeadRmsNorm(eps=EPS))), wanted, Grouped(w, query_key=(turn, unit)))


@pytest.mark.peer("variants/dense/cosine", "transformers Swinv2SelfAttention", "1e-13: float64 throughout")
def test_swinv2() -> None:
    """A window of 2 by 4 patches, seen from everywhere; no output projection; one temperature is above the bound."""
    from transformers.models.swinv2.modeling_swinv2 import Swinv2Config, Swinv2SelfAttention

    layer = Swinv2SelfAttention(Swinv2Config(qkv_bias=False), HEADS * D, HEADS, (2, 4)).double().eval()
    theirs = held(layer)
    stored = np.array([0.5, 1.0, 6.0, -1.0])
    with torch.no_grad():
        layer.logit_scale.copy_(torch.from_numpy(stored)[:, None, None])
        table = layer.continuous_position_bias_mlp(layer.relative_coords_table.double()).view(-1, HEADS)
        bias = (16 * torch.sigmoid(table[layer.relative_position_index])).permute(2, 0, 1).numpy()
        x = np.random.default_rng(0).standard_normal((BATCH, 8, HEADS * D))
        wanted = layer(torch.from_numpy(x))[0].numpy()
    query, key, value = (theirs[f"{name}.weight"].T for name in ("query", "key", "value"))
    w = Projections(query, key, value, np.eye(HEADS * D), HEADS, HEADS)
    ours = Grouped(w, None, (Cosine.learned(stored),), mods=(Bias(bias[None]),), scale=1.0)
    for found in (ours.definition(x, np.arange(8)).out, ours.step(ours.start(BATCH), x)[0].out):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)
    free = Grouped(w, None, (Cosine(np.exp(stored)),), mods=(Bias(bias[None]),), scale=1.0)
    assert np.abs(free.definition(x, np.arange(8)).out - wanted).max() > 1e-3


def x_transformers_layer(**options: Any) -> tuple[Any, Projections]:
    """A causal attention of x-transformers with random weights; all heads have keys, else h would read h % Hkv."""
    x_transformers = pytest.importorskip("x_transformers", reason="heads: the peers extra installs x-transformers")
    layer = x_transformers.Attention(M, dim_head=D, heads=HEADS, causal=True, **options).double().eval()
    generator = np.random.default_rng(1)
    found = []
    with torch.no_grad():
        for name in ("to_q", "to_k", "to_v", "to_out"):
            matrix = generator.standard_normal(tuple(getattr(layer, name).weight.shape)) / math.sqrt(M)
            getattr(layer, name).weight.copy_(torch.from_numpy(matrix))
            found.append(matrix.T)
    query, key, value, output = found
    return layer, Projections(query, key, value, output, HEADS, HEADS)


@pytest.mark.peer("variants/dense/cosine", "x-transformers attn_qk_norm", "1e-13: float64 throughout")
def test_x_transformers_qk_norm() -> None:
    layer, w = x_transformers_layer(qk_norm=True, qk_norm_scale=10)
    with torch.no_grad():
        wanted = layer(torch.from_numpy(hidden())).numpy()
    ours = Grouped(w, query_key=(Cosine(),), scale=10.0)
    agrees(ours, wanted, Grouped(w, query_key=(Cosine(),)))


@pytest.mark.peer("variants/dense/memory_rows", "x-transformers num_mem_kv", "1e-13: float64 throughout")
def test_x_transformers_memory_rows() -> None:
    layer, w = x_transformers_layer(num_mem_kv=3)
    with torch.no_grad():
        wanted = layer(torch.from_numpy(hidden())).numpy()
    ours = MemoryRows(w, layer.mem_k.detach().numpy(), layer.mem_v.detach().numpy())
    agrees(ours, wanted, Grouped(w))


@pytest.mark.peer("variants/dense/output_gate", "transformers Qwen3NextAttention", "1e-13: float64 throughout")
def test_qwen3_next() -> None:
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention, Qwen3NextConfig

    layer = Qwen3NextAttention(Qwen3NextConfig(**SIZES, **ROPE), 0)
    theirs = held(layer)
    query, gate = parted(theirs["q_proj.weight"], HEADS)
    norm = HeadRmsNorm.zero_centred(theirs["q_norm.weight"], theirs["k_norm.weight"], EPS)
    w = projections(theirs | {"q_proj.weight": query})
    wanted = output_of(layer, hidden(), angles(TURN))
    halves = projections(theirs | {"q_proj.weight": theirs["q_proj.weight"][:, : HEADS * D]})
    other = SigmoidGate(theirs["q_proj.weight"][:, HEADS * D :])
    agrees(
        Grouped(w, query_key=(norm, TURN), finish=(SigmoidGate(gate),)),
        wanted,
        Grouped(halves, query_key=(norm, TURN), finish=(other,)),
    )


@pytest.mark.peer("variants/dense/output_gate", "transformers AfmoeAttention", "1e-13: float64 throughout")
def test_afmoe() -> None:
    from transformers.models.afmoe.modeling_afmoe import AfmoeAttention, AfmoeConfig

    config = AfmoeConfig(**SIZES, **ROPE, layer_types=["full_attention", "sliding_attention"])
    layer = AfmoeAttention(config, 0)  # a global layer: not turned
    theirs = held(layer)
    norm = HeadRmsNorm(theirs["q_norm.weight"], theirs["k_norm.weight"], EPS)
    w, weight = projections(theirs), theirs["gate_proj.weight"]
    wanted = output_of(layer, hidden(), angles(TURN))
    ours = Grouped(w, query_key=(norm,), finish=(SigmoidGate(weight),))
    agrees(ours, wanted, Grouped(w, query_key=(norm, TURN), finish=(SigmoidGate(weight),)))


@pytest.mark.peer("variants/dense/output_gate", "transformers LagunaAttention", "1e-13: float64 throughout")
@pytest.mark.parametrize("gating", ["per-head", "per-element"])
def test_laguna(gating: str) -> None:
    from transformers.models.laguna.modeling_laguna import LagunaAttention, LagunaConfig

    layer = LagunaAttention(LagunaConfig(**SIZES, gating=gating), 0, HEADS)
    theirs = held(layer)
    norm = HeadRmsNorm(theirs["q_norm.weight"], theirs["k_norm.weight"], EPS)
    w, weight = projections(theirs), theirs["g_proj.weight"]
    assert weight.shape == (M, HEADS if gating == "per-head" else HEADS * D)
    wanted = output_of(layer, hidden(), angles(TURN))
    ours = Grouped(w, query_key=(norm, TURN), finish=(SoftplusGate(weight),))
    agrees(ours, wanted, Grouped(w, query_key=(norm, TURN), finish=(SigmoidGate(weight),)))


@pytest.mark.peer("variants/dense/differential", "transformers DiffLlamaAttention", "1e-13: float64 throughout")
def test_diffllama() -> None:
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention, DiffLlamaConfig

    heads, kv_heads, depth = 8, 4, 3
    sizes = SIZES | {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": 16}
    layer = DiffLlamaAttention(DiffLlamaConfig(**sizes, **ROPE), depth)
    theirs = held(layer)
    a_1, b_1, a_2, b_2 = (0.2 * theirs[f"lambda_{name}"] for name in ("q1", "k1", "q2", "k2"))
    with torch.no_grad():
        for name, vector in zip(("q1", "k1", "q2", "k2"), (a_1, b_1, a_2, b_2), strict=True):
            getattr(layer, f"lambda_{name}").copy_(torch.from_numpy(vector))
    query, key, value, output = (theirs[f"{name}_proj.weight"] for name in "qkvo")
    w = Projections(query, key, value, output, heads, kv_heads)
    x = np.random.default_rng(0).standard_normal((BATCH, T, 16))
    wanted = output_of(layer, x, angles(TURN))
    start = initial(depth)
    ours = Differential(from_halves(w), learned(a_1, b_1, a_2, b_2, start), start, eps=EPS, query_key=(TURN,))
    np.testing.assert_allclose(stepped(ours, x, (4, 5))[0].out, wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours.definition(x, np.arange(T)).out, wanted, rtol=0, atol=1e-13)
    side_by_side = Differential(w, ours.weight, start, eps=EPS, query_key=(TURN,))
    assert np.abs(side_by_side.definition(x, np.arange(T)).out - wanted).max() > 1e-3


@pytest.mark.peer(
    "variants/compressed/tied: projection", "transformers Gemma4TextAttention", "1e-13: float64 throughout"
)
def test_gemma4_shared_projection() -> None:
    from transformers.models.gemma4.modeling_gemma4 import Gemma4TextAttention, Gemma4TextConfig

    config = Gemma4TextConfig(
        **SIZES,
        attention_k_eq_v=True,
        global_head_dim=D,
        num_global_key_value_heads=KV_HEADS,
        layer_types=["sliding_attention", "full_attention"],
        num_kv_shared_layers=0,
    )
    layer = Gemma4TextAttention(config, 1)
    theirs = held(layer)
    assert layer.v_proj is None
    query, key, output = (theirs[f"{name}_proj.weight"] for name in "qko")
    norm = HeadRmsNorm(theirs["q_norm.weight"], theirs["k_norm.weight"], EPS)
    wanted = output_of(layer, hidden(), angles(TURN), shared_kv_states={})
    w = tied(query, key, output, HEADS, KV_HEADS)
    ours = SharedProjection(w, norm, rotation=TURN, scale=1.0)
    agrees(ours, wanted, SharedRow(w, query_key=(norm, TURN), scale=1.0))


@pytest.mark.peer("variants/compressed/tied: row", "transformers DeepseekV4Attention", "1e-13: float64 throughout")
def test_deepseek_v4_shared_row() -> None:
    """Without ε the low-rank query path is a matrix: each query's norm takes the path's own norm away."""
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Attention, DeepseekV4Config

    rope, rank, groups, group_rank = 4, 5, 2, 3
    sizes = SIZES | {"num_key_value_heads": 1, "rms_norm_eps": 0.0}
    config = DeepseekV4Config(
        **sizes,
        q_lora_rank=rank,
        o_lora_rank=group_rank,
        o_groups=groups,
        layer_types=["sliding_attention"] * 2,
        sliding_window=64,
    )
    layer = DeepseekV4Attention(config, 0)
    theirs = held(layer)
    down, up = theirs["q_a_proj.weight"] * theirs["q_a_norm.weight"], theirs["q_b_proj.weight"]
    parts = theirs["o_a_proj.weight"].T.reshape(groups, group_rank, -1)
    inner = np.zeros((HEADS * D, groups * group_rank))
    for n, part in enumerate(parts):
        rows = slice(n * part.shape[1], (n + 1) * part.shape[1])
        inner[rows, n * group_rank : (n + 1) * group_rank] = part.T
    w = tied(down @ up, theirs["kv_proj.weight"], inner @ theirs["o_b_proj.weight"], HEADS, 1)
    turn = Rotary.of(rope, layout="adjacent", start=-rope)
    turned = np.arange(T)[:, None] * np.array(turn.frequencies)
    halves = torch.from_numpy(np.cos(turned))[None], torch.from_numpy(np.sin(turned))[None]
    wanted = output_of(layer, hidden(), {"main": halves}, position_ids=torch.arange(T)[None])
    norm = HeadRmsNorm(None, theirs["kv_norm.weight"], 0.0)
    ours = SharedRow(w, query_key=(norm, turn), finish=(TurnBack(turn),), sinks=theirs["sinks"])
    agrees(ours, wanted, SharedRow(w, query_key=(norm, turn), sinks=theirs["sinks"]))


@pytest.mark.peer("variants/dense/merged", "transformers T5Gemma2MergedAttention", "1e-13: float64 throughout")
@pytest.mark.parametrize("window", [None, 3])
def test_t5gemma2(window: int | None) -> None:
    from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2MergedAttention, T5Gemma2TextConfig

    source, lengths = 5, (5, 3)
    config = T5Gemma2TextConfig(**SIZES, query_pre_attn_scalar=5, layer_types=["full_attention"] * 2)
    layer = T5Gemma2MergedAttention(config, 0).eval()
    theirs = held(layer)
    norm = HeadRmsNorm.zero_centred(theirs["q_norm.weight"], theirs["k_norm.weight"], EPS)
    memory, x = np.random.default_rng(3).standard_normal((BATCH, source, M)), hidden()
    near = np.arange(T)[:, None] - np.arange(T)[None]
    own = (near >= 0) & (near < (window or T))
    real = np.arange(source)[None] < np.array(lengths)[:, None]
    seen = np.concatenate([np.tile(own, (BATCH, 1, 1)), np.repeat(real[:, None], T, axis=1)], axis=2)
    with torch.no_grad():
        found = layer(
            torch.from_numpy(x),
            position_embeddings=angles(TURN),
            merged_attention_mask=torch.from_numpy(np.where(seen, 0.0, -np.inf))[:, None],
            encoder_hidden_states=torch.from_numpy(memory),
        )
    mask = Causal() if window is None else Window(window)
    said: dict[str, Any] = {"mask": mask, "memory_lengths": lengths, "query_key": (norm, TURN), "scale": 5**-0.5}
    ours = Merged(projections(theirs), memory, memory_key=(norm,), **said)
    agrees(ours, found[0].numpy(), Merged(projections(theirs), memory, memory_key=(norm, TURN), **said))


def attention_of(model: Any) -> tuple[list[dict[str, Any]], Any]:
    """Attention weights of each layer and the norms in front; feed-forward parts give nothing, and no norm ends."""
    theirs = [held(layer) for layer in model.layers]
    with torch.no_grad():
        for layer in model.layers:
            getattr(layer, "mlp" if hasattr(layer, "mlp") else "feed_forward").down_proj.weight.zero_()
    model.norm = torch.nn.Identity()
    named = [{name.removeprefix("self_attn."): value for name, value in layer.items()} for layer in theirs]
    return named, np.stack([layer["input_layernorm.weight"] for layer in theirs])


def hidden_of(model: Any, x: Any) -> Any:
    model.eval()
    with torch.no_grad():
        return model(inputs_embeds=torch.from_numpy(x)).last_hidden_state.numpy()


INTERLEAVED = SIZES | {"num_hidden_layers": 4, "vocab_size": 8, "intermediate_size": 4, "pad_token_id": None}


@pytest.mark.peer(
    "variants/dense/layers", "transformers Qwen3Model, sliding and full layers", "1e-13: float64 throughout"
)
def test_qwen3_layers() -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Config, Qwen3Model

    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = Qwen3Config(**INTERLEAVED, **ROPE, use_sliding_window=True, sliding_window=3, layer_types=kinds)
    model = Qwen3Model(config).double()
    theirs, norm = attention_of(model)

    def layer(weights: dict[str, Any], kind: str) -> Grouped:
        own = HeadRmsNorm(weights["q_norm.weight"], weights["k_norm.weight"], EPS)
        return Grouped(projections(weights), Window(3) if kind.startswith("s") else Causal(), (own, TURN))

    ours = Layers(tuple(map(layer, theirs, kinds)), M, norm, EPS)
    everywhere = Layers(tuple(map(layer, theirs, ["full"] * 4)), M, norm, EPS)
    agrees(ours, hidden_of(model, hidden()), everywhere)


@pytest.mark.peer(
    "variants/dense/layers", "transformers SmolLM3Model, layers without rotation", "1e-13: float64 throughout"
)
def test_smollm3_layers() -> None:
    from transformers.models.smollm3.modeling_smollm3 import SmolLM3Config, SmolLM3Model

    turns = [1, 1, 1, 0]
    model = SmolLM3Model(SmolLM3Config(**INTERLEAVED, **ROPE, no_rope_layers=turns)).double()
    theirs, norm = attention_of(model)

    def layer(weights: dict[str, Any], turned: int) -> Grouped:
        return Grouped(projections(weights), query_key=(TURN,) if turned else ())

    ours = Layers(tuple(map(layer, theirs, turns)), M, norm, EPS)
    everywhere = Layers(tuple(map(layer, theirs, [1] * 4)), M, norm, EPS)
    agrees(ours, hidden_of(model, hidden()), everywhere)


@pytest.mark.peer(
    "variants/dense/layers", "transformers Llama4TextModel, chunked and hot layers", "1e-13: float64 throughout"
)
def test_llama4_layers() -> None:
    """Layers that rotate see their chunk of 3 tokens, layers that do not see everything and grow hotter."""
    from transformers.models.llama4.modeling_llama4 import Llama4TextConfig, Llama4TextModel

    turns = [1, 0, 1, 0]
    config = Llama4TextConfig(
        **INTERLEAVED,
        **ROPE,
        no_rope_layers=turns,
        attention_chunk_size=3,
        moe_layers=[],
        intermediate_size_mlp=4,
        attn_temperature_tuning=True,
        floor_scale=2,
        attn_scale=0.5,
        use_qk_norm=True,
    )
    model = Llama4TextModel(config).double()
    theirs, norm = attention_of(model)
    turn = Rotary.of(D, layout="adjacent")

    def layer(weights: dict[str, Any], turned: int) -> Grouped:
        if turned:
            return Grouped(projections(weights), Causal() & Chunked(3), (turn, HeadRmsNorm(eps=EPS)))
        return Grouped(projections(weights), query_key=(Temperature(Stepped(0.5, 2, 1)),))

    ours = Layers(tuple(map(layer, theirs, turns)), M, norm, EPS)
    everywhere = Layers(tuple(map(layer, theirs, [1] * 4)), M, norm, EPS)
    agrees(ours, hidden_of(model, hidden()), everywhere)


@pytest.mark.peer("variants/dense/value_residual", "x-transformers add_value_residual", "1e-13: float64 throughout")
def test_x_transformers_value_residual() -> None:
    """Two attention layers around which we write the residual connections; each half of the values is the first's."""
    (first, one), (second, two) = x_transformers_layer(), x_transformers_layer()
    with torch.no_grad():
        second.to_v.weight.copy_(second.to_v.weight.flip(0))
        x = torch.from_numpy(hidden())
        out, held_back = first(x, return_intermediates=True)
        middle = x + out
        wanted = (middle + second(middle, value_residual=held_back.values)).numpy()
    other = Projections(two.query, two.key, two.value[:, ::-1], two.output, HEADS, HEADS)
    ours = ValueResidual((Grouped(one), Grouped(other)), ((0.5, 0.5),))
    agrees(ours, wanted, Layers((Grouped(one), Grouped(other)), M))
