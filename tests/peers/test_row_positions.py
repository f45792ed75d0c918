"""Positions on hidden states and on rows of queries and keys, beside transformers and x-transformers.

Peers keep frequencies and angles in float32 whatever they are given.  For these tests the name float32 means
float64, so that both sides compute in float64: angles up to 100 differ by a few roundings of themselves, 1e-14, and
cosines, sines and what they turn by as much; 1e-13 is allowed.
"""

from collections.abc import Iterator
import importlib
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kvattn.positions.axial import centres, dealt, grid, repeated
from kvattn.positions.learned import Learned
from kvattn.positions.multimodal import Multimodal, alternating, chunked, interleaved, mixed
from kvattn.positions.polar import Polar
from kvattn.positions.rotary import Rotary, geometric
from kvattn.positions.sinusoidal import Sinusoidal, spanning
from kvattn.positions.temperature import Rising, Stepped, Temperature
from kvattn.positions.xpos import XPos
from kvattn.testing.laws import stepped
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import HeadRmsNorm

torch = pytest.importorskip("torch", reason="row positions: transformers runs on torch")
transformers = pytest.importorskip(
    "transformers", minversion="5.23", reason="row positions: needs transformers, which the peers extra installs"
)

HEADS, T, D = 2, 12, 24
CLOSE: Any = {"rtol": 0, "atol": 1e-13}


@pytest.fixture(autouse=True)
def _float32_is_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def model(name: str) -> Any:
    return importlib.import_module(f"transformers.models.{name}.modeling_{name}")


def x_transformers() -> Any:
    return pytest.importorskip(
        "x_transformers.x_transformers", reason="row positions: the peers extra installs x-transformers"
    )


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def apart(ours: Any, theirs: Any) -> float:
    gap = np.abs(ours - np.asarray(theirs.detach() if hasattr(theirs, "detach") else theirs))
    return float(gap.max())


@pytest.mark.peer("positions/sinusoidal", "transformers whisper sinusoids", "1e-13: float64 on both sides")
def test_whisper_sinusoids() -> None:
    theirs = model("whisper").sinusoids(100, 16)
    ours = Sinusoidal(spanning(16), "half").embed(np.zeros((100, 16)), np.arange(100))
    assert apart(ours, theirs) < 1e-13
    assert apart(Sinusoidal(geometric(16), "half").embed(np.zeros((100, 16)), np.arange(100)), theirs) > 0.1


@pytest.mark.peer("positions/sinusoidal", "transformers M2M100SinusoidalPositionalEmbedding", "1e-13: float64")
@pytest.mark.parametrize("width", [16, 17])
@pytest.mark.parametrize("past", [0, 5])
def test_m2m_100_counts_from_behind_its_padding_index(width: int, past: int) -> None:
    table = model("m2m_100").M2M100SinusoidalPositionalEmbedding(50, width, padding_idx=1)
    x = drawn(2, 9, width)
    theirs = torch.from_numpy(x) + table(inputs_embeds=torch.from_numpy(x), past_key_values_length=past)
    at = np.arange(past, past + 9)
    assert apart(Sinusoidal(spanning(width), "half", offset=2).embed(x, at), theirs) < 1e-13
    assert apart(Sinusoidal(spanning(width), "half", offset=1).embed(x, at), theirs) > 0.1


def test_m2m_100_gives_padding_tokens_zeros() -> None:
    """Which is a matter of tokens, not of positions: such a token is masked, and ours gives it a wave."""
    table = model("m2m_100").M2M100SinusoidalPositionalEmbedding(50, 16, padding_idx=1)
    theirs = table(input_ids=torch.tensor([[1, 1, 7, 8]]))[0]
    assert not theirs[:2].any()
    assert apart(Sinusoidal(spanning(16), "half", offset=2).embed(np.zeros((2, 16)), np.arange(2)), theirs[2:]) < 1e-13


@pytest.mark.peer("positions/sinusoidal", "x-transformers ScaledSinusoidalEmbedding", "1e-13: float64 on both sides")
def test_x_transformers_scales_its_waves() -> None:
    theirs = x_transformers().ScaledSinusoidalEmbedding(16)(torch.zeros(1, 40, 16))
    ours = Sinusoidal(geometric(16), "half", magnitude=16**-0.5).embed(np.zeros((40, 16)), np.arange(40))
    assert apart(ours, theirs) < 1e-13


@pytest.mark.peer("positions/learned", "transformers OPTLearnedPositionalEmbedding", "0: the same additions")
def test_opt_keeps_two_rows_in_front() -> None:
    module = model("opt").OPTLearnedPositionalEmbedding(20, 8)
    ours = Learned(module.weight.detach().numpy(), offset=2)
    x = drawn(2, 6, 8)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])  # padding in front is no position
    theirs = torch.from_numpy(x) + module(mask)
    at = np.array([[0, 1, 2, 3, 4, 5], [-1, -1, 0, 1, 2, 3]])
    assert apart(ours.embed(x, at), theirs) == 0
    later = torch.from_numpy(x[:, 4:]) + module(mask, past_key_values_length=4)
    assert apart(ours.embed(x[:, 4:], at[:, 4:]), later) == 0


@pytest.mark.peer("positions/learned", "transformers GPT2Model", "0: the same additions")
def test_gpt2_starts_at_row_0() -> None:
    config = transformers.GPT2Config(vocab_size=11, n_positions=16, n_embd=8, n_layer=0, n_head=2, embd_pdrop=0.0)
    gpt2 = model("gpt2").GPT2Model(config).eval()
    gpt2.ln_f = torch.nn.Identity()
    words = torch.tensor([[3, 1, 4, 1, 5]])
    ours = Learned(gpt2.wpe.weight.detach().numpy()).embed(gpt2.wte.weight.detach().numpy()[words], np.arange(5))
    assert apart(ours, gpt2(words, use_cache=False).last_hidden_state) == 0


PLACES = mixed([3, (1, 2, 3), 3])
"""Twelve tokens with three coordinates each."""


def text_config(sections: list[int], **more: Any) -> Any:
    parameters = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": sections} | more
    return SimpleNamespace(
        rope_parameters=parameters,
        max_position_embeddings=64,
        head_dim=D,
        hidden_size=HEADS * D,
        num_attention_heads=HEADS,
    )


MULTIMODAL: dict[str, tuple[str, str, list[int], Rotary]] = {
    "Qwen2-VL": (
        "qwen2_vl",
        "Qwen2VLRotaryEmbedding",
        [2, 4, 6],
        Rotary(geometric(D, 100.0), axes=chunked((2, 4, 6))),
    ),
    "Qwen2.5-VL": (
        "qwen2_5_vl",
        "Qwen2_5_VLRotaryEmbedding",
        [6, 4, 2],
        Rotary(geometric(D, 100.0), axes=chunked((6, 4, 2))),
    ),
    "Qwen3-VL": (
        "qwen3_vl",
        "Qwen3VLTextRotaryEmbedding",
        [6, 3, 3],
        Rotary(geometric(D, 100.0), axes=interleaved((6, 3, 3))),
    ),
    "GLM-4.1V": (
        "glm4v",
        "Glm4vTextRotaryEmbedding",
        [2, 4, 6],
        Rotary(geometric(D, 100.0), "adjacent", axes=chunked((2, 4, 6))),
    ),
    "ERNIE-4.5-VL": (
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoeTextRotaryEmbedding",
        [4, 4, 4],
        Rotary(geometric(D, 100.0), "adjacent", axes=alternating((4, 4, 4))),
    ),
}


@pytest.mark.peer(
    "positions/multimodal",
    "transformers Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4.1V and ERNIE-4.5-VL rotary embeddings",
    "1e-13: float64 on both sides",
)
@pytest.mark.parametrize("name", MULTIMODAL)
def test_multimodal_rotation(name: str) -> None:
    module, embedding, sections, rotary = MULTIMODAL[name]
    theirs = model(module)
    q, k = drawn(1, HEADS, T, D), drawn(1, 1, T, D, seed=1)
    rows = [torch.from_numpy(a) for a in (q, k)]
    cosine, sine = getattr(theirs, embedding)(text_config(sections))(rows[0], torch.from_numpy(PLACES)[:, None])
    turned = theirs.apply_rotary_pos_emb(*rows, cosine, sine)
    ours = Multimodal(rotary, PLACES)
    at = np.arange(T)[None, None]
    assert apart(ours.queries(q, at), turned[0]) < 1e-13
    assert apart(ours.keys(k, at), turned[1]) < 1e-13
    assert apart(Multimodal(rotary, PLACES[[0, 2, 1]]).queries(q, at), turned[0]) > 1e-2


@pytest.mark.peer(
    "positions/multimodal", "transformers Glm4vTextRotaryEmbedding, half of the features", "1e-13: float64"
)
def test_glm_turns_the_first_half_of_its_features() -> None:
    theirs = model("glm4v")
    q = drawn(1, HEADS, T, D)
    config = text_config([2, 2, 2], partial_rotary_factor=0.5)
    cosine, sine = theirs.Glm4vTextRotaryEmbedding(config)(torch.from_numpy(q), torch.from_numpy(PLACES)[:, None])
    turned, _ = theirs.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(q), cosine, sine)
    rotary = Rotary(geometric(D // 2, 100.0), "adjacent", axes=chunked((2, 2, 2)))
    assert apart(Multimodal(rotary, PLACES).queries(q, np.arange(T)[None, None]), turned) < 1e-13


def places_of_qwen2(parts: list[Any]) -> Any:
    """Coordinates that transformers gives text and images, or videos of more than one frame, after merging by 2."""
    kinds, grids = [], []
    for part in parts:
        if isinstance(part, tuple):
            kinds += [2] * math.prod(part)
            grids.append([part[0], 2 * part[1], 2 * part[2]])
        else:
            kinds += [0] * part
    qwen2 = model("qwen2_vl").Qwen2VLModel
    holder = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)))
    holder.get_vision_position_ids = lambda *a, **k: qwen2.get_vision_position_ids(holder, *a, **k)
    ids = torch.zeros(1, len(kinds), dtype=torch.long)
    found, behind = qwen2.get_rope_index(
        holder, ids, torch.tensor([kinds]), video_grid_thw=torch.tensor(grids or [[0, 0, 0]])
    )
    return found[:, 0].numpy(), int(behind)


@pytest.mark.peer("positions/multimodal", "transformers Qwen2VLModel.get_rope_index", "0: integers")
@pytest.mark.parametrize("parts", [[4], [2, (1, 2, 3), 2], [1, (2, 3, 2), 3, (1, 1, 4), 1], [(3, 3, 1), 2]])
def test_coordinates_of_text_and_grids(parts: list[Any]) -> None:
    theirs, behind = places_of_qwen2(parts)
    assert (mixed(parts) == theirs).all()
    assert behind == mixed([*parts, 1])[0, -1] - theirs.shape[1]


def test_text_behind_a_long_video_differs_in_transformers() -> None:
    """transformers goes on from the larger of rows and columns; the paper from the largest coordinate, frames too."""
    parts = [1, (4, 2, 1), 2]
    theirs, _ = places_of_qwen2(parts)
    assert (mixed(parts)[:, :9] == theirs[:, :9]).all()
    assert mixed(parts)[:, 9:].tolist() == [[5, 6]] * 3
    assert theirs[:, 9:].tolist() == [[3, 4]] * 3  # frames 3 and 4 of the video stand there too


VISION_T = 15
ROWS, COLUMNS = 3, 5


def vision(name: str, **sizes: Any) -> Any:
    parameters = {"rope_type": "axial", "rope_theta": 100.0}
    return SimpleNamespace(
        rope_parameters=parameters,
        head_dim=D,
        embed_dim=HEADS * D,
        hidden_size=HEADS * D,
        num_attention_heads=HEADS,
        **sizes,
    )


@pytest.mark.peer("positions/axial", "transformers Qwen2VLVisionRotaryEmbedding", "1e-13: float64 on both sides")
def test_qwen2_vision() -> None:
    theirs, q = model("qwen2_vl"), drawn(VISION_T, HEADS, D)
    places = grid(ROWS, COLUMNS)
    embedding = theirs.Qwen2VLVisionRotaryEmbedding(vision("qwen2_vl"))
    cosine, sine = embedding(torch.from_numpy(q), torch.from_numpy(places.T.copy()))
    turned, _ = theirs.apply_rotary_pos_emb_vision(torch.from_numpy(q), torch.from_numpy(q), cosine, sine)
    ours = repeated(D, base=100.0).rotate(q.swapaxes(0, 1), places).swapaxes(0, 1)
    assert apart(ours, turned) < 1e-13


@pytest.mark.peer("positions/axial", "transformers PixtralVisionRotaryEmbedding", "1e-13: float64 on both sides")
def test_pixtral_deals_its_frequencies_out() -> None:
    theirs, q = model("pixtral"), drawn(1, HEADS, VISION_T, D)
    places = grid(ROWS, COLUMNS)
    cosine, sine = theirs.PixtralVisionRotaryEmbedding(vision("pixtral"))(
        torch.from_numpy(q), torch.from_numpy(places.T.copy())
    )
    turned, _ = theirs.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(q), cosine, sine, unsqueeze_dim=0)
    assert apart(dealt(D, base=100.0).rotate(q, places), turned) < 1e-13
    assert apart(repeated(D, base=100.0).rotate(q, places), turned) > 1e-2


@pytest.mark.peer("positions/axial", "transformers Llama4VisionRotaryEmbedding", "1e-13: float64 on both sides")
def test_llama4_vision_counts_columns_first_and_from_1() -> None:
    theirs, side = model("llama4"), 4
    q = drawn(1, side * side + 1, HEADS, D)
    turns = theirs.Llama4VisionRotaryEmbedding(vision("llama4", image_size=side * 14, patch_size=14))(torch.ones(1))
    turned, _ = theirs.vision_apply_rotary_emb(torch.from_numpy(q), torch.from_numpy(q), turns)
    rows, columns = grid(side, side)
    places = np.concatenate([np.stack([columns, rows]) + 1, [[0], [0]]], axis=1)  # the class token comes last
    ours = repeated(D, base=100.0, layout="adjacent").rotate(q.swapaxes(1, 2), places).swapaxes(1, 2)
    assert apart(ours, turned) < 1e-13


@pytest.mark.peer("positions/axial", "transformers DINOv3ViTRopePositionEmbedding", "1e-13: float64 on both sides")
def test_dinov3_stands_on_centres() -> None:
    theirs, prefix = model("dinov3_vit"), 5
    config = vision("dinov3_vit", rope_theta=100.0, image_size=64, patch_size=8)
    q = drawn(1, HEADS, prefix + VISION_T, D)
    embedding = theirs.DINOv3ViTRopePositionEmbedding(config).eval()
    cosine, sine = embedding(torch.zeros(1, 3, ROWS * 8, COLUMNS * 8))
    turned, _ = theirs.apply_rotary_pos_emb(torch.from_numpy(q), torch.from_numpy(q), cosine, sine)
    ours = q.copy()
    places: Any = 2 * np.pi * centres(ROWS, COLUMNS)
    ours[:, :, prefix:] = repeated(D, base=100.0).rotate(q[:, :, prefix:], places)
    assert apart(ours, turned) < 1e-13


@pytest.mark.peer("positions/axial", "transformers MiniMaxM3VLVisionRotaryEmbedding", "1e-13: float64 on both sides")
def test_minimax_m3_has_three_axes_and_a_rest() -> None:
    theirs, width = model("minimax_m3_vl"), 20
    q = drawn(12, HEADS, width)
    places = grid(2, 3, 2)
    config = vision("minimax_m3_vl")
    config.head_dim = width
    embedding = theirs.MiniMaxM3VLVisionRotaryEmbedding(config)
    cosine, sine = embedding(torch.from_numpy(q), torch.from_numpy(places.T.copy()))
    turned, _ = theirs.apply_rotary_pos_emb_vision(torch.from_numpy(q), torch.from_numpy(q), cosine, sine)
    ours = repeated(18, 3, base=100.0).rotate(q.swapaxes(0, 1), places).swapaxes(0, 1)
    assert apart(ours, turned) < 1e-13
    assert (ours[..., 18:] == q[..., 18:]).all()


def vjepa2(q: Any, places: Any) -> Any:
    """V-JEPA 2's attention applies its rotation slice by slice."""
    theirs = model("vjepa2")
    share = 2 * (D // 6)
    holder = SimpleNamespace(d_dim=share, h_dim=share, w_dim=share, attention_head_size=D)
    found = theirs.VJEPA2RopeAttention.apply_rotary_embeddings(
        holder, torch.from_numpy(q), [torch.from_numpy(place) for place in places]
    )
    return found.numpy()


def test_vjepa2_does_not_turn() -> None:
    """Adjacent pairs with waves laid out for half: feature n of a slice of 8 takes frequency n modulo 4."""
    places, q = grid(2, 3, 2).astype(float), drawn(1, HEADS, 12, D)
    theirs, share = vjepa2(q, places), 8
    waves = places.repeat(share, 0).T * np.tile(geometric(share), 6)[None]  # [N, D]
    pairs = q.reshape(*q.shape[:-1], D // 2, 2)
    crossed = np.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(q.shape)
    assert apart(q * np.cos(waves) + crossed * np.sin(waves), theirs) < 1e-13
    lengths, before = (np.linalg.norm(rows, axis=-1) for rows in (theirs, q))
    assert np.abs(lengths - before).max() > 0.1  # no rotation
    for layout in ("half", "adjacent"):
        ours = repeated(D, 3, layout=layout).rotate(q, places)
        assert np.allclose(np.linalg.norm(ours, axis=-1), before, **CLOSE)
        assert apart(ours, theirs) > 0.1


@pytest.mark.peer("positions/xpos", "x-transformers RotaryEmbedding(use_xpos=True)", "1e-13: float64 on both sides")
@pytest.mark.parametrize("length", [7, 12])
def test_x_transformers_centres_each_call(length: int) -> None:
    theirs = x_transformers()
    q, k = drawn(1, HEADS, length, D), drawn(1, HEADS, length, D, seed=1)
    angles, scale = theirs.RotaryEmbedding(D, use_xpos=True).forward_from_seq_len(length)
    turned = theirs.apply_rotary_pos_emb(torch.from_numpy(q), angles, scale)
    held = theirs.apply_rotary_pos_emb(torch.from_numpy(k), angles, scale**-1.0)
    rotary, at = Rotary.of(D, layout="adjacent"), np.arange(length)
    same = XPos.of(D, "adjacent", origin=length // 2)
    assert apart(same.queries(rotary.rotate(q, at), at), turned) < 1e-13
    assert apart(same.keys(rotary.rotate(k, at), at), held) < 1e-13
    ours = XPos.of(D, "adjacent")
    scores = ours.queries(rotary.rotate(q, at), at) @ ours.keys(rotary.rotate(k, at), at).swapaxes(-1, -2)
    assert apart(scores, turned @ held.transpose(-1, -2)) < 1e-13  # one call: no origin to be seen
    assert apart(ours.queries(rotary.rotate(q, at), at), turned) > 1e-3


def test_x_transformers_mixes_centres_when_it_decodes() -> None:
    """Keys cached in a call of 8 tokens meet a query whose call has 12: another score than in one call."""
    theirs = x_transformers()
    q, k = torch.from_numpy(drawn(1, 1, 12, D)), torch.from_numpy(drawn(1, 1, 12, D, seed=1))
    embedding = theirs.RotaryEmbedding(D, use_xpos=True, scale_base=16)

    def rows(length: int) -> tuple[Any, Any]:
        angles, scale = embedding.forward_from_seq_len(length)
        return (
            theirs.apply_rotary_pos_emb(q[:, :, :length], angles, scale),
            theirs.apply_rotary_pos_emb(k[:, :, :length], angles, scale**-1.0),
        )

    (whole, held), (_, cached) = rows(12), rows(8)
    one, two = (whole[:, :, 11:] @ keys[:, :, :8].transpose(-1, -2) for keys in (held, cached))
    assert apart(one.numpy(), two) > 0.05


M, KV_HEADS, WIDTH = 12, 1, 6


@pytest.mark.peer(
    "positions/temperature", "transformers Llama4TextAttention, a layer without rotation", "1e-11: float64"
)
@pytest.mark.parametrize("cuts", [(), (4, 5)])
def test_llama4_tunes_the_layers_that_do_not_rotate(cuts: tuple[int, ...]) -> None:
    """Two projections, scores and a mix in float64 on both sides, numbers of size 1: a few thousand roundings."""
    config = transformers.Llama4TextConfig(
        hidden_size=M,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH,
        num_hidden_layers=2,
        no_rope_layers=[1, 0],
        attn_temperature_tuning=True,
        attn_scale=0.5,
        floor_scale=3,
        attn_implementation="eager",
    )
    attention = model("llama4").Llama4TextAttention(config, layer_idx=1)
    matrices = {}
    for n, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj")):
        weight = getattr(attention, name).weight
        matrices[name] = drawn(*weight.shape, seed=n) / math.sqrt(weight.shape[1])
        weight.data = torch.from_numpy(matrices[name])
    x = drawn(2, T, M, seed=9)
    mask = torch.where(torch.ones(T, T).tril() > 0, 0.0, -math.inf)[None, None]
    theirs, _ = attention(torch.from_numpy(x), None, mask)
    query, key, value, output = (matrix.T for matrix in matrices.values())
    w = Projections(query, key, value, output, HEADS, KV_HEADS)
    ours = Grouped(w, query_key=(Temperature(Stepped(0.5, period=3, first=1)),))
    assert apart(stepped(ours, x, cuts)[0].out, theirs) < 1e-11
    late = Grouped(w, query_key=(Temperature(Stepped(0.5, period=3)),))
    assert apart(late.definition(x, np.arange(T)).out, theirs) > 1e-4
    assert apart(Grouped(w).definition(x, np.arange(T)).out, theirs) > 1e-3


@pytest.mark.peer(
    "positions/temperature", "transformers Ministral-3 and Mistral-4 get_llama_4_attn_scale", "1e-14: float64"
)
@pytest.mark.parametrize("name", ["ministral3", "mistral4"])
def test_ministral3_counts_from_0(name: str) -> None:
    at = np.array([[0, 8191, 8192, 16383, 16384, 10**6]])
    theirs = model(name).get_llama_4_attn_scale(torch.from_numpy(at), 0.1, 8192)
    q = np.ones((1, HEADS, 6, D))
    ours = Temperature(Stepped(0.1, 8192)).queries(q, at[:, None])
    assert apart(ours, q * theirs.numpy()) < 1e-14


@pytest.mark.peer("positions/polar", "x-transformers PolarEmbedding", "1e-13: float64 on both sides")
def test_x_transformers_polar() -> None:
    theirs = x_transformers()
    q, k = drawn(1, HEADS, T, D), drawn(1, HEADS, T, D, seed=1)
    embedding = theirs.PolarEmbedding(D, HEADS)
    embedding.learned_bias.data = torch.from_numpy(-2 * np.pi * np.random.default_rng(2).uniform(size=(HEADS, 1, D)))
    angles, ahead = embedding(torch.arange(T))
    turned = theirs.apply_polar_pos_emb(torch.from_numpy(q), angles)
    held = theirs.apply_polar_pos_emb(torch.from_numpy(k), angles + ahead)
    ours = Polar(Polar.of(D, HEADS).frequencies, ahead[:, 0].detach().numpy())
    at = np.arange(T)
    assert apart(ours.queries(q, at), turned) < 1e-13
    assert apart(ours.keys(k, at), held) < 1e-13
    assert apart(Polar.of(D, HEADS).keys(k, at), held) > 1e-2


@pytest.mark.peer("positions/temperature", "transformers InklingAttention, a global layer", "1e-11: float64")
def test_inkling_rises_in_its_global_layers() -> None:
    """With its convolutions and its bias taken out; norms in float64, too."""
    config = transformers.InklingTextConfig(
        hidden_size=M,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH,
        num_hidden_layers=1,
        layer_types=["hybrid"],
        log_scaling_alpha=0.5,
        log_scaling_n_floor=3,
        rms_norm_eps=0.125,
        attn_implementation="eager",
    )
    attention = model("inkling").InklingAttention(config, layer_idx=0)
    held = {}
    for n, (name, parameter) in enumerate(attention.named_parameters()):
        held[name] = drawn(*parameter.shape, seed=n) / math.sqrt(parameter.shape[-1])
        parameter.data = torch.from_numpy(held[name])
    for convolution in (attention.k_sconv, attention.v_sconv):
        convolution.forward = lambda rows, **_: rows
    attention.r_proj.weight.data *= 0
    x = drawn(2, T, M, seed=9)
    mask = torch.where(torch.ones(T, T).tril() > 0, 0.0, -math.inf)[None, None]
    theirs, _ = attention(torch.from_numpy(x), mask)
    query, key, value, output = (held[f"{name}_proj.weight"].T for name in "qkvo")
    w = Projections(query, key, value, output, HEADS, KV_HEADS)
    norm = HeadRmsNorm(held["q_norm.weight"], held["k_norm.weight"], 0.125)
    ours = Grouped(w, query_key=(norm, Temperature(Rising(0.5, 3))), scale=1 / WIDTH)
    assert apart(stepped(ours, x, (4, 5))[0].out, theirs) < 1e-11
    plain = Grouped(w, query_key=(norm,), scale=1 / WIDTH)
    assert apart(plain.definition(x, np.arange(T)).out, theirs) > 1e-4
