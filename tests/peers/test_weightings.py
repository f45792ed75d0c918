"""Attention without a plain softmax beside x-transformers, entmax, flash-linear-attention and torch, in float64.

Why 1e-12: sizes are below 30 and numbers below 4, so each side rounds a few hundred times near 1, which is below 1e-13;
the mistakes that the rows' own tests plant move results by 1e-3 or more.  Where a peer casts to float32 by name, that
name means float64 while it runs (`doubled`).
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path as File
from typing import Any
from unittest import mock

import numpy as np
import pytest

from kvattn.caches.blocks import blocks_of
from kvattn.core import scored
from kvattn.core.definition import definition
from kvattn.core.weights import Softmax, Weighing
from kvattn.masks import Causal
from kvattn.positions.shaw import ShawKeys
from kvattn.testing.laws import stepped
from kvattn.testing.weighed_by_hand import small
from kvattn.variants.dense.contextual_positions import ContextualPositions
from kvattn.variants.dense.entmax import Entmax15, Sparsemax
from kvattn.variants.dense.off_by_one import off_by_one
from kvattn.variants.dense.path import Path
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.relative_values import RelativeValues
from kvattn.variants.dense.relu import Relu, SquaredRelu
from kvattn.variants.dense.sigmoid import Sigmoid
from kvattn.variants.dense.softpick import Softpick
from kvattn.variants.dense.stick_breaking import BEFORE, StickBreaking
from kvattn.variants.dense.talking_heads import TalkingHeads

torch = pytest.importorskip("torch", reason="compares with torch and what is built on it: kvattn[peers]")

NEAR = 1e-12
B, H, T, D, DV = 2, 3, 21, 4, 5


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def doubled() -> Iterator[None]:
    """What asks for float32 by name gets float64."""
    with ExitStack() as stack:
        for name in ("float", "float32"):
            stack.enter_context(mock.patch.object(torch, name, torch.float64))
        stack.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        before = torch.get_default_dtype()
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(torch.float64)
        yield


def drawn(*shapes: tuple[int, ...]) -> list[Any]:
    draws = np.random.default_rng(11)
    return [draws.normal(size=shape) for shape in shapes]


def qkv() -> list[Any]:
    return drawn((B, H, T, D), (B, H, T, D), (B, H, T, DV))


def ours(parts: list[Any], weighing: Weighing, **options: Any) -> Any:
    """Causal unless told otherwise."""
    q, k, v = parts
    held = [blocks_of(k[b], v[b], np.arange(k.shape[2])) for b in range(len(k))]
    at = np.broadcast_to(np.arange(q.shape[2]), (len(q), q.shape[2]))
    bends = {"mask": Causal(), **options}
    return scored.attend(q, at, held, value_width=v.shape[3], weighing=weighing, **bends).out


def tensors(*arrays: Any) -> Any:
    return tuple(torch.from_numpy(np.array(array)) for array in arrays)


def logits(q: Any, k: Any) -> Any:
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


CAUSAL = torch.ones(T, T).tril().bool()


def apart(found: Any, wanted: Any) -> float:
    return float(np.abs(found - np.asarray(wanted.detach())).max())


@pytest.mark.peer("variants/dense/weighed", "torch scaled_dot_product_attention", "1e-12: float64 on both sides")
def test_the_softmax_held_whole_is_torchs_attention() -> None:
    wanted = torch.nn.functional.scaled_dot_product_attention(*tensors(*qkv()), is_causal=True)
    assert apart(ours(qkv(), Softmax()), wanted) < NEAR


@pytest.mark.peer("variants/dense/sigmoid", "torch.sigmoid of scores less ln n", "1e-12: float64 on both sides")
def test_sigmoid_in_torch() -> None:
    q, k, v = tensors(*qkv())
    wanted = torch.sigmoid(logits(q, k) - np.log(40)).masked_fill(~CAUSAL, 0) @ v
    assert apart(ours(qkv(), Sigmoid.of(40)), wanted) < NEAR


def x_transformers_attend(**options: Any) -> Any:
    attend = pytest.importorskip("x_transformers.attend", reason="compares with x-transformers, where it is installed")
    # qk_norm: its softmax then keeps the dtype that it is given
    return attend.Attend(causal=True, heads=H, qk_norm=True, **options).double()


@pytest.mark.peer("variants/dense/sigmoid", "x-transformers Attend(sigmoid=True)", "1e-12: float64 on both sides")
def test_sigmoid_in_x_transformers() -> None:
    wanted, _ = x_transformers_attend(sigmoid=True)(*tensors(*qkv()))
    assert apart(ours(qkv(), Sigmoid()), wanted) < NEAR


RECTIFIED: dict[str, tuple[Weighing, Callable[[Any], Any]]] = {
    "relu": (Relu(T), lambda s: torch.relu(s) / T),
    "squared": (SquaredRelu(T), lambda s: torch.relu(s).square() / T),
}


@pytest.mark.peer("variants/dense/relu", "torch.relu of scores over n", "1e-12: float64 on both sides")
@pytest.mark.parametrize("name", RECTIFIED)
def test_relu_in_torch(name: str) -> None:
    weighing, function = RECTIFIED[name]
    q, k, v = tensors(*qkv())
    assert apart(ours(qkv(), weighing), function(logits(q, k)).masked_fill(~CAUSAL, 0) @ v) < NEAR


@pytest.mark.peer("variants/dense/softpick", "torch.expm1, relu and abs, unshifted", "1e-12: float64 on both sides")
def test_softpick_in_torch() -> None:
    q, k, v = tensors(*qkv())
    moved = torch.expm1(logits(q, k)).masked_fill(~CAUSAL, 0)
    wanted = torch.relu(moved) / moved.abs().sum(-1, keepdim=True) @ v
    assert apart(ours(qkv(), Softpick(0.0)), wanted) < NEAR


@pytest.mark.peer("variants/dense/entmax", "entmax sparsemax and entmax15", "1e-12: float64 on both sides")
@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_entmax(name: str) -> None:
    entmax = pytest.importorskip("entmax", reason="compares with entmax, where it is installed")
    q, k, v = tensors(*qkv())
    weights = torch.zeros(B, H, T, T, dtype=torch.float64)
    for i in range(T):
        weights[..., i, : i + 1] = getattr(entmax, name)(4 * logits(q, k)[..., i, : i + 1], dim=-1)
    found = ours([4 * qkv()[0], *qkv()[1:]], Sparsemax() if name == "sparsemax" else Entmax15())
    assert apart(found, weights @ v) < NEAR


@pytest.mark.peer(
    "variants/dense/off_by_one", "torch MultiheadAttention(add_zero_attn=True)", "1e-12: float64 on both sides"
)
def test_off_by_one_in_torch() -> None:
    width = H * D
    theirs = torch.nn.MultiheadAttention(
        width, H, bias=False, add_zero_attn=True, batch_first=True, dtype=torch.float64
    ).eval()
    query, key, value = theirs.in_proj_weight.detach().numpy().reshape(3, width, width).swapaxes(1, 2)
    w = Projections(query, key, value, theirs.out_proj.weight.detach().numpy().T, H, H)
    (x,) = drawn((B, T, width))
    (states,) = tensors(x)
    wanted, _ = theirs(states, states, states, attn_mask=~CAUSAL, need_weights=False)  # True is blocked here
    assert apart(stepped(off_by_one(w), x, (3, 9))[0].out, wanted) < NEAR


@pytest.mark.peer("variants/dense/off_by_one", "x-transformers Attend(add_zero_kv=True)", "1e-12: float64")
def test_off_by_one_in_x_transformers() -> None:
    q, k, v = tensors(*qkv())
    wanted, _ = x_transformers_attend(add_zero_kv=True)(q, k, v)
    at = np.broadcast_to(np.arange(T), (B, T))
    found = definition(*qkv(), q_positions=at, k_positions=at, mask=Causal(), sinks=np.zeros(H)).out
    assert apart(found, wanted) < NEAR


def fla(path: str) -> Any:
    """One file of flash-linear-attention that needs torch and einops only; its package would ask for Triton."""
    pytest.importorskip("einops", reason="flash-linear-attention's reference files need einops")
    package = find_spec("fla")
    if package is None or not package.submodule_search_locations:
        pytest.skip("compares with flash-linear-attention, where it is installed")
    file = File(package.submodule_search_locations[0]) / path
    if not file.is_file():
        pytest.skip(f"this flash-linear-attention has no {path}")
    spec = spec_from_file_location(f"fla_{file.parent.name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.peer(
    "variants/dense/stick_breaking", "flash-linear-attention naive_stickbreaking_attn", "1e-12: float32 patched away"
)
@pytest.mark.parametrize("current", [False, True])
def test_stick_breaking(current: bool) -> None:
    naive = fla("ops/stickbreaking_attn/naive.py").naive_stickbreaking_attn
    with doubled():
        out, _ = naive(*(part.transpose(1, 2) for part in tensors(*qkv())), attend_current=current)
    found = ours(qkv(), StickBreaking(), mask=Causal() if current else BEFORE)
    assert apart(found, out.transpose(1, 2)) < NEAR


@pytest.mark.peer(
    "variants/dense/talking_heads", "x-transformers Attend(pre_talking_heads, post_talking_heads)", "1e-12: float64"
)
def test_talking_heads() -> None:
    theirs = x_transformers_attend(pre_talking_heads=True, post_talking_heads=True)
    p, r = drawn((H, H), (H, H))
    for held, matrix in ((theirs.pre_softmax_talking_heads, p), (theirs.post_softmax_talking_heads, r)):
        held.weight.data = torch.from_numpy(matrix)[:, :, None, None]
    wanted, _ = theirs(*tensors(*qkv()))
    assert apart(ours(qkv(), TalkingHeads(np.eye(H) + p, r)), wanted) < NEAR  # it adds to the unmixed logits


@pytest.mark.peer("variants/dense/contextual_positions", "x-transformers CoPE", "1e-12: float64 on both sides")
@pytest.mark.parametrize("count", [1, 5, 40])
def test_contextual_positions(count: int) -> None:
    library = pytest.importorskip("x_transformers.x_transformers", reason="compares with x-transformers' CoPE")
    theirs = library.CoPE(dim=D, heads=H, max_pos=count).double()
    (table,) = drawn((count, D))
    theirs.pos_emb.data = torch.from_numpy(table)
    wanted, _ = x_transformers_attend(cope=theirs)(*tensors(*qkv()))
    assert apart(ours(qkv(), ContextualPositions(table)), wanted) < NEAR


@pytest.mark.peer("variants/dense/path", "flash-linear-attention naive_path_attn", "1e-11: float32 patched away")
@pytest.mark.parametrize("chunk", [4, 64])
def test_path(chunk: int) -> None:
    """Its chunks invert a triangular matrix, so a few hundred roundings more: 1e-11."""
    naive = fla("ops/path_attn/naive.py").naive_path_attn
    w, _ = small()
    direction, strength, x = drawn((5, 8), (5, 2), (2, 19, 5))
    layer = Path(w, direction, strength)
    attended, cache = stepped(layer, x, (4, 5))
    rows = cache.rows()
    parts = (w.queries(x), rows.k, rows.v, rows.direction, rows.strength[..., 0], np.zeros((2, 4, 19)))
    with doubled():
        out = naive(*(part.transpose(1, 2) for part in tensors(*parts)), scale=0.5, chunk_size=chunk)
    assert apart(attended.out, torch.from_numpy(w.outputs(out.transpose(1, 2).numpy()))) < 1e-11


@pytest.mark.peer("variants/dense/relative_values", "torch indexing of a table by distance", "1e-12: float64")
@pytest.mark.parametrize("reach", [0, 3, 30])
def test_relative_values_in_torch(reach: int) -> None:
    (table,) = drawn((2 * reach + 1, DV))
    q, k, v = tensors(*qkv())
    weights = logits(q, k).masked_fill(~CAUSAL, -torch.inf).softmax(-1)
    steps = (torch.arange(T)[None] - torch.arange(T)[:, None]).clamp(-reach, reach) + reach
    wanted = weights @ v + (weights[..., None] * torch.from_numpy(table)[steps]).sum(-2)
    assert apart(ours(qkv(), Softmax(), beside=(RelativeValues(table),)), wanted) < NEAR


@pytest.mark.peer("variants/dense/relative_values", "torch indexing, with Shaw's keys too", "1e-12: float64")
def test_relative_keys_and_values_in_torch() -> None:
    """Both halves of the paper together."""
    keys, values = drawn((7, D), (7, DV))
    q, k, v = tensors(*qkv())
    steps = (torch.arange(T)[None] - torch.arange(T)[:, None]).clamp(-3, 3) + 3
    turned = (k[:, :, None] + torch.from_numpy(keys)[steps]) * q[:, :, :, None]  # q · (k + aᴷ)
    weights = (turned.sum(-1) / D**0.5).masked_fill(~CAUSAL, -torch.inf).softmax(-1)
    wanted = weights @ v + (weights[..., None] * torch.from_numpy(values)[steps]).sum(-2)
    found = ours(qkv(), Softmax(), beside=(RelativeValues(values),), mods=(ShawKeys.of(keys, behind=3),))
    assert apart(found, wanted) < NEAR
