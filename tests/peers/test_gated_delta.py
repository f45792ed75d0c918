"""The gated delta rule as ONNX's reference computes it, and the whole layer as transformers' Qwen3-Next does.

Both compute in float32 whatever they are given, so the tolerance is the worst case of float32 arithmetic on the very
numbers (`kvattn.testing.recurrent_bounds`): kvattn's own float64 error is a billionth of it.

Where they differ: ONNX shares a state among the *query* heads of a group, ours (and transformers') shares a key head
among *value* heads, so they meet where there are as many of each; ONNX takes the decay as its natural logarithm, as
we do.  transformers interleaves its projections key head by key head, and forms decays inside a chunk as differences of
cumulative sums, which cancel where one token wipes the state: decays here are moderate.
"""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.recurrent_bounds import Trajectory, layer_bound
from kvattn.variants.recurrent.gated_delta import GatedDelta, weight_shapes
from kvattn.variants.recurrent.gated_delta_rule import chunked, l2_norm, recurrent

pytestmark = pytest.mark.peer


@pytest.mark.peer("variants/recurrent/gated_delta_rule", "onnx LinearAttention-27", "derived bound of float32")
@pytest.mark.parametrize("length", [1, 7, 70])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_onnx_linear_attention_with_the_gated_delta_rule(length: int, scale: float | None) -> None:
    onnx = pytest.importorskip("onnx", minversion="1.23", reason="LinearAttention: kvattn[peers]")
    from onnx import reference

    rng = np.random.default_rng(length)
    q, k = (l2_norm(rng.standard_normal((2, 3, length, 5))).astype(np.float32) for _ in range(2))
    v = rng.standard_normal((2, 3, length, 4)).astype(np.float32)
    decay = -rng.exponential(0.3, (2, 3, length)).astype(np.float32)
    beta = rng.uniform(0, 1, (2, 3, length)).astype(np.float32)
    state = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)

    def flat(a: Any) -> Any:
        return a.swapaxes(1, 2).reshape(2, length, -1)

    given = dict(
        zip("qkvsdb", (flat(q), flat(k), flat(v), state, decay.swapaxes(1, 2), beta.swapaxes(1, 2)), strict=True)
    )
    options = {} if scale is None else {"scale": scale}
    node = onnx.helper.make_node(
        "LinearAttention", [*given], ["o", "n"], q_num_heads=3, kv_num_heads=3, update_rule="gated_delta", **options
    )
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in (*given, "o", "n")]
    graph = onnx.helper.make_graph([node], "rule", infos[:6], infos[6:])
    version = onnx.defs.get_schema("LinearAttention").since_version
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)])
    out, final = reference.ReferenceEvaluator(model).run(None, given)
    parts: list[Any] = [a.astype(np.float64) for a in (q, k, v, decay, beta, state)]
    found, states = recurrent(*parts, scale=scale)
    bound = Trajectory(*parts, scale=5**-0.5 if scale is None else scale, dtype="float32").recurrent()
    assert bound.max() < 1e-3
    assert (np.abs(out.reshape(2, length, 3, 4).swapaxes(1, 2) - found) <= bound).all()
    assert (np.abs(chunked(*parts, scale=scale)[0] - found) <= 1e-8 * bound.max()).all()
    np.testing.assert_allclose(final, states[-1], rtol=0, atol=1e-5)


@pytest.mark.peer("variants/recurrent/gated_delta", "transformers Qwen3NextGatedDeltaNet", "derived bound of float32")
@pytest.mark.peer(
    "variants/recurrent/short_convolution", "transformers Qwen3NextGatedDeltaNet", "derived bound of float32"
)
@pytest.mark.parametrize("length", [1, 9, 70])
def test_transformers_qwen3_next_layer(length: int) -> None:
    """Prefill in chunks of 64, and decoding one by one behind it."""
    torch = pytest.importorskip("torch", reason="Qwen3-Next: transformers runs on torch")
    pytest.importorskip(
        "transformers", minversion="5.23", reason="Qwen3-Next: needs transformers, which the peers extra installs"
    )
    from transformers.cache_utils import DynamicCache
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    hidden, key_heads, group, width, value_width, taps = 8, 2, 2, 3, 5, 4
    heads = key_heads * group
    config = Qwen3NextConfig(
        hidden_size=hidden,
        num_hidden_layers=1,
        linear_num_key_heads=key_heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=width,
        linear_value_head_dim=value_width,
        linear_conv_kernel_dim=taps,
        layer_types=["linear_attention"],
    )
    torch.manual_seed(length)
    theirs = Qwen3NextGatedDeltaNet(config, 0).eval().float()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    held: dict[str, Any] = {name: p.detach().numpy().astype(np.float64) for name, p in theirs.named_parameters()}

    def by_key_head(matrix: Any, *widths: int) -> list[Any]:
        """Rows of [key head, (part, part, …)] to one ``[M, columns]`` for each part."""
        rows = matrix.reshape(key_heads, sum(widths), hidden)
        cut = np.split(rows, np.cumsum(widths)[:-1], axis=1)
        return [part.reshape(-1, hidden).T for part in cut]

    query, key, value, gate = by_key_head(
        held["in_proj_qkvz.weight"], width, width, group * value_width, group * value_width
    )
    beta, decay = by_key_head(held["in_proj_ba.weight"], group, group)
    weights: dict[str, Any] = {
        "query": query,
        "key": key,
        "value": value,
        "decay": decay,
        "log_rate": held["A_log"],
        "decay_bias": held["dt_bias"],
        "beta": beta,
        "gate": gate,
        "norm": held["norm.weight"],
        "output": held["out_proj.weight"].T,
        "convolution": held["conv1d.weight"][:, 0],
    }
    shapes = weight_shapes(
        hidden=hidden, key_heads=key_heads, heads=heads, width=width, value_width=value_width, taps=taps
    )
    assert {name: a.shape for name, a in weights.items()} == shapes
    ours = GatedDelta(**weights, key_heads=key_heads, norm_epsilon=config.rms_norm_eps)
    small = GatedDelta(
        **{name: a.astype(np.float32) for name, a in weights.items()},
        key_heads=key_heads,
        norm_epsilon=config.rms_norm_eps,
    )
    x = np.random.default_rng(length).standard_normal((2, length + 3, hidden)).astype(np.float32)
    wanted = ours.step(ours.start(2), x.astype(np.float64))[0].out
    bound = layer_bound(small, x) + layer_bound(small, x, 64)
    cache = DynamicCache(config=config)
    found = []
    with torch.no_grad():
        for start, stop in ((0, length), *((t, t + 1) for t in range(length, length + 3))):
            found.append(theirs(torch.from_numpy(x[:, start:stop]), cache_params=cache).numpy())
    error = np.abs(np.concatenate(found, axis=1) - wanted)
    assert (error <= bound).all()
    assert np.median(bound) < 1e-2 * np.median(np.abs(wanted))
