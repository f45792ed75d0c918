"""Latent attention as transformers' DeepSeek-V3 has it, and with its indexer as DeepSeek-V3.2, prefilled and decoded.

transformers computes norms, softmax and index scores in float32 whatever it is given; for these tests the name float32
means float64, so that both sides compute in float64.  Its cache keeps latents and expands them at each step.  It scales
by ``yarn`` factors, which ``scale=`` takes; its fused matrices are cut below.  Ties do not occur: the order of
``torch.topk`` is open.
"""

from collections.abc import Iterator
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Causal
from kvattn.positions import Rotary
from kvattn.variants.compressed.latent import Absorbed, Expanded
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.sparse.indexed import Indexed
from kvattn.variants.sparse.lightning_indexer import LightningIndexer

pytestmark = pytest.mark.peer

torch = pytest.importorskip("torch", reason="DeepSeek: transformers runs on torch")
pytest.importorskip(
    "transformers", minversion="5.23", reason="DeepSeek: needs transformers, which the peers extra installs"
)

HIDDEN, HEADS, NOPE, ROPE, VALUE, RANK, SOURCE = 10, 3, 5, 4, 7, 6, 8
SIZES = {
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "num_hidden_layers": 1,
    "kv_lora_rank": RANK,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "v_head_dim": VALUE,
}


@pytest.fixture(autouse=True)
def _float32_is_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def held(layer: Any) -> dict[str, Any]:
    """Fill a layer with random weights, and return them."""
    generator = np.random.default_rng(1)
    found = {}
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            drawn = generator.standard_normal(tuple(parameter.shape))
            drawn = 1 + drawn * 0.3 if parameter.ndim == 1 else drawn / math.sqrt(drawn.shape[1])
            parameter.copy_(torch.from_numpy(drawn))
            found[name] = drawn
    return found


def projections(theirs: dict[str, Any]) -> LatentProjections:
    """Their weights, cut and turned to ``[in, out]``."""
    down = theirs["kv_a_proj_with_mqa.weight"].T
    up = theirs["kv_b_proj.weight"].T.reshape(RANK, HEADS, NOPE + VALUE)
    low = "q_a_proj.weight" in theirs
    return LatentProjections(
        kv_down=down[:, :RANK],
        kv_norm=theirs["kv_a_layernorm.weight"],
        key_rope=down[:, RANK:],
        key_up=up[:, :, :NOPE].reshape(RANK, -1),
        value_up=up[:, :, NOPE:].reshape(RANK, -1),
        query=theirs["q_b_proj.weight" if low else "q_proj.weight"].T,
        output=theirs["o_proj.weight"].T,
        heads=HEADS,
        query_down=theirs["q_a_proj.weight"].T if low else None,
        query_norm=theirs["q_a_layernorm.weight"] if low else None,
    )


def decoded(layer: Any, config: Any, x: Any, prefill: int, frequencies: Any) -> Any:
    """What their layer gives for a prefill and then for one token at a time."""
    from transformers.cache_utils import DynamicCache

    cache, found = DynamicCache(config=config), []
    length = x.shape[1]
    for start, stop in ((0, prefill), *((t, t + 1) for t in range(prefill, length))):
        at = np.arange(start, stop)
        angles = np.concatenate([at[:, None] * frequencies] * 2, axis=-1)[None]
        seen = at[:, None] >= np.arange(stop)[None]
        mask = torch.from_numpy(np.where(seen, 0.0, -np.inf))[None, None].expand(len(x), 1, -1, -1)
        with torch.no_grad():
            out, _ = layer(
                torch.from_numpy(x[:, start:stop]),
                position_embeddings=(torch.from_numpy(np.cos(angles)), torch.from_numpy(np.sin(angles))),
                attention_mask=mask,
                past_key_values=cache,
            )
        found.append(out.numpy())
    return np.concatenate(found, axis=1)


@pytest.mark.peer(
    "variants/compressed/latent", "transformers DeepseekV3Attention", "1e-10: float64, norms and rotations included"
)
@pytest.mark.parametrize("form", [Expanded, Absorbed])
@pytest.mark.parametrize("interleave", [True, False])
@pytest.mark.parametrize("source", [None, SOURCE])
@pytest.mark.parametrize("mscale", [None, 0.8])
def test_deepseek_v3(form: Any, interleave: bool, source: int | None, mscale: float | None) -> None:
    from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
    if mscale is not None:
        rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 0.5, "mscale_all_dim": mscale}
        rope["original_max_position_embeddings"] = 4096
    config = DeepseekV3Config(**SIZES, q_lora_rank=source, rope_interleave=interleave, rope_parameters=rope)
    config._attn_implementation = "eager"
    layer = DeepseekV3Attention(config, 0).eval()
    w = projections(held(layer))
    rotation = Rotary.of(ROPE, layout="adjacent" if interleave else "half")
    factor = 1.0 if mscale is None else 0.1 * mscale * math.log(40.0) + 1.0
    ours = form(w, Causal(), rotation, scale=factor**2 / math.sqrt(NOPE + ROPE))
    x = np.random.default_rng(0).standard_normal((2, 9, HIDDEN))
    wanted = decoded(layer, config, x, 6, np.array(rotation.frequencies))
    np.testing.assert_allclose(ours.step(ours.start(2), x)[0].out, wanted, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours.definition(x, np.arange(9)).out, wanted, rtol=1e-10, atol=1e-11)
    other = form(w, Causal(), Rotary.of(ROPE, layout="half" if interleave else "adjacent"), scale=ours.scale)
    assert np.abs(other.definition(x, np.arange(9)).out - wanted).max() > 1e-3  # the comparison sees other pairs


@pytest.mark.peer("variants/sparse/indexed", "transformers DeepseekV32Attention", "1e-10: float64")
@pytest.mark.peer("variants/sparse/lightning_indexer", "transformers DeepseekV32Attention", "1e-10: float64")
@pytest.mark.parametrize("keep", [1, 4, 20])
def test_deepseek_v32(keep: int) -> None:
    from transformers.models.deepseek_v32.configuration_deepseek_v32 import DeepseekV32Config
    from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Attention

    index_heads, width = 2, 9
    sizes = SimpleNamespace(q_lora_rank=SOURCE, index_topk=keep, index_n_heads=index_heads, index_head_dim=width)
    config = DeepseekV32Config(**SIZES, **vars(sizes), rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    config._attn_implementation = "eager"
    layer = DeepseekV32Attention(config, 0).eval()
    theirs = held(layer)
    indexer = LightningIndexer(
        theirs["indexer.wq_b.weight"].T,
        theirs["indexer.wk.weight"].T,
        theirs["indexer.weights_proj.weight"].T,
        theirs["indexer.k_norm.weight"],
        theirs["indexer.k_norm.bias"],
        index_heads,
        Rotary.of(ROPE, layout="half"),
    )
    rotation = Rotary.of(ROPE, layout="adjacent")
    ours = Indexed(projections(theirs), indexer, keep, rotation=rotation)
    x = np.random.default_rng(0).standard_normal((2, 13, HIDDEN))
    wanted = decoded(layer, config, x, 10, np.array(rotation.frequencies))
    # a choice that hangs on an exact tie at score 0 is theirs to make: compare where ours is decided
    clear = decided(ours, x)
    assert clear.mean() > 0.5
    np.testing.assert_allclose(ours.step(ours.start(2), x)[0].out[clear], wanted[clear], rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(ours.definition(x, np.arange(13)).out[clear], wanted[clear], rtol=1e-10, atol=1e-11)


def decided(layer: Indexed, x: Any) -> Any:
    """Queries whose k-th score stands clear of the next, ``[B, T]``."""
    at = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2])
    scores = layer.indexer.definition(x, layer.projections.query_latents(x), at)
    found = np.ones(x.shape[:2], np.bool_)
    for b, t in np.ndindex(found.shape):
        best = np.sort(scores[b, t, : t + 1])[::-1]
        if t + 1 > layer.keep:
            found[b, t] = best[layer.keep - 1] - best[layer.keep] > 1e-9
    return found
