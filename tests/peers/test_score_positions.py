"""Schemes on scores beside transformers, x-transformers and flash-linear-attention.

All in float64: their modules keep the dtype of their weights, and the names float32 and ``float()`` mean float64 here
unless a test says otherwise.  Both sides then differ by roundings only, a few hundred of 1.1e-16 on numbers of size 1
to 10: 1e-12 is allowed, and what is off by one is off by 1e-3 and more.  Whole numbers (buckets) are equal.
"""

from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec, spec_from_file_location
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Causal, Window
from kvattn.positions.alibi import Alibi, KeyAlibi, SymmetricAlibi, mpt_slopes, slopes
from kvattn.positions.disentangled import Disentangled, LogBuckets
from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.log_cpb import GridBias, log_cpb
from kvattn.positions.relative_projection import RelativeProjection
from kvattn.positions.shaw import ShawKeys
from kvattn.positions.t5_buckets import BothWays, BucketBias, Buckets, OneWay
from kvattn.positions.transformer_xl import TransformerXL
from kvattn.testing.heads_by_hand import drawn, drawn_projections
from kvattn.testing.laws import stepped
from kvattn.typing import Array
from kvattn.variants.dense.cosine import Cosine
from kvattn.variants.dense.forgetting import Forgetting
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.relative_projection import RelativeProjected
from tests.positions.scored import bent

torch = pytest.importorskip("torch", reason="schemes on scores: their peers run on torch, kvattn[peers]")
pytest.importorskip("transformers", minversion="5.23", reason="schemes on scores: needs transformers, kvattn[peers]")

pytestmark = pytest.mark.peer

CLOSE = 1e-12


@pytest.fixture(autouse=True)
def _float32_is_float64(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "single" in request.fixturenames:
        yield
        return
    for name in ("float32", "float"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def single() -> None:
    """Leave float32 alone: what is compared are the whole numbers that come out of float32."""


def tensor(array: Any) -> Any:
    return torch.from_numpy(np.array(array, order="C"))


def apart(ours: Any, theirs: Any) -> float:
    wanted = theirs.detach().numpy()
    assert ours.shape == wanted.shape
    return float(np.abs(ours - wanted).max())


def both(layer: Any, x: Array) -> Iterator[Array]:
    """The layer's output by its definition, and by steps where its mask is causal."""
    yield layer.definition(x, np.arange(x.shape[1])).out
    if layer.mask is not None:
        yield stepped(layer, x, (1, 4, 5))[0].out


# ALiBi


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 40])
@pytest.mark.peer("positions/alibi", "transformers bloom build_alibi_tensor", "1e-12")
def test_bloom_adds_slope_times_key(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 30, dtype=torch.int64), heads, torch.float64)
    ours = bent(KeyAlibi(slopes(heads)), [29], range(30), heads)
    assert apart(ours, theirs) <= CLOSE


@pytest.mark.parametrize("most", [8, 4])
@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 40])
@pytest.mark.peer("positions/alibi", "transformers mpt build_mpt_alibi_tensor", "1e-12")
def test_mpt_counts_from_the_last_key(heads: int, most: int) -> None:
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    theirs = build_mpt_alibi_tensor(heads, 30, most)
    assert apart(bent(Alibi(mpt_slopes(heads, most)), [29], range(30), heads), theirs) <= CLOSE


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
@pytest.mark.peer("positions/alibi", "transformers falcon build_alibi_tensor", "bits, up to key 256, for powers of two")
def test_falcon_rounds_to_bfloat16(heads: int) -> None:
    """Powers of two times a number of 8 bits fit; 257 does not, and shares its bias with 256."""
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 300, dtype=torch.int64), heads, torch.float64).numpy()
    ours = bent(KeyAlibi(slopes(heads)), [299], range(300), heads)
    if heads in (1, 2, 8):  # 16 heads have slopes that are no power of two
        assert np.array_equal(ours[..., :257], theirs[..., :257])
    assert np.array_equal(theirs[..., 256], theirs[..., 257])
    assert (ours[..., 256] < ours[..., 257]).all()


@pytest.mark.peer("positions/alibi", "x-transformers AlibiPositionalBias", "1e-12")
def test_x_transformers_takes_the_absolute_distance_and_leaves_heads_out() -> None:
    theirs = x_transformers().AlibiPositionalBias(5, total_heads=8)(9, 9)
    ours = bent(SymmetricAlibi(Alibi(slopes(5)).padded(8).slopes), range(9), range(9), 8)
    assert apart(ours, theirs) <= CLOSE


def x_transformers() -> Any:
    reason = "schemes on scores: x-transformers is installed beside kvattn[peers] by hand"
    return pytest.importorskip("x_transformers.x_transformers", reason=reason)


# T5

APART = np.arange(-1000, 1001)


def t5_bucket(rule: Buckets, farthest: int) -> Array:
    from transformers.models.t5.modeling_t5 import T5Attention

    both_ways = isinstance(rule, BothWays)
    found: Array = T5Attention._relative_position_bucket(tensor(-APART), both_ways, rule.count, farthest).numpy()
    return found


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("rule", [OneWay(), BothWays(), OneWay(32, 256), BothWays(64, 512)])
@pytest.mark.peer("positions/t5_buckets", "transformers T5Attention._relative_position_bucket", "integers, in float32")
def test_t5_buckets_are_equal(rule: Any) -> None:
    assert np.array_equal(rule(APART), t5_bucket(rule, rule.farthest))


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize(
    ("count", "farthest", "at", "ours", "theirs"),
    [
        (24, 889, [621], [22], [23]),
        (32, 939, [728], [30], [31]),
        (48, 81, [36, 54], [32, 40], [31, 39]),
        (96, 162, [72, 108], [64, 80], [63, 79]),
    ],
)
def test_float32_logarithms_put_some_distances_elsewhere(
    count: int, farthest: int, at: list[int], ours: list[int], theirs: list[int]
) -> None:
    rule = OneWay(count, farthest)
    there = t5_bucket(rule, farthest)
    moved = rule(APART) != there
    assert APART[moved].tolist() == at
    assert (rule(APART)[moved].tolist(), there[moved].tolist()) == (ours, theirs)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.peer("positions/t5_buckets", "x-transformers RelativePositionBias", "1e-12; its factor is given")
def test_x_transformers_scales_the_bias(causal: bool) -> None:
    module = x_transformers().RelativePositionBias(scale=2.0, causal=causal, heads=3)
    table = 2.0 * module.relative_attention_bias.weight.detach().numpy()
    mod = BucketBias(table, OneWay() if causal else BothWays())
    assert apart(bent(mod, range(10, 40), range(40), 3), module(30, 40)) <= CLOSE


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.peer("positions/t5_buckets", "transformers T5Attention", "1e-12")
def test_t5_does_not_scale(causal: bool) -> None:
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    length, hidden = 9, 12
    config = T5Config(
        d_model=hidden, d_kv=4, num_heads=3, relative_attention_num_buckets=8, relative_attention_max_distance=9
    )
    config.is_decoder = causal
    module = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    with torch.no_grad():
        for n, parameter in enumerate(module.parameters()):
            parameter.copy_(tensor(drawn(*parameter.shape, seed=n) * hidden**-0.5))
    x = drawn(2, length, hidden, seed=9)
    hides = torch.full((length, length), -math.inf).triu(1) if causal else torch.zeros(length, length)
    theirs = module(tensor(x), mask=hides[None, None])[0]
    query, key, value, output = (getattr(module, name).weight.detach().numpy().T for name in "qkvo")
    table = module.relative_attention_bias.weight.detach().numpy()
    mod = BucketBias(table, OneWay(8, 9) if causal else BothWays(8, 9))
    w = Projections(query, key, value, output, 3, 3)
    for ours in both(Grouped(w, Causal() if causal else None, mods=(mod,), scale=1.0), x):
        assert apart(ours, theirs) <= CLOSE


# Shaw


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.peer("positions/shaw", "transformers wav2vec2_bert relative_key", "1e-12")
def test_wav2vec2_bert_looks_further_back_than_ahead(causal: bool) -> None:
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import _apply_relative_key_position_encoding

    vectors, w = drawn(3 + 2 + 1, 4, seed=5), drawn_projections(3, 3, value_width=4)
    x = drawn(2, 7, w.hidden, seed=9)
    q, k, v = (tensor(rows(x)) for rows in (w.queries, w.keys, w.values))
    module = SimpleNamespace(
        left_max_position_embeddings=3,
        right_max_position_embeddings=2,
        distance_embedding=torch.nn.Embedding.from_pretrained(tensor(vectors)),
        scaling=0.5,
    )
    _, bias = _apply_relative_key_position_encoding(module, q, k)
    layer = Grouped(w, Causal() if causal else None, mods=(ShawKeys.of(vectors, 3),))
    for ours in both(layer, x):
        assert apart(ours, attended(q, k, v, bias, w, causal)) <= CLOSE


def attended(q: Any, k: Any, v: Any, bias: Any, w: Projections, causal: bool = True, scale: float | None = None) -> Any:
    """torch's attention with a bias, and the output projection."""
    if causal:
        bias = bias.masked_fill(torch.ones(bias.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale, enable_gqa=True)
    return mixed.transpose(1, 2).flatten(2) @ tensor(w.output)


# Transformer-XL


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.peer("positions/transformer_xl", "transformers XLNetRelativeAttention.rel_attn_core", "1e-12")
def test_xlnet_shifts_rows_into_place(causal: bool) -> None:
    from transformers import XLNetConfig
    from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

    heads, width, hidden, length = 3, 4, 12, 7
    core = XLNetRelativeAttention(XLNetConfig(d_model=hidden, n_head=heads, d_head=width, dropout=0.0)).double()
    shape = (hidden, heads, width)
    given = {name: drawn(*shape, seed=n) * hidden**-0.5 for n, name in enumerate("qkvor")}
    u, v = drawn(heads, width, seed=5), drawn(heads, width, seed=6)
    with torch.no_grad():
        for name, value in {**given, "r_w_bias": u, "r_r_bias": v}.items():
            getattr(core, name).copy_(tensor(value))
    x = drawn(2, length, hidden, seed=9)
    rows = tensor(x.swapaxes(0, 1))
    q, k, values = (torch.einsum("ibh,hnd->ibnd", rows, getattr(core, name)) for name in "qkv")
    frequencies = torch.tensor([10000 ** (-2 * n / hidden) for n in range(hidden // 2)])
    waves = XLNetModel.positional_embedding(torch.arange(length, -length, -1.0), frequencies, bsz=2)
    far = torch.einsum("ibh,hnd->ibnd", waves, core.r)
    hides = torch.ones(length, length).triu(1)[:, :, None, None].expand(-1, -1, 2, heads) if causal else None
    theirs = torch.einsum("ibnd,hnd->bih", core.rel_attn_core(q, k, values, far, attn_mask=hides), core.o)

    flat = {name: value.reshape(hidden, -1) for name, value in given.items()}
    w = Projections(flat["q"], flat["k"], flat["v"], np.ascontiguousarray(flat["o"].T), heads, heads)
    relative = TransformerXL.of(flat["r"], u, v, length, ahead=0 if causal else length)
    layer = Grouped(w, Causal() if causal else None, query_key=(relative,), mods=(relative,))
    for ours in both(layer, x):
        assert apart(ours, theirs) <= CLOSE


# DeBERTa


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("products", [["c2p", "p2c"], ["c2p"], ["p2c"]], ids="-".join)
@pytest.mark.parametrize("buckets", [-1, 4])
@pytest.mark.peer("positions/disentangled", "transformers deberta_v2 DisentangledSelfAttention", "1e-12")
def test_deberta_reads_positions_crosswise(buckets: int, products: list[str], causal: bool) -> None:
    from transformers import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    heads, width, length, most = 3, 4, 9, 6
    hidden = heads * width
    config = DebertaV2Config(
        hidden_size=hidden,
        num_attention_heads=heads,
        relative_attention=True,
        position_buckets=buckets,
        max_relative_positions=most,
        pos_att_type=products,
        share_att_key=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    module = DisentangledSelfAttention(config).eval()
    span = most if buckets < 0 else buckets
    with torch.no_grad():
        for n, parameter in enumerate(module.parameters()):
            parameter.copy_(tensor(drawn(*parameter.shape, seed=n) * hidden**-0.5))
        for name in ("query_proj", "key_proj", "value_proj"):
            getattr(module, name).bias.zero_()  # kvattn's projections have none
    x, relative = drawn(2, length, hidden, seed=50), drawn(2 * span, hidden, seed=51)
    sees = torch.ones(length, length, dtype=torch.bool)
    theirs, _ = module(tensor(x), (sees.tril() if causal else sees)[None, None], rel_embeddings=tensor(relative))

    def vectors(name: str) -> DistanceTable | None:
        if not hasattr(module, name):
            return None
        made = getattr(module, name)(tensor(relative)).detach().numpy()
        by_head = made.reshape(2 * span, heads, width).swapaxes(0, 1)
        return DistanceTable(by_head, span, None if buckets < 0 else LogBuckets(buckets, most))

    query, key, value = (
        getattr(module, f"{name}_proj").weight.detach().numpy().T for name in ("query", "key", "value")
    )
    mod = Disentangled(vectors("pos_key_proj"), vectors("pos_query_proj"))
    w = Projections(query, key, value, np.eye(hidden), heads, heads)
    layer = Grouped(w, Causal() if causal else None, mods=(mod,), scale=mod.factor(width))
    for ours in both(layer, x):
        assert apart(ours, theirs) <= CLOSE


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize(("count", "farthest"), [(256, 512), (256, 1024), (32, 128), (64, 256)])
@pytest.mark.peer(
    "positions/disentangled: log buckets", "transformers make_log_bucket_position", "integers, in float32, as clipped"
)
def test_debertas_log_buckets_are_equal(count: int, farthest: int) -> None:
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    at = np.arange(-2 * farthest, 2 * farthest)
    theirs = make_log_bucket_position(tensor(at), count, farthest).numpy()
    assert np.array_equal(
        np.clip(LogBuckets(count, farthest)(at), -count, count - 1), np.clip(theirs, -count, count - 1)
    )


# grids


@pytest.mark.parametrize("trained", [None, (4, 5)])
@pytest.mark.peer("positions/log_cpb: log-CPB", "transformers Swinv2SelfAttention", "1e-12")
def test_swin_v2_makes_its_table_with_a_network(trained: tuple[int, int] | None) -> None:
    from transformers import Swinv2Config
    from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention

    heads, grid = 3, (2, 3)
    module = Swinv2SelfAttention(Swinv2Config(), 12, heads, grid, list(trained or (0, 0)))
    with torch.no_grad():
        made = 16 * torch.sigmoid(module.continuous_position_bias_mlp(module.relative_coords_table).view(-1, heads))
    theirs = made[module.relative_position_index.view(-1)].view(6, 6, heads).permute(2, 0, 1)
    inner, outer = module.continuous_position_bias_mlp[0], module.continuous_position_bias_mlp[2]
    first, shift, last = (part.detach().numpy() for part in (inner.weight.T, inner.bias, outer.weight.T))
    mod = log_cpb(grid, first, shift, last, trained)
    assert apart(bent(mod, range(6), range(6), heads), theirs) <= CLOSE


@pytest.mark.peer("positions/log_cpb: log-CPB", "transformers Swinv2SelfAttention, whole", "1e-12")
def test_swin_v2_takes_cosines() -> None:
    from transformers import Swinv2Config
    from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention

    heads, grid, hidden = 3, (2, 3), 12
    module = Swinv2SelfAttention(Swinv2Config(), hidden, heads, grid).eval()
    with torch.no_grad():
        for n, parameter in enumerate(module.parameters()):
            parameter.copy_(tensor(drawn(*parameter.shape, seed=n)))
        module.query.bias.zero_()
        module.value.bias.zero_()
    x = drawn(2, 6, hidden, seed=9)
    inner, outer = module.continuous_position_bias_mlp[0], module.continuous_position_bias_mlp[2]
    first, shift, last = (part.detach().numpy() for part in (inner.weight.T, inner.bias, outer.weight.T))
    query, key, value = (getattr(module, name).weight.detach().numpy().T for name in ("query", "key", "value"))
    cosine = Cosine.learned(module.logit_scale.detach().numpy().ravel())
    w = Projections(query, key, value, np.eye(hidden), heads, heads)
    layer = Grouped(w, None, query_key=(cosine,), mods=(log_cpb(grid, first, shift, last),), scale=1.0)
    for ours in both(layer, x):
        assert apart(ours, module(tensor(x))[0]) <= CLOSE


@pytest.mark.peer("positions/log_cpb: learned", "transformers SwinRelativePositionBias", "bits: a lookup")
def test_swin_learns_its_table() -> None:
    from transformers.models.swin.modeling_swin import SwinRelativePositionBias

    module = SwinRelativePositionBias(3, (2, 3))
    with torch.no_grad():
        module.relative_position_bias_table.copy_(tensor(drawn(3 * 5, 3, seed=1)))
    table = module.relative_position_bias_table.detach().numpy().T.reshape(3, 3, 5)
    assert apart(bent(GridBias(table), range(6), range(6), 3), module()[0]) == 0


# relative projection


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.peer("variants/dense/relative_projection", "transformers InklingRelativeLogits, torch sdpa", "1e-12")
@pytest.mark.peer("positions/relative_projection", "transformers InklingRelativeLogits", "1e-12")
def test_inkling_mixes_curves(window: int | None) -> None:
    from transformers.models.inkling.modeling_inkling import InklingRelativeLogits

    w, extent = drawn_projections(4, 2, value_width=4), 5 if window is None else window
    module, relative = InklingRelativeLogits(3, extent), drawn(w.hidden, 4 * 3, seed=5)
    with torch.no_grad():
        module.proj.copy_(tensor(drawn(3, extent, seed=6)))
    x, length = drawn(2, 9, w.hidden, seed=9), 9
    at = torch.arange(length)
    bias = module(tensor(x @ relative).view(2, length, 4, 3), at, at)
    if window is not None:
        bias = bias.masked_fill(torch.ones(length, length, dtype=torch.bool).tril(-window), -math.inf)
    q, k, v = (tensor(rows(x)) for rows in (w.queries, w.keys, w.values))
    mask = Causal() if window is None else Window(window)
    curves = RelativeProjection(module.proj.detach().numpy())
    layer = RelativeProjected(w, relative, curves, mask=mask, scale=1 / 4)
    for ours in both(layer, x):
        assert apart(ours, attended(q, k, v, bias, w, scale=1 / 4)) <= CLOSE


@pytest.mark.peer("positions/relative_projection", "x-transformers RelativeProjPositionalBias", "1e-12")
def test_x_transformers_mixes_curves() -> None:
    module = x_transformers().RelativeProjPositionalBias(6, heads=2, num_distance_basis=3, max_dist=4)
    x = drawn(1, 7, 6, seed=9)
    weights = module.to_distance_weights(tensor(x)).detach().numpy()[0]
    mod = RelativeProjection(module.distance_bank.detach().numpy())
    assert apart(bent(mod, range(7), range(7), 2, query_notes=weights), module(tensor(x))[0]) <= CLOSE


# forgetting


def forgetting(mask: Any = Causal(), **change: Any) -> Forgetting:  # noqa: B008 a frozen value
    w = drawn_projections(4, 2, value_width=4)
    return Forgetting(w, drawn(w.hidden, 4, seed=5), drawn(4, seed=6), mask, **change)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.peer("variants/dense/forgetting", "fla naive_forgetting_attn", "1e-12, its float() made double")
def test_fla_adds_up_log_gates(window: int | None) -> None:
    found = find_spec("fla")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("schemes on scores: fla-core is installed beside kvattn[peers] by hand")
    path = Path(found.submodule_search_locations[0]) / "ops/forgetting_attn/naive.py"
    spec = spec_from_file_location("naive_forgetting", path)  # the package itself asks for a GPU's compiler
    assert spec is not None
    assert spec.loader is not None
    naive = module_from_spec(spec)
    spec.loader.exec_module(naive)

    layer = forgetting(Causal() if window is None else Window(window))
    w, x = layer.projections, drawn(2, 9, layer.projections.hidden, seed=9)
    q, k, v = (tensor(rows(x).swapaxes(1, 2)) for rows in (w.queries, w.keys, w.values))
    gates = torch.nn.functional.logsigmoid(tensor(x @ layer.gate + layer.gate_bias))
    theirs = naive.naive_forgetting_attn(q, k, v, gates, window_size=window).flatten(2) @ tensor(w.output)
    for ours in both(layer, x):
        assert apart(ours, theirs) <= CLOSE


@pytest.mark.peer("variants/dense/forgetting", "x-transformers DataDependentAlibi, torch sdpa", "1e-12")
def test_x_transformers_calls_it_data_dependent_alibi() -> None:
    module = x_transformers().DataDependentAlibi(6, 4)
    linear = module.to_forget_gates[0]
    gate, bias = linear.weight.detach().numpy().T, linear.bias.detach().numpy()
    layer = Forgetting(drawn_projections(4, 2, value_width=4), gate, bias)
    w, x = layer.projections, drawn(2, 9, 6, seed=9)
    q, k, v = (tensor(rows(x)) for rows in (w.queries, w.keys, w.values))
    for ours in both(layer, x):
        assert apart(ours, attended(q, k, v, module(tensor(x)), w)) <= CLOSE
