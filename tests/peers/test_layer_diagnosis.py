"""No false alarm: attention layers of transformers, with weights of their own and their own cache, pass their plans.

They compute angles in float32; a check says so in a note and judges by float32's bound.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary, llama3_rotary
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_targets import LayerTarget, Weights, layer_target_of

torch = pytest.importorskip("torch", reason="layer diagnosis: transformers runs on torch")
pytest.importorskip("transformers", minversion="5.23", reason="layer diagnosis: the peers extra installs it")

pytestmark = pytest.mark.peer

SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def layer_of(family: str, parameters: dict[str, Any], plan: Plan) -> LayerTarget:
    """One attention layer of a family, its weights read off, its cache a ``DynamicCache``."""
    import importlib

    from transformers import DynamicCache

    title = {"llama": "Llama", "qwen3": "Qwen3"}[family]
    modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    configured = getattr(
        importlib.import_module(f"transformers.models.{family}.configuration_{family}"), f"{title}Config"
    )
    config = configured(**SIZES, num_hidden_layers=1, rope_parameters=parameters, attention_bias=False)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    module = getattr(modeling, f"{title}Attention")(config, layer_idx=0).double().eval()
    embedding = getattr(modeling, f"{title}RotaryEmbedding")(config)
    if family == "qwen3":
        with torch.no_grad():
            for norm in (module.q_norm, module.k_norm):
                norm.weight.uniform_(0.3, 3)

    def layer(x: Any, *, positions: Any = None, cache: Any = None) -> Any:
        cache = DynamicCache(config=config) if cache is None else cache
        past, (batch, new, _) = cache.get_seq_length(), x.shape
        at = past + np.arange(new) + np.zeros((batch, 1), np.int64) if positions is None else positions
        rows, columns = torch.arange(past, past + new)[:, None], torch.arange(past + new)
        mask = torch.where(columns <= rows, 0.0, -torch.inf).double()[None, None]
        hidden = torch.from_numpy(x).double()
        with torch.no_grad():
            turns = embedding(hidden, torch.from_numpy(np.ascontiguousarray(at)))
            out = module(hidden, position_embeddings=turns, attention_mask=mask, past_key_values=cache)[0]
        return out.numpy(), cache

    def read(linear: Any) -> Any:
        return linear.weight.detach().numpy().T

    norms = {}
    if family == "qwen3":
        norms = {"q_norm": module.q_norm.weight.detach().numpy(), "k_norm": module.k_norm.weight.detach().numpy()}
    matrices = (read(module.q_proj), read(module.k_proj), read(module.v_proj), read(module.o_proj))
    weights = Weights(*matrices, 4, 2, **norms)
    layer.weights = weights  # type: ignore[attr-defined]
    return replace(layer_target_of(layer, family), expects=plan)


PLAIN = {"rope_type": "default", "rope_theta": 10000.0}

THEIRS = {
    "llama": ("llama", PLAIN, Plan(rotary=Rotary.of(8))),
    "llama with Llama-3's frequencies": ("llama", LLAMA3, Plan(rotary=llama3_rotary(8, trained=32, base=10000.0))),
    "qwen3": ("qwen3", PLAIN, Plan(rotary=Rotary.of(8), norm="before", eps=1e-6)),
}


@pytest.mark.parametrize("name", THEIRS)
def test_layers_of_transformers_pass(name: str) -> None:
    bench, margin = look(layer_of(*THEIRS[name]), cases=20)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1
    assert any("float32 precision" in note for note in bench.notes)


def test_another_plan_is_told_from_what_they_do() -> None:
    family, parameters, _ = THEIRS["llama with Llama-3's frequencies"]
    bench, _ = look(layer_of(family, parameters, Plan(rotary=Rotary.of(8))), cases=5)
    assert [f.fault_class for f in bench.findings] != []
    bench, _ = look(layer_of("qwen3", PLAIN, Plan(rotary=Rotary.of(8), norm="after")), cases=5)
    assert [(f.fault_class, f.parameters) for f in bench.findings] == [("qk-norm-order", {"norm": "before"})]
    bench, _ = look(layer_of("llama", PLAIN, Plan(rotary=Rotary.of(8, 500000.0))), cases=5)
    assert [(f.fault_class, f.parameters) for f in bench.findings] == [("rope-scaling", {"base": 10000.0})]
