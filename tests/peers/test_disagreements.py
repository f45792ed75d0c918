"""Who follows which reading: the libraries themselves are asked, with the inputs of the question.

An answer may lie 1e-3 from its reading, float32 included; readings are at least 1e-2 apart.
"""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.testing.disagreements import DISAGREEMENTS

REASON = "disagreements: asks the libraries themselves, kvattn[peers]"
torch = pytest.importorskip("torch", reason=REASON)


def asked(name: str, result: Any) -> str:
    return DISAGREEMENTS[name]().told(np.asarray(result))


def tensors(name: str, *which: str) -> list[Any]:
    given = DISAGREEMENTS[name]().inputs
    return [torch.from_numpy(np.array(given[one])) for one in which or ("q", "k", "v")]


def sdpa(name: str, **options: Any) -> Any:
    return torch.nn.functional.scaled_dot_product_attention(*tensors(name), **options).numpy()[0]


def onnx_attention(name: str, **options: Any) -> Any:
    module = pytest.importorskip("onnx.reference.ops.op_attention", reason=REASON)
    given = DISAGREEMENTS[name]().inputs
    return module._compute_attention(*(given[one] for one in "qkv"), **options)[0][0]


def multihead(name: str, mask: Any, need_weights: bool = True) -> Any:
    """torch.nn.MultiheadAttention as the mere attention of one head: all its matrices are the identity."""
    q, k, v = tensors(name)
    width = q.shape[-1]
    layer = torch.nn.MultiheadAttention(width, 1, bias=False, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.eye(width, dtype=torch.float64).repeat(3, 1))
        layer.out_proj.weight.copy_(torch.eye(width, dtype=torch.float64))
        return layer(q[0], k[0], v[0], attn_mask=torch.from_numpy(mask), need_weights=need_weights)[0].numpy()[0]


def jax_attention(name: str, **options: Any) -> Any:
    jax = pytest.importorskip("jax", reason=REASON)
    given = DISAGREEMENTS[name]().inputs
    wide = max(given[one].shape[-1] for one in "qkv")  # JAX wants one width: features that are zero change nothing
    rows = (np.pad(given[one], [(0, 0)] * 3 + [(0, wide - given[one].shape[-1])]) for one in "qkv")
    found = jax.nn.dot_product_attention(*(row.astype(np.float32).swapaxes(1, 2) for row in rows), **options)
    return np.asarray(found).swapaxes(1, 2)[0, ..., : given["v"].shape[-1]]


def test_the_corner_of_the_causal_mask() -> None:
    assert asked("causal_corner", sdpa("causal_corner", is_causal=True)[0]).startswith("top left")
    assert asked("causal_corner", jax_attention("causal_corner", is_causal=True)[0]).startswith("top left")
    assert asked("causal_corner", onnx_attention("causal_corner", is_causal=1)[0]).startswith("top left")


def test_a_row_that_sees_nothing() -> None:
    mask = DISAGREEMENTS["empty_row"]().inputs["mask"]
    assert asked("empty_row", sdpa("empty_row", attn_mask=torch.from_numpy(mask))[0]) == "zero"
    assert asked("empty_row", onnx_attention("empty_row", attn_mask=mask)[0]) == "zero"
    assert asked("empty_row", jax_attention("empty_row", mask=mask[None, None])[0]) == "the mean of all values"
    assert asked("empty_row", multihead("empty_row", ~mask)) == "not a number"
    assert asked("empty_row", multihead("empty_row", ~mask, need_weights=False)) == "zero"


def test_what_true_means() -> None:
    mask = DISAGREEMENTS["mask_polarity"]().inputs["mask"]
    assert asked("mask_polarity", sdpa("mask_polarity", attn_mask=torch.from_numpy(mask))[0]) == "it may"
    assert asked("mask_polarity", onnx_attention("mask_polarity", attn_mask=mask)[0]) == "it may"
    assert asked("mask_polarity", jax_attention("mask_polarity", mask=mask[None, None])[0]) == "it may"
    assert asked("mask_polarity", multihead("mask_polarity", mask)) == "it may not"


def test_which_head_is_read() -> None:
    assert asked("head_map", sdpa("head_map", enable_gqa=True).ravel()) == "h // G"
    assert asked("head_map", jax_attention("head_map").ravel()) == "h // G"
    assert asked("head_map", onnx_attention("head_map").ravel()) == "h // G"


def test_the_scale() -> None:
    assert asked("scale", sdpa("scale")[0]) == "1/sqrt(D)"
    assert asked("scale", jax_attention("scale")[0]) == "1/sqrt(D)"
    assert asked("scale", onnx_attention("scale")[0]) == "1/sqrt(D)"


def test_capped_before_masked() -> None:
    given = DISAGREEMENTS["softcap_and_mask"]().inputs
    found = onnx_attention("softcap_and_mask", attn_mask=given["mask"], softcap=given["softcap"], scale=1.0)
    assert asked("softcap_and_mask", found[0]).startswith("after")


def test_the_base_of_the_logarithm() -> None:
    jax = pytest.importorskip("jax", reason=REASON)
    given = DISAGREEMENTS["log_base"]().inputs
    rows = [np.asarray(given[one], np.float32).swapaxes(1, 2) for one in "qk"]
    if "return_residual" not in jax.nn.dot_product_attention.__code__.co_varnames:
        pytest.skip("this JAX does not return the log-sum-exp")
    _, lse = jax.nn.dot_product_attention(*rows, rows[1], return_residual=True)
    assert asked("log_base", np.asarray(lse).reshape(1)) == "e"


def test_where_windows_end() -> None:
    assert asked("window_end", jax_attention("window_end", local_window_size=(2, 0))[0]).startswith("W keys before")
    assert asked("window_sides", jax_attention("window_sides", local_window_size=4)[0]) == "W"
    utils = pytest.importorskip("transformers.masking_utils", reason=REASON)
    rule = utils.sliding_window_causal_mask_function(2)
    seen = np.array([[bool(rule(0, 0, torch.tensor(i), torch.tensor(j))) for j in range(6)] for i in range(6)])
    found = sdpa("window_end", attn_mask=torch.from_numpy(seen))
    assert asked("window_end", found[0]).startswith("W keys, the query's own")


def rotated(path: str, x: Any, cosine: Any, sine: Any) -> Any:
    modeling = pytest.importorskip(f"transformers.models.{path}", reason=REASON)
    row = torch.from_numpy(np.array(x))[None, None]
    both = (torch.from_numpy(np.array(part))[None] for part in (cosine, sine))
    return modeling.apply_rotary_pos_emb(row, row, *both)[0].numpy()[0, 0]


def test_pairs_that_turn() -> None:
    angles = np.array([[1.0, 0.1]])
    row = DISAGREEMENTS["rotary_pairs"]().inputs["x"]
    half = [np.concatenate([f(angles)] * 2, axis=1) for f in (np.cos, np.sin)]
    each = [np.repeat(f(angles), 2, axis=1) for f in (np.cos, np.sin)]
    assert asked("rotary_pairs", rotated("llama.modeling_llama", row, *half)) == "k and k + r/2"
    assert asked("rotary_pairs", rotated("cohere.modeling_cohere", row, *each)) == "2k and 2k + 1"


def test_the_part_that_turns() -> None:
    row = DISAGREEMENTS["part_that_turns"]().inputs["x"]
    both = np.full((1, 2), math.cos(1.0)), np.full((1, 2), math.sin(1.0))
    for path in ("glm.modeling_glm", "gpt_neox.modeling_gpt_neox"):
        assert asked("part_that_turns", rotated(path, row, *both)) == "the first"


def test_which_coordinate_a_pair_follows() -> None:
    """The class puts the axes together; its frequencies are set to 1, as in the question."""
    given = DISAGREEMENTS["sections"]().inputs
    for family, kind, says in (
        ("qwen2_vl", "Qwen2VLRotaryEmbedding", "section after section"),
        ("qwen3_vl", "Qwen3VLTextRotaryEmbedding", "dealt out in turn"),
    ):
        modeling = pytest.importorskip(f"transformers.models.{family}.modeling_{family}", reason=REASON)
        config = getattr(modeling, kind[: kind.index("VL") + 2] + "TextConfig")
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(given["sections"])}
        layer = getattr(modeling, kind)(config(hidden_size=8, num_attention_heads=1, head_dim=8, rope_parameters=rope))
        layer.inv_freq.fill_(1.0)
        cosine, sine = layer(torch.zeros(1, dtype=torch.float64), torch.from_numpy(given["coordinates"])[:, None])
        row = torch.from_numpy(given["x"])[None, None]
        turned = modeling.apply_rotary_pos_emb(row, row, cosine, sine)[0].numpy()[0, 0]
        assert asked("sections", turned[:, :4]) == says


def test_the_order_of_sines() -> None:
    modeling = pytest.importorskip("transformers.models.whisper.modeling_whisper", reason=REASON)
    found = modeling.sinusoids(2, 4, max_timescale=100).numpy()[1:]  # its last frequency is 1/max_timescale
    assert asked("sine_order", found).startswith("no: all sines")


def norm_of(path: str, name: str, width: int, weight: Any, eps: float = 0.0) -> Any:
    modeling = pytest.importorskip(f"transformers.models.{path}", reason=REASON)
    norm = getattr(modeling, name)(width, eps=eps).double()
    with torch.no_grad():
        norm.weight.copy_(weight)
    return norm


def test_weights_of_norms() -> None:
    x, weight = tensors("norm_weights", "x", "weight")
    with torch.no_grad():
        for path, name, says in (
            ("llama.modeling_llama", "LlamaRMSNorm", "w"),
            ("qwen3.modeling_qwen3", "Qwen3RMSNorm", "w"),
            ("gemma3.modeling_gemma3", "Gemma3RMSNorm", "1 + w"),
            ("qwen3_next.modeling_qwen3_next", "Qwen3NextRMSNorm", "1 + w"),
        ):
            assert asked("norm_weights", norm_of(path, name, 2, weight)(x).detach().numpy()) == says


def test_borders_of_yarn() -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils", reason=REASON)
    from transformers import LlamaConfig

    given = DISAGREEMENTS["yarn_borders"]().inputs
    scaling = {"rope_type": "yarn", "factor": given["factor"], "original_max_position_embeddings": given["trained"]}
    for truncate, says in ((None, "yes"), (False, "no: truncate=False")):
        more = {} if truncate is None else {"truncate": truncate}
        config = LlamaConfig(
            hidden_size=32,
            num_attention_heads=2,
            max_position_embeddings=256,
            rope_parameters={**scaling, "rope_theta": given["base"], **more},
        )
        found, _ = utils.ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
        # float32 frequencies; they span decades, so each is compared in relation to the readings' own
        assert asked("yarn_borders", found.numpy()) == says


def test_the_list_of_longrope() -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils", reason=REASON)
    from transformers import LlamaConfig

    given = DISAGREEMENTS["longrope_list"]().inputs
    config = LlamaConfig(
        hidden_size=4,
        num_attention_heads=1,
        max_position_embeddings=8,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": list(given["short"]),
            "long_factor": list(given["long"]),
            "factor": 2.0,
            "original_max_position_embeddings": given["trained"],
        },
    )
    found, _ = utils.ROPE_INIT_FUNCTIONS["longrope"](config, "cpu", seq_len=given["length"])
    assert asked("longrope_list", found.numpy()) == "the short one"


def test_slopes_of_six_heads() -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom", reason=REASON)
    ones = torch.ones(1, 2)
    table = bloom.build_alibi_tensor(ones, 6, torch.float64).reshape(6, 2)[:, 1].numpy()
    assert asked("slopes_of_six", table).startswith("those of four heads")
