"""What transformers hands to an attention function, in kvattn's words, and what its own functions do with it."""

from collections.abc import Iterator
from importlib.util import find_spec
import math
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import kvattn
from kvattn.errors import ArgumentError, DtypeError, MissingExtraError, ShapeError
from kvattn.interop import transformers as adapter
from kvattn.interop.transformers import attention_forward, in_our_words, register
from kvattn.masks import Causal, Window

ONES = np.ones((1, 2, 3, 4))
ONE_QUERY = np.ones((1, 2, 1, 4))
DECODER = SimpleNamespace(is_causal=True, training=False)
ENCODER = SimpleNamespace(is_causal=False, training=False)
HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "run-a-model-through-kvattn.md"

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("torch") is None, reason="torch or transformers is not installed"
)


@pytest.fixture
def fresh() -> Iterator[Any]:
    """transformers, quiet, with kvattn registered as it is by default."""
    transformers = pytest.importorskip("transformers", reason="runs its functions: kvattn[peers]")
    pytest.importorskip("torch", reason="runs transformers' functions: kvattn[peers]")
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    register()
    yield transformers
    register()
    transformers.logging.set_verbosity(level)


def words(mask: Any = None, *, query: Any = ONES, module: Any = DECODER, **keywords: Any) -> dict[str, Any]:
    return in_our_words(module, query, ONES, ONES, mask, **keywords)


def test_boolean_masks_stay_as_they_are() -> None:
    mask = np.tri(3, dtype=bool)[None, None]
    assert words(mask)["mask"] is mask
    assert words(mask)["bias"] is None


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_most_negative_number_of_an_additive_mask_hides_and_the_rest_is_bias(dtype: str) -> None:
    least = np.finfo(dtype).min
    said = words(np.array([0.0, least, -np.inf], dtype))
    assert said["mask"].tolist() == [True, False, False]
    assert said["bias"] is None
    said = words(np.array([0.5, least, -np.inf], dtype))
    assert said["bias"].tolist() == [0.5, 0.0, 0.0]
    assert np.isnan(words(np.array([np.nan, 0.0, 0.0], dtype))["bias"][0])


def test_position_bias_and_what_the_mask_adds_come_together() -> None:
    said = words(np.array([0.5, 0.0, -np.inf]), position_bias=np.full((1, 2, 3, 3), 2.0))
    assert said["bias"][0, 0].tolist() == [[2.5, 2.0, 2.0]] * 3
    assert said["mask"].tolist() == [True, True, False]
    assert words(np.ones((3, 3), bool), position_bias=np.full((1, 2, 3, 3), 2.0))["bias"].max() == 2


def test_numbers_go_through() -> None:
    said = words(scaling=0.25, softcap=30.0, s_aux=np.zeros(2))
    assert (said["scale"], said["softcap"], said["sinks"].tolist()) == (0.25, 30.0, [0.0, 0.0])
    assert words()["scale"] is None


@pytest.mark.parametrize(
    ("module", "keywords", "mask"),
    [
        (DECODER, {}, Causal()),
        (DECODER, {"is_causal": False}, None),
        (ENCODER, {}, None),
        (ENCODER, {"is_causal": True}, Causal()),
        (DECODER, {"sliding_window": 2}, Window(2)),
        (ENCODER, {"sliding_window": 3}, None),
        (DECODER, {"query": ONE_QUERY}, None),
        (SimpleNamespace(), {"query": ONE_QUERY}, None),
        (DECODER, {"query": ONE_QUERY, "sliding_window": 2}, Window(2)),
    ],
)
def test_without_a_mask_the_layer_says_who_sees_whom(module: Any, keywords: dict[str, Any], mask: Any) -> None:
    assert words(module=module, **keywords)["mask"] == mask


def test_a_mask_has_the_last_word() -> None:
    every = np.ones((3, 3), bool)
    assert words(every, sliding_window=1, is_causal=True)["mask"] is every


@pytest.mark.parametrize(
    ("module", "keywords", "message"),
    [
        (SimpleNamespace(), {}, "attention_mask must be given where neither the layer nor is_causal says, got None"),
        (DECODER, {"query": ONES[:, :, :2]}, "attention_mask must be given for 2 queries and 3 keys, got None"),
        (ENCODER, {"sliding_window": 2}, "attention_mask must say who sees whom in a two-sided window of 2, got None"),
        (
            SimpleNamespace(is_causal=True, training=True),
            {"dropout": 0.1},
            "dropout must be 0 while training, kvattn draws nothing at random, got 0.1",
        ),
        (
            DECODER,
            {"output_attentions": True},
            "output_attentions must be left out, kvattn does not know what it changes, got True",
        ),
        (
            DECODER,
            {"indices": np.zeros(1)},
            "indices must be left out, kvattn does not know what it changes, got ndarray",
        ),
        (
            DECODER,
            {"cu_seq_lens_q": [0, 3]},
            "cu_seq_lens_q must be left out, kvattn does not know what it changes, got list",
        ),
    ],
)
def test_what_is_in_doubt_is_refused(module: Any, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{re.escape(message)}$"):
        words(module=module, **keywords)


def test_what_cannot_change_the_result_is_not() -> None:
    plain = words()
    assert words(output_attentions=False, indices=None, position_ids=np.arange(3), use_cache=True) == plain
    assert words(module=SimpleNamespace(is_causal=True, training=False), dropout=0.1) == plain


def test_shapes_and_dtypes_are_looked_at() -> None:
    with pytest.raises(ShapeError, match=r"^key must have shape \[B, heads, time, dim\], got \(2, 3, 4\)$"):
        in_our_words(DECODER, ONES, ONES[0], ONES, None)
    with pytest.raises(DtypeError, match=r"^attention_mask must be boolean or floating, got dtype int64$"):
        words(np.ones((3, 3), np.int64))
    with pytest.raises(DtypeError, match=r"^dtype must be float64 or float32, got 'bfloat16'$"):
        register(dtype="bfloat16")


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_without_a_package_the_message_says_so(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingExtraError, match=f"^{package} must be installed for this adapter, got no module"):
        register()


def tensors(dtype: str = "float64", seed: int = 0) -> Any:
    import torch

    rng = np.random.default_rng(seed)
    shapes = ((2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 6))
    return [torch.from_numpy(rng.normal(size=shape)).to(getattr(torch, dtype)) for shape in shapes]


@needs_transformers
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_results_are_rounded_once_to_the_dtype_of_the_query(dtype: str) -> None:
    import torch

    q, k, v = tensors(dtype)
    out, weights = attention_forward(DECODER, q, k, v, None)
    right = torch.from_numpy(kvattn.attention(q.double(), k.double(), v.double(), mask=Causal()))
    assert weights is None
    assert out.shape == (2, 5, 4, 6)
    assert out.is_contiguous()
    assert torch.equal(out, right.transpose(1, 2).to(q.dtype))


@needs_transformers
def test_an_additive_mask_of_bfloat16_hides_at_its_own_least() -> None:
    import torch

    q, k, v = tensors("bfloat16")
    mask = torch.zeros((2, 1, 5, 5), dtype=torch.bfloat16).masked_fill(
        ~torch.ones(5, 5).tril().bool(), torch.finfo(torch.bfloat16).min
    )
    assert torch.equal(attention_forward(DECODER, q, k, v, mask)[0], attention_forward(DECODER, q, k, v, None)[0])


@needs_transformers
def test_a_backward_pass_is_refused_wherever_it_comes_from() -> None:
    import torch

    q, k, v = tensors()
    out, _ = attention_forward(DECODER, q.requires_grad_(), k, v, None)
    assert out.requires_grad
    with pytest.raises(ArgumentError, match="must be another one where gradients are wanted, got 'kvattn'"):
        (q.sum() + out.sum()).backward()
    with torch.no_grad():
        assert not attention_forward(DECODER, q, k, v, None)[0].requires_grad


def tiny(transformers: Any, implementation: str | None, kind: str = "llama", **options: Any) -> Any:
    import torch

    sizes = {"vocab_size": 17, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, **options}
    config = transformers.AutoConfig.for_model(kind, num_attention_heads=4, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()


@needs_transformers
def test_models_made_before_and_after_compute_in_the_dtype_that_was_registered_last(fresh: Any) -> None:
    import torch

    tokens = torch.arange(3, 12)[None]
    before, after = tiny(fresh, "sdpa"), tiny(fresh, "kvattn")
    before.set_attn_implementation("kvattn")
    with torch.no_grad():
        whole = [model(tokens).logits for model in (before, after)]
        assert torch.equal(*whole)
        register(dtype=np.float32)
        register(dtype=np.float32)
        short = after(tokens).logits
    assert not torch.equal(short, whole[0])
    assert torch.allclose(short, whole[0], atol=1e-5)


@needs_transformers
def test_a_model_can_be_counted(fresh: Any) -> None:
    """4 heads and 2 layers over a triangle of 9: the pairs that the mask shows."""
    import torch

    model = tiny(fresh, "kvattn")
    with torch.no_grad(), kvattn.counting() as tally:
        model(torch.arange(3, 12)[None])
    assert tally.pairs_visible == 4 * 2 * 45


@pytest.mark.peer("interop/transformers", "transformers sdpa and eager: a row that sees no key", "exact zeros, 1e-12")
@needs_transformers
def test_a_row_that_sees_nothing_is_0_for_sdpa_and_the_mean_for_eager(fresh: Any) -> None:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.t5.modeling_t5 import eager_attention_forward

    q, _, _ = tensors()
    k, v = tensors(seed=1)[0], tensors(seed=2)[0]
    seen = torch.ones((1, 1, 5, 5), dtype=torch.bool)
    seen[..., 2, :] = False
    least = torch.zeros((1, 1, 5, 5), dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    ours = attention_forward(ENCODER, q, k, v, seen)[0]
    sdpa = sdpa_attention_forward(ENCODER, q, k, v, seen)[0]
    eager = eager_attention_forward(ENCODER, q, k, v, least)[0]
    assert torch.equal(attention_forward(ENCODER, q, k, v, least)[0], ours)
    assert not ours[:, 2].any()
    assert not sdpa[:, 2].any()
    assert torch.allclose(eager[:, 2], v.mean(2), atol=1e-12)
    others = [0, 1, 3, 4]
    for theirs in (sdpa, eager):
        assert torch.allclose(ours[:, others], theirs[:, others], atol=1e-12)
    biased = sdpa_attention_forward(ENCODER, q, k, v, seen, position_bias=torch.zeros(1, 4, 5, 5).double())[0]
    assert torch.allclose(biased[:, 2], v.mean(2), atol=1e-12)  # sdpa, with a bias: the mean


@pytest.mark.peer("interop/transformers", "transformers sdpa: sinks, softcap", "differs, raises")
@needs_transformers
def test_sdpa_drops_sinks_without_a_word_and_raises_for_a_softcap(fresh: Any) -> None:
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    q, k, v = tensors()[0], tensors(seed=1)[0], tensors(seed=2)[0]
    sinks = torch.full((4,), 2.0, dtype=torch.float64)
    theirs = sdpa_attention_forward(DECODER, q, k, v, None)[0]
    assert torch.equal(sdpa_attention_forward(DECODER, q, k, v, None, s_aux=sinks)[0], theirs)
    ours = attention_forward(DECODER, q, k, v, None, s_aux=sinks)[0]
    assert float((ours - theirs).abs().max()) > 0.1
    with pytest.raises(ValueError, match="does not support `softcap`"):
        sdpa_attention_forward(DECODER, q, k, v, None, softcap=2.0)
    options = {"num_key_value_heads": 2, "head_dim": 4, "num_local_experts": 2, "num_experts_per_tok": 2}
    assert tiny(fresh, None, "gpt_oss", **options).config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="does not support an attention implementation through"):
        tiny(fresh, "sdpa", "gpt_oss", **options)


@pytest.mark.peer("interop/transformers", "transformers sdpa and eager: no mask", "1e-12: both in float64")
@needs_transformers
def test_without_a_mask_sdpa_guesses_causal_and_eager_shows_everything(fresh: Any) -> None:
    """A module that says nothing: kvattn refuses to guess.  With a past, sdpa's triangle hangs in the other corner."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.models.t5.modeling_t5 import eager_attention_forward

    silent = SimpleNamespace(training=False)
    q, k, v = tensors()[0], tensors(seed=1)[0], tensors(seed=2)[0]
    sdpa, eager = (f(silent, q, k, v, None)[0] for f in (sdpa_attention_forward, eager_attention_forward))
    assert torch.allclose(sdpa, attention_forward(silent, q, k, v, None, is_causal=True)[0], atol=1e-12)
    assert torch.allclose(eager, attention_forward(silent, q, k, v, None, is_causal=False)[0], atol=1e-12)
    with pytest.raises(ArgumentError, match="neither the layer nor is_causal says"):
        attention_forward(silent, q, k, v, None)
    late = sdpa_attention_forward(DECODER, q[:, :, 3:], k, v, None)[0]
    corner = torch.ones(2, 5).tril().bool()
    assert torch.allclose(late, attention_forward(DECODER, q[:, :, 3:], k, v, corner)[0], atol=1e-12)


@pytest.mark.peer("interop/transformers", "transformers eager: softmax in float32", "1e-6: float32")
@needs_transformers
def test_eager_loses_float64(fresh: Any) -> None:
    import torch
    from transformers.models.llama.modeling_llama import eager_attention_forward

    q, k, v = tensors()
    module = SimpleNamespace(num_key_value_groups=2, training=False)
    mask = torch.zeros((1, 1, 5, 5), dtype=torch.float64)
    theirs = eager_attention_forward(module, q, k, v, mask, scaling=1 / math.sqrt(8))[0]
    apart = float((theirs - attention_forward(DECODER, q, k, v, mask)[0]).abs().max())
    assert 1e-9 < apart < 1e-6


@pytest.mark.peer("interop/transformers", "transformers DynamicCache: a window that the model does not have", "differs")
@needs_transformers
def test_a_cache_of_the_configuration_crops_where_the_model_has_no_window(fresh: Any) -> None:
    """A llama with a stray ``sliding_window`` in its configuration: attention ignores it, the cache does not."""
    import torch

    tokens = torch.arange(3, 14)[None]
    for window, apart in ((None, False), (4, True)):
        model = tiny(fresh, "sdpa", sliding_window=window)
        cache = fresh.DynamicCache(config=model.config)
        with torch.no_grad():
            whole = model(tokens).logits[:, -1]
            steps = [model(token, past_key_values=cache).logits[:, -1] for token in tokens.split(1, dim=1)]
        assert (float((whole - steps[-1]).abs().max()) > 1e-4) == apart


BYPASSES: dict[str, dict[str, Any]] = {
    "bloom": {"n_head": 4, "n_layer": 2},
    "codegen": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4},
    "mpt": {"d_model": 16, "n_heads": 4, "n_layers": 2},
    "xglm": {"d_model": 16, "num_layers": 2, "attention_heads": 4, "ffn_dim": 16},
    "xlnet": {"d_model": 16, "n_layer": 2, "n_head": 4, "d_inner": 16},
}
"""Attention written out in the layer: the name is taken, and nobody looks at it."""

TABLES: dict[str, dict[str, Any]] = {
    "falcon": {},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gptj": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "rotary_dim": 4},
}
"""A table of classes by name, without ours."""


@needs_transformers
@pytest.mark.parametrize("kind", BYPASSES)
def test_models_that_pass_the_interface_by_are_seen_by_counting(fresh: Any, kind: str) -> None:
    import torch

    config = fresh.AutoConfig.for_model(kind, vocab_size=17, hidden_size=16, **BYPASSES[kind])
    model = fresh.AutoModelForCausalLM.from_config(config, attn_implementation="kvattn").eval()
    with torch.no_grad(), kvattn.counting() as tally:
        model(torch.arange(3, 12)[None])
    assert tally.pairs_visible == 0


@needs_transformers
@pytest.mark.parametrize("kind", TABLES)
def test_models_with_a_table_of_their_own_do_not_know_the_name(fresh: Any, kind: str) -> None:
    config = fresh.AutoConfig.for_model(kind, vocab_size=17, hidden_size=16, **TABLES[kind])
    with pytest.raises(KeyError, match="kvattn"):
        fresh.AutoModelForCausalLM.from_config(config, attn_implementation="kvattn")


@needs_transformers
def test_a_selection_of_keys_that_only_two_names_apply_is_refused(fresh: Any) -> None:
    """DeepSeek-V3.2 masks what its indexer did not select under ``sdpa`` and ``eager``, and hands it on otherwise."""
    import torch

    model = tiny(
        fresh,
        "kvattn",
        "deepseek_v32",
        num_key_value_heads=4,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_nope_head_dim=4,
        qk_rope_head_dim=4,
        v_head_dim=4,
        index_topk=4,
        index_n_heads=2,
        index_head_dim=8,
        n_routed_experts=4,
        n_group=2,
        topk_group=2,
        num_experts_per_tok=2,
        moe_intermediate_size=8,
    )
    with torch.no_grad(), pytest.raises(ArgumentError, match=r"^indices must be left out, kvattn does not know"):
        model(torch.arange(3, 12)[None])


@needs_transformers
def test_what_the_how_to_shows_runs(fresh: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's Python blocks, one after the other; what a block prints is the text block that follows it."""
    blocks = re.findall(r"```(python|text)\n(.*?)```", HOWTO.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [kind for kind, _ in blocks].count("python") >= 3
    names: dict[str, Any] = {}
    for kind, block in blocks:
        if kind == "python":
            exec(block, names)  # noqa: S102 - that it runs is what is tested
        else:
            assert capsys.readouterr().out == block


def test_the_how_to_lists_every_model_type_that_is_tested() -> None:
    source = (HOWTO.parents[2] / "tests" / "peers" / "test_transformers_models.py").read_text(encoding="utf-8")
    table = source.partition("MODELS: dict")[2].partition("\n}")[0]
    tested = {name.partition(":")[0] for name in re.findall(r'^    "([^"]+)": \(', table, flags=re.MULTILINE)}
    shown = set(
        re.findall(r"`([a-z0-9_]+)`", HOWTO.read_text(encoding="utf-8").partition("## Tested")[2].partition("##")[0])
    )
    assert tested == shown
