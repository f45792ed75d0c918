"""transformers models beside the table: layers that never ask the interface, encoders, vision text, other caches.

Everything runs in float64 and logits agree within 1e-10, as test_transformers_models derives it for models as small.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import kvattn
from kvattn.interop import transformers as adapter
from kvattn.masks import Window

torch = pytest.importorskip("torch", reason="runs transformers models, which need torch: kvattn[peers]")
transformers = pytest.importorskip("transformers", minversion="5.23", reason="runs its models: kvattn[peers]")

from tests.peers.test_transformers_models import (  # noqa: E402 - it skips without torch, and so must this one first
    CUTS,
    SIZES,
    WAYS,
    Tiny,
    draw_everything,
    in_float64,
)

pytestmark = pytest.mark.peer

CLOSE = 1e-10
NAMES = {n: SIZES[n] for n in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")}


@pytest.fixture(scope="module", autouse=True)
def _settings() -> Iterator[None]:
    before, level = torch.get_num_threads(), transformers.logging.get_verbosity()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    adapter.register()
    yield
    torch.set_num_threads(before)
    transformers.logging.set_verbosity(level)


def made(build: Any, model_type: str, implementation: str, **options: Any) -> Any:
    config = transformers.AutoConfig.for_model(model_type, **options)
    model = build(config, attn_implementation=implementation).eval().double()
    draw_everything(model)
    return model


def windowed(words: dict[str, Any], module: Any, q: Any, k: Any) -> Any:
    """GPT-Neo keeps the window of its local layers in a table; here it is a mask on positions."""
    if module.attention_type != "local":
        return words["mask"]
    at = torch.arange(k.shape[2]).numpy()
    return words["mask"] & Window(module.config.window_size)(0, 0, at[-q.shape[2] :, None], at)


def by_layer(scale: Callable[[Any], float]) -> Any:
    """What takes the place of a layer's own ``_attn``."""

    def attn(self: Any, q: Any, k: Any, v: Any, attention_mask: Any = None) -> Any:
        words = adapter.in_our_words(self, q, k, v, attention_mask, scaling=scale(self))
        if hasattr(self, "attention_type"):
            words["mask"] = windowed(words, self, q, k)
        return torch.from_numpy(kvattn.attend(q, k, v, **words).out), None

    return attn


def by_sdpa(q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False) -> Any:
    """What takes the place of torch's function; Falcon gives it one key/value head, or a mask with ALiBi inside."""
    assert dropout_p == 0.0
    silent = adapter.in_our_words(None, q, k, v, attn_mask, is_causal=is_causal)
    return torch.from_numpy(kvattn.attend(q, k, v, **silent).out)


GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
FALCON = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3}
REPLACED: dict[str, tuple[str, dict[str, Any], str, Any]] = {
    "codegen": ("eager", GPT, "codegen.modeling_codegen.CodeGenAttention._attn", by_layer(lambda m: 1 / m.scale_attn)),
    "falcon": ("sdpa", FALCON, "torch.nn.functional.scaled_dot_product_attention", by_sdpa),
    "falcon: alibi": (
        "sdpa",
        {**FALCON, "alibi": True, "new_decoder_architecture": False},
        "torch.nn.functional.scaled_dot_product_attention",
        by_sdpa,
    ),
    "falcon: grouped": (
        "sdpa",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
        "torch.nn.functional.scaled_dot_product_attention",
        by_sdpa,
    ),
    "gpt_neo": (
        "eager",
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": 4,
            "max_position_embeddings": 64,
        },
        "gpt_neo.modeling_gpt_neo.GPTNeoSelfAttention._attn",
        by_layer(lambda _: 1.0),
    ),
    "gptj": ("eager", GPT, "gptj.modeling_gptj.GPTJAttention._attn", by_layer(lambda m: 1 / m.scale_attn)),
}
"""Type: its own implementation, its options, and the function that kvattn takes the place of."""


@pytest.mark.peer(
    "interop/transformers", "transformers codegen, falcon, gpt_neo, gptj: _attn or sdpa replaced", "1e-10"
)
@pytest.mark.parametrize("name", REPLACED)
def test_layers_that_do_not_ask_the_interface(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, options, place, ours = REPLACED[name]
    build = transformers.AutoModelForCausalLM.from_config
    tiny = Tiny(name, made(build, name.partition(":")[0], own, **NAMES, **options), {}, [])
    expected = [tiny.under(own, way) for way in WAYS]
    monkeypatch.setattr(place if place.startswith("torch") else f"transformers.models.{place}", ours)
    for way, theirs in zip(WAYS, expected, strict=True):
        with kvattn.counting() as tally:
            assert float((tiny.under(own, way) - theirs).abs().max()) < CLOSE
        assert tally.pairs_visible > 0
    monkeypatch.setattr("kvattn.masks.Window.__call__", lambda self, b, h, q, k: (q - k < 5) & (q >= k))
    wrong = float((tiny.under(own, "whole") - expected[0]).abs().max())
    assert (wrong > 1e-3) == (name == "gpt_neo")


ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "modernbert": {
        "local_attention": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}


@pytest.mark.peer("interop/transformers", "transformers bert, modernbert: encoders", "1e-10: float64")
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_see_both_sides(name: str) -> None:
    """ModernBERT's ``local_attention`` of 4 is 2 keys on each side beside self."""
    model = made(transformers.AutoModelForMaskedLM.from_config, name, "sdpa", **{**SIZES, **ENCODERS[name]})
    tokens = torch.randint(3, 61, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 6:] = 0
    logits, visible = [], []
    for implementation in ("sdpa", "kvattn"):
        model.set_attn_implementation(implementation)
        with in_float64(), kvattn.counting() as tally:
            logits += [model(tokens).logits, model(tokens, attention_mask=mask).logits[mask.bool()]]
        visible.append(tally.pairs_visible)
    assert float((logits[0] - logits[2]).abs().max()) < CLOSE
    assert float((logits[1] - logits[3]).abs().max()) < CLOSE
    assert visible[0] == 0
    if name == "modernbert":
        model.set_attn_implementation("kvattn")
        with in_float64(), kvattn.counting() as tally:
            model(tokens[:1])
        assert tally.pairs_visible == 2 * 4 * (81 + 9 * 5 - 2 * 3)


def llama(implementation: str = "sdpa") -> Any:
    return made(transformers.AutoModelForCausalLM.from_config, "llama", implementation, **SIZES)


def drawn(count: int) -> Any:
    return torch.randint(3, 61, (1, count), generator=torch.Generator().manual_seed(1))


@pytest.mark.peer("interop/transformers", "transformers StaticCache", "1e-10: float64")
def test_slots_of_a_static_cache_that_nobody_wrote_are_not_seen() -> None:
    model, tokens = llama("kvattn"), drawn(sum(CUTS))
    cache = transformers.StaticCache(config=model.config, max_cache_len=16)
    with in_float64():
        whole = model(tokens, use_cache=False).logits
        at, pieces = 0, []
        for count in CUTS:
            pieces.append(model(tokens[:, at : at + count], past_key_values=cache).logits)
            at += count
    assert float((torch.cat(pieces, 1) - whole).abs().max()) < CLOSE


@pytest.mark.peer("interop/transformers", "transformers: packed sequences by position_ids", "1e-10: float64")
def test_packed_sequences_do_not_see_each_other() -> None:
    model, tokens = llama("kvattn"), drawn(11)
    at = torch.cat([torch.arange(4), torch.arange(7)])[None]
    with in_float64():
        packed = model(tokens, position_ids=at, use_cache=False).logits
        alone = torch.cat([model(part, use_cache=False).logits for part in tokens.split([4, 7], dim=1)], dim=1)
        unpacked = model(tokens, use_cache=False).logits
    assert float((packed - alone).abs().max()) < CLOSE
    assert float((packed - unpacked).abs().max()) > 1e-3


@pytest.mark.peer("interop/transformers", "transformers mllama_text_model: cross-attention to images", "1e-10: float64")
def test_mllama_cross_attention_with_a_mask_and_what_sdpa_makes_of_none() -> None:
    """The cross-attention layer does not say ``is_causal``: without a mask sdpa hides images, eager does not."""
    options = {
        **SIZES,
        "cross_attention_layers": [1, 3],
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    }
    model = made(transformers.MllamaForCausalLM._from_config, "mllama_text_model", "sdpa", **options)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn((1, 6, 32), generator=generator, dtype=torch.float64)
    visible = torch.rand((1, 1, 11, 6), generator=generator) < 0.7
    visible[..., 0] = True
    least = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, torch.finfo(torch.float64).min)

    def logits(implementation: str, mask: Any) -> Any:
        model.set_attn_implementation(implementation)
        with in_float64():
            return model(drawn(11), cross_attention_states=images, cross_attention_mask=mask, use_cache=False).logits

    for name in ("sdpa", "eager"):
        assert float((logits(name, least) - logits("kvattn", least)).abs().max()) < CLOSE
    every = torch.zeros_like(least)
    assert float((logits("eager", None) - logits("kvattn", every)).abs().max()) < CLOSE
    assert float((logits("sdpa", None) - logits("eager", None)).abs().max()) > 1e-3
    with pytest.raises(kvattn.KvattnError, match="attention_mask must be given where neither the layer nor is_causal"):
        logits("kvattn", None)


@pytest.mark.peer("interop/transformers", "transformers qwen2_vl_text, qwen3_vl_text, glm4v_text", "1e-10: float64")
@pytest.mark.parametrize("name", ["qwen2_vl_text", "qwen3_vl_text", "glm4v_text"])
def test_three_positions_a_token(name: str) -> None:
    """M-RoPE, in chunks or interleaved, half-split or adjacent, in bare text models."""
    sections = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    options = {**SIZES, "rope_parameters": sections}
    model = made(transformers.AutoModel.from_config, name, "sdpa", **options)
    generator = torch.Generator().manual_seed(3)
    at = torch.arange(11).expand(3, 1, 11) + torch.randint(0, 3, (3, 1, 11), generator=generator)
    at[0] = torch.arange(11)
    hidden = []
    with in_float64():
        embedded = model.get_input_embeddings()(drawn(11))
    for implementation in ("sdpa", "kvattn"):
        model.set_attn_implementation(implementation)
        cache = transformers.DynamicCache(config=model.config)
        with in_float64(), kvattn.counting() as tally:
            hidden.append(model(inputs_embeds=embedded, position_ids=at, use_cache=False).last_hidden_state)
            pieces = zip(embedded.split([6, 1, 4], dim=1), at.split([6, 1, 4], dim=2), strict=True)
            cached = [
                model(inputs_embeds=x, position_ids=p, past_key_values=cache).last_hidden_state for x, p in pieces
            ]
            hidden.append(torch.cat(cached, dim=1))
        assert (tally.pairs_visible > 0) == (implementation == "kvattn")
    with in_float64():
        assert float((hidden[0] - model(inputs_embeds=embedded).last_hidden_state).abs().max()) > 1e-3
    for other in hidden[1:]:
        assert float((hidden[0] - other).abs().max()) < CLOSE
