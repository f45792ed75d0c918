"""No false alarm: the rotations of transformers and of ONNX are read, pass, and adjacent pairs are a convention.

transformers computes angles in float32; a check says so in a note and judges by float32's bound.
"""

from typing import Any

import numpy as np
import pytest

from kvattn.positions import DynamicNTK, LongRope, Rotary, linear_rotary, llama3_rotary, yarn_rotary
from kvattn.testing.rotary_diagnosis.looking import look
from kvattn.testing.rotary_targets import RotaryTarget, Scheme

pytestmark = pytest.mark.peer

D = 64


def llama(rope_parameters: dict[str, Any], most: int = 4096, width: int = D) -> Any:
    """``rotate(q, k, positions)`` as transformers' Llama has it."""
    torch = pytest.importorskip("torch", reason="rotary diagnosis: transformers runs on torch")
    pytest.importorskip("transformers", minversion="5.23", reason="rotary diagnosis: the peers extra installs it")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(
        hidden_size=2 * width,
        num_attention_heads=2,
        head_dim=width,
        max_position_embeddings=most,
        rope_parameters=rope_parameters,
    )
    embedding = LlamaRotaryEmbedding(config)

    def rotate(q: Any, k: Any, positions: Any) -> Any:
        q, k = torch.from_numpy(q), torch.from_numpy(k)
        cosine, sine = embedding(q.float(), torch.from_numpy(np.ascontiguousarray(positions)))
        return tuple(x.numpy() for x in apply_rotary_pos_emb(q, k, cosine, sine))

    return rotate


SHORT, LONG = [1.0 + 0.05 * k for k in range(D // 2)], [1.0 + 1.5 * k for k in range(D // 2)]

THEIRS: dict[str, tuple[dict[str, Any], Rotary | Scheme]] = {
    "default": ({"rope_type": "default", "rope_theta": 10000.0}, Rotary.of(D)),
    "another base": ({"rope_type": "default", "rope_theta": 500000.0}, Rotary.of(D, 500000.0)),
    "linear": ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, linear_rotary(D, factor=4.0)),
    "llama3": (
        {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        llama3_rotary(D),
    ),
    "yarn": (
        {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 4096},
        yarn_rotary(D, factor=16.0, trained=4096),
    ),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", THEIRS)
def test_transformers_llama_passes(name: str, dtype: str) -> None:
    parameters, expects = THEIRS[name]
    bench, margin = look(RotaryTarget(name, llama(parameters), expects, D, pair=True), dtype=dtype, cases=30)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1
    assert dtype == "float32" or any("Its angles are float32's" in note for note in bench.notes)


def test_transformers_llama_says_what_it_is_without_being_told() -> None:
    bench, _ = look(RotaryTarget("llama3", llama(THEIRS["llama3"][0]), None, 128, pair=True), cases=5)
    bench, _ = look(RotaryTarget("llama3", llama(THEIRS["llama3"][0], width=128), None, 128, pair=True), cases=5)
    (finding,) = bench.findings
    assert finding.kind == "convention"
    read = {name: finding.parameters[name] for name in ("scheme", "base", "factor", "trained", "low", "high")}
    wanted = {"base": 500000.0, "factor": 8.0, "trained": 8192.0, "low": 1.0, "high": 4.0}
    assert read == {"scheme": "Llama-3", **wanted}


def test_dynamic_ntk_keeps_the_base_of_a_longer_call_that_ends_at_the_trained_length() -> None:
    """transformers' dynamic update is stateful: a call below the trained length goes back, one at it does not."""
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    expects = DynamicNTK(D, factor=2.0, trained=512)
    target = RotaryTarget("dynamic", llama(parameters, most=512), expects, D, context=2048, pair=True)
    bench, _ = look(target, cases=10)
    assert {f.fault_class for f in bench.findings} <= {"rope-dynamic"}


def test_longrope_switches_with_the_length() -> None:
    parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": SHORT,
        "long_factor": LONG,
        "factor": 8.0,
        "original_max_position_embeddings": 512,
    }
    expects = LongRope(tuple(SHORT), tuple(LONG), trained=512, factor=8.0)
    target = RotaryTarget("longrope", llama(parameters, most=4096), expects, D, pair=True)
    bench, margin = look(target, cases=10)
    assert bench.findings == []
    assert margin is not None


def test_gpt_neox_turns_a_quarter_in_halves() -> None:
    torch = pytest.importorskip("torch", reason="rotary diagnosis: transformers runs on torch")
    modeling = pytest.importorskip("transformers.models.gpt_neox.modeling_gpt_neox", reason="the peers extra has it")
    from transformers import GPTNeoXConfig

    config = GPTNeoXConfig(hidden_size=2 * D, num_attention_heads=2, rotary_pct=0.25)
    embedding = modeling.GPTNeoXRotaryEmbedding(config)

    def rotate(q: Any, k: Any, positions: Any) -> Any:
        q, k = torch.from_numpy(q), torch.from_numpy(k)
        cosine, sine = embedding(q.float(), torch.from_numpy(np.ascontiguousarray(positions)))
        return tuple(x.numpy() for x in modeling.apply_rotary_pos_emb(q, k, cosine, sine))

    bench, margin = look(RotaryTarget("neox", rotate, Rotary.of(D // 4), D, pair=True), cases=10)
    assert bench.findings == []
    assert margin is not None
    undeclared, _ = look(RotaryTarget("neox", rotate, None, D, pair=True), cases=10)
    assert [(f.kind, f.fault_class, f.parameters["width"]) for f in undeclared.findings] == [
        ("convention", "rope-partial", D // 4)
    ]


def test_gpt_j_turns_adjacent_pairs() -> None:
    torch = pytest.importorskip("torch", reason="rotary diagnosis: transformers runs on torch")
    modeling = pytest.importorskip("transformers.models.gptj.modeling_gptj", reason="the peers extra has it")
    width = 32
    table = modeling.create_sinusoidal_positions(4096, width)

    def rotate(x: Any, positions: Any) -> Any:
        out = torch.from_numpy(x).transpose(1, 2).clone()
        sine, cosine = torch.split(table[torch.from_numpy(np.ascontiguousarray(positions))], width // 2, dim=-1)
        out[..., :width] = modeling.apply_rotary_pos_emb(out[..., :width], sine, cosine)
        return out.transpose(1, 2).numpy()

    expects = Rotary.of(width, layout="adjacent")
    bench, margin = look(RotaryTarget("gptj", rotate, expects, D), cases=10)
    assert bench.findings == []
    assert margin is not None
    other, _ = look(RotaryTarget("gptj", rotate, Rotary.of(width), D), cases=10)
    assert [(f.kind, f.parameters["layout"]) for f in other.findings] == [("convention", "adjacent")]


@pytest.mark.parametrize("interleaved", [0, 1])
def test_onnx_reference_passes(interleaved: int) -> None:
    pytest.importorskip("onnx", minversion="1.23", reason="rotary diagnosis: onnx's reference evaluator")
    from onnx.reference.ops.op_rotary_embedding import rotary_embedding

    table = np.arange(4096)[:, None] * Rotary.of(D // 2).frequencies

    def rotate(x: Any, positions: Any) -> Any:
        cosine, sine = np.cos(table).astype(x.dtype), np.sin(table).astype(x.dtype)
        return rotary_embedding(x, cosine, sine, positions, interleaved, D // 2, None)

    expects = Rotary.of(D // 2, layout="adjacent" if interleaved else "half")
    bench, margin = look(RotaryTarget("onnx", rotate, expects, D), cases=10)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1
