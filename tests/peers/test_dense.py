"""Whole layers beside torch's and transformers': multi-head, grouped and cross-attention, sinks and window.

All in float64: torch's modules keep the dtype of their weights, and for transformers, whose softmax and norms are
float32 by name, the name float32 means float64.  Both sides then differ by roundings only, a few hundred of 1.1e-16
on numbers of size 1, far below the 1e-12 allowed.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Padding
from kvattn.positions import Rotary
from kvattn.testing.laws import stepped
from kvattn.typing import Array, Attended
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.sub_norm import SubNorm
from kvattn.variants.sparse.sinks import KeptSinks

torch = pytest.importorskip("torch", reason="dense layers: compares with torch's modules, kvattn[peers]")

BATCH, T, M = 2, 7, 12


@pytest.fixture(autouse=True)
def _float32_is_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def weights(heads: int, kv_heads: int, width: int, source: int = M) -> Projections:
    shapes = (M, heads * width), (source, kv_heads * width), (source, kv_heads * width), (heads * width, M)
    query, key, value, output = (drawn(*shape, seed=n) * shape[0] ** -0.5 for n, shape in enumerate(shapes))
    return Projections(query, key, value, output, heads, kv_heads)


def fill(module: Any, **matrices: Array) -> None:
    """Copy matrices ``[in, out]`` into linear layers or parameters, which hold them turned; biases become zero."""
    parameters = dict(module.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.zero_()
        for name, matrix in matrices.items():
            parameters[name.replace("__", ".")].copy_(torch.from_numpy(np.ascontiguousarray(matrix.T)))


def same(found: Attended, wanted: Any) -> bool:
    return bool(np.abs(found.out - wanted.detach().numpy()).max() < 1e-12)


@pytest.mark.peer("variants/dense/grouped", "torch MultiheadAttention", "1e-12: float64")
def test_multi_head_attention_is_torchs() -> None:
    w, x = weights(3, 3, 4), drawn(BATCH, T, M, seed=9)
    theirs = torch.nn.MultiheadAttention(M, 3, batch_first=True)
    fill(theirs, in_proj_weight=np.concatenate([w.query, w.key, w.value], axis=1), out_proj__weight=w.output)
    blocked = torch.ones(T, T, dtype=torch.bool).triu(1)  # True is blocked there
    wanted, _ = theirs(*(torch.from_numpy(x),) * 3, attn_mask=blocked, need_weights=False)
    layer = Grouped(w)
    assert same(layer.definition(x, np.arange(T)), wanted)
    assert same(stepped(layer, x, (2, 3))[0], wanted)
    assert not same(Grouped(w, None).definition(x, np.arange(T)), wanted)  # the comparison sees the mask


@pytest.mark.peer("variants/dense/grouped", "transformers LlamaAttention", "1e-12: float64")
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_attention_is_llamas(kv_heads: int) -> None:
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama", reason="dense layers: kvattn[peers]")
    from transformers import LlamaConfig

    w, x = weights(4, kv_heads, 6), drawn(BATCH, T, M, seed=9)
    sizes = {"hidden_size": M, "num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 6}
    config = LlamaConfig(**sizes, num_hidden_layers=1, attn_implementation="eager")
    theirs = modeling.LlamaAttention(config, 0).eval()
    names = {"q_proj__weight": w.query, "k_proj__weight": w.key, "v_proj__weight": w.value, "o_proj__weight": w.output}
    fill(theirs, **names)
    angles = np.arange(T)[:, None] * np.array(Rotary.of(6).frequencies)
    both = [torch.from_numpy(np.concatenate([f(angles)] * 2, axis=1))[None] for f in (np.cos, np.sin)]
    hidden = torch.full((T, T), float("-inf")).triu(1)[None, None]
    wanted, _ = theirs(torch.from_numpy(x), position_embeddings=tuple(both), attention_mask=hidden)
    layer = Grouped(w, query_key=(Rotary.of(6),))
    assert same(layer.definition(x, np.arange(T)), wanted)
    assert same(stepped(layer, x, (2, 3))[0], wanted)
    assert not same(Grouped(w, query_key=(Rotary.of(6, layout="adjacent"),)).definition(x, np.arange(T)), wanted)


@pytest.mark.peer("variants/dense/cross", "torch MultiheadAttention with kdim and vdim", "1e-12: float64")
def test_cross_attention_is_torchs() -> None:
    w, x, memory = weights(3, 3, 4, source=5), drawn(BATCH, T, M, seed=9), drawn(BATCH, 6, 5, seed=8)
    theirs = torch.nn.MultiheadAttention(M, 3, kdim=5, vdim=5, batch_first=True)
    turned = {f"{name}_proj_weight": matrix for name, matrix in (("q", w.query), ("k", w.key), ("v", w.value))}
    fill(theirs, **turned, out_proj__weight=w.output)
    source = torch.from_numpy(memory)
    blocked = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    wanted, _ = theirs(torch.from_numpy(x), source, source, key_padding_mask=blocked, need_weights=False)
    layer = Cross(w, memory, mask=Padding([6, 4]))
    assert same(layer.definition(x, np.arange(T)), wanted)
    assert same(stepped(layer, x, (2, 3))[0], wanted)
    assert not same(Cross(w, memory).definition(x, np.arange(T)), wanted)


@pytest.mark.peer(
    "variants/sparse/sinks", "torch scaled_dot_product_attention with the mask in loops", "1e-12: float64"
)
@pytest.mark.parametrize(("sinks", "window"), [(1, 2), (2, 3), (0, 1)])
def test_sinks_and_window_are_a_dense_mask(sinks: int, window: int) -> None:
    w, x, turn = weights(4, 2, 6), drawn(BATCH, T, M, seed=9), Rotary.of(6)
    at = np.arange(T)
    q, k, v = w.queries(x), w.keys(x), w.values(x)
    q, k = turn.rotate(q, at), turn.rotate(k, at)
    seen = [[j <= i and (j < sinks or i - j < window) for j in range(T)] for i in range(T)]
    tensors = [torch.from_numpy(np.ascontiguousarray(part)) for part in (q, k, v)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    mixed = sdpa(*tensors, attn_mask=torch.tensor(seen), enable_gqa=True)
    wanted = mixed.swapaxes(1, 2).reshape(BATCH, T, -1) @ torch.from_numpy(w.output.copy())
    layer = KeptSinks(w, sinks=sinks, window=window, rotation=turn)
    assert same(layer.definition(x, at), wanted)
    assert same(stepped(layer, x, (2, 3))[0], wanted)
    assert not same(KeptSinks(w, sinks=sinks, window=window + 1, rotation=turn).definition(x, at), wanted)


@pytest.mark.peer("variants/dense/sub_norm", "transformers BitNetAttention", "1e-12: float64")
def test_the_norm_of_the_mix_is_bitnets() -> None:
    modeling = pytest.importorskip("transformers.models.bitnet.modeling_bitnet", reason="dense layers: kvattn[peers]")
    from transformers import BitNetConfig

    w, x, weight = weights(4, 2, 3), drawn(BATCH, T, M, seed=9), 1 + 0.3 * drawn(12, seed=7)
    sizes = {"hidden_size": M, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 0.125}
    config = BitNetConfig(**sizes, num_hidden_layers=1, attn_implementation="eager")
    theirs = modeling.BitNetAttention(config, 0).eval()
    names = {"q_proj__weight": w.query, "k_proj__weight": w.key, "v_proj__weight": w.value, "o_proj__weight": w.output}
    fill(theirs, **names, attn_sub_norm__weight=weight)
    still = tuple(torch.from_numpy(np.full((1, T, 3), value)) for value in (1.0, 0.0))  # cosine 1, sine 0
    hidden = torch.full((T, T), float("-inf")).triu(1)[None, None]
    wanted, _ = theirs(torch.from_numpy(x), position_embeddings=still, attention_mask=hidden)
    layer = Grouped(w, finish=(SubNorm(weight, 0.125),))
    assert same(layer.definition(x, np.arange(T)), wanted)
    assert same(stepped(layer, x, (2, 3))[0], wanted)
    assert not same(Grouped(w, finish=(SubNorm(weight, 0.1),)).definition(x, np.arange(T)), wanted)
