"""Frequencies and magnitudes as transformers computes them, and what its layers do with a length that changes.

transformers computes frequencies in float32: exponents 2k/r rounded to 2⁻²⁴, which moves a power by up to ln(base)
roundings (14 for a base of a million), then the power itself and a few products.  Where YaRN and Llama-3 mix two
frequencies in float32, the ramp's own rounding is multiplied by f - 1 at most.  So 40 roundings, 2.4e-6, and for the
two mixes 2.4e-6 · f.  Wrong formulas are off by 1e-2 and more.  Turned rows are compared in float32 at positions up to
4096, where an angle of 4096 radians in float32 is off by 2⁻¹² and its frequency by 4096 · 2.4e-6: 1e-2 in all.
"""

from collections.abc import Iterator
import math
from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary
from kvattn.positions.dynamic_ntk import DynamicNTK
from kvattn.positions.linear_interpolation import linear_frequencies
from kvattn.positions.llama3 import llama3_frequencies
from kvattn.positions.longrope import LongRope
from kvattn.positions.ntk import ntk_frequencies
from kvattn.positions.proportional import proportional_frequencies
from kvattn.positions.yarn import yarn_frequencies, yarn_magnitude, yarn_scale_factor
from kvattn.testing.heads_by_hand import drawn, drawn_projections
from kvattn.testing.laws import stepped
from kvattn.variants.dense.before_rotation import BeforeRotation

torch = pytest.importorskip("torch", reason="rotary scalings: transformers runs on torch")
pytest.importorskip(
    "transformers", minversion="5.23", reason="rotary scalings: needs transformers, which the peers extra installs"
)

pytestmark = pytest.mark.peer

HEADS = 2
CLOSE = 40 * 2.0**-24
BASES = [10000.0, 1000000.0]


def theirs(kind: str, width: int, base: float, length: int | None = None, most: int = 4096, **given: Any) -> Any:
    """Frequencies and magnitude out of ``ROPE_INIT_FUNCTIONS``."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=HEADS * width,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=width,
        max_position_embeddings=most,
        rope_parameters={"rope_type": kind, "rope_theta": base, **given},
    )
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[kind](config, seq_len=length)
    assert frequencies.dtype == torch.float32
    return frequencies.numpy().astype(np.float64), float(magnitude)


def apart(found: Any, wanted: tuple[float, ...]) -> float:
    """The largest relative error; a frequency of 0 must be 0 on both sides."""
    right = np.array(wanted)
    assert found.shape == right.shape
    assert ((found == 0) == (right == 0)).all()
    return float(np.max(np.abs(found - right)[right != 0] / right[right != 0]))


@pytest.mark.peer("positions/linear_interpolation", "transformers ROPE_INIT_FUNCTIONS['linear']", "2.4e-6: float32")
@pytest.mark.parametrize("base", BASES)
def test_linear(base: float) -> None:
    found, magnitude = theirs("linear", 64, base, factor=4.0)
    assert apart(found, linear_frequencies(64, factor=4.0, base=base)) <= CLOSE
    assert magnitude == 1.0
    assert apart(found, linear_frequencies(64, factor=4.1, base=base)) > 1e3 * CLOSE


@pytest.mark.peer("positions/dynamic_ntk", "transformers ROPE_INIT_FUNCTIONS['dynamic']", "2.4e-6: float32")
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 20000])
def test_dynamic(length: int) -> None:
    scheme = DynamicNTK(64, factor=2.0, trained=4096)
    found, magnitude = theirs("dynamic", 64, 10000.0, length, factor=2.0)
    assert apart(found, scheme.frequencies_at(length)) <= CLOSE
    assert magnitude == scheme.rotary_at(length).magnitude


YARN: dict[str, dict[str, Any]] = {
    "paper": {"factor": 16.0},
    "fast and slow": {"factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
    "not rounded": {"factor": 32.0, "truncate": False},
    "both numbers": {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0},
    "equal numbers": {"factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "explicit": {"factor": 8.0, "attention_factor": 1.0},
}


@pytest.mark.peer("positions/yarn", "transformers ROPE_INIT_FUNCTIONS['yarn']", "2.4e-6 times f: float32")
@pytest.mark.parametrize("name", YARN)
@pytest.mark.parametrize("base", BASES)
def test_yarn(name: str, base: float) -> None:
    given = YARN[name]
    found, magnitude = theirs("yarn", 64, base, original_max_position_embeddings=4096, most=65536, **given)
    ours: dict[str, Any] = {
        "factor": given["factor"],
        "trained": 4096,
        "base": base,
        "fast": given.get("beta_fast", 32.0),
        "slow": given.get("beta_slow", 1.0),
        "truncate": given.get("truncate", True),
    }
    assert apart(found, yarn_frequencies(64, **ours)) <= CLOSE * given["factor"]
    assert apart(found, yarn_frequencies(64, **ours | {"trained": 5000})) > 10 * CLOSE * given["factor"]
    numbers = {name: given[name] for name in ("mscale", "mscale_all_dim") if name in given}
    assert magnitude == given.get("attention_factor", pytest.approx(yarn_magnitude(given["factor"], **numbers), abs=0))


def test_yarn_with_one_of_two_numbers_is_the_plain_formula_there() -> None:
    """A difference: DeepSeek's own code takes m(0.707) / m(0)."""
    _, magnitude = theirs("yarn", 64, 10000.0, original_max_position_embeddings=4096, factor=40.0, mscale=0.707)
    assert magnitude == yarn_magnitude(40.0)
    assert magnitude != yarn_magnitude(40.0, mscale=0.707)


def test_yarn_multiplies_the_scale_as_deepseek_does() -> None:
    modeling = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3", reason="DeepSeek-V3's code")
    parameters = {"rope_type": "yarn", "factor": 40.0, "mscale_all_dim": 0.707}
    scale = 192**-0.5
    wanted = scale * yarn_scale_factor(40.0, mscale_all_dim=0.707)
    assert modeling.yarn_apply_mscale(parameters, scale) == pytest.approx(wanted, rel=4 * 2.0**-53)


@pytest.mark.peer("positions/longrope", "transformers ROPE_INIT_FUNCTIONS['longrope']", "2.4e-6: float32")
@pytest.mark.parametrize("length", [1, 4095, 4096, 4097, 20000])
def test_longrope(length: int) -> None:
    short, long = tuple(1 + 0.03 * k for k in range(32)), tuple(1 + 0.9 * k for k in range(32))
    scheme = LongRope(short, long, trained=4096, factor=16.0)
    found, magnitude = theirs(
        "longrope",
        64,
        10000.0,
        length,
        most=65536,
        original_max_position_embeddings=4096,
        factor=16.0,
        short_factor=list(short),
        long_factor=list(long),
    )
    assert apart(found, scheme.frequencies_at(length)) <= CLOSE
    assert magnitude == scheme.magnitude_at(length)


@pytest.mark.peer("positions/llama3", "transformers ROPE_INIT_FUNCTIONS['llama3']", "2.4e-6 times f: float32")
@pytest.mark.parametrize(("factor", "base"), [(8.0, 500000.0), (32.0, 500000.0), (8.0, 10000.0)])
def test_llama3(factor: float, base: float) -> None:
    found, magnitude = theirs(
        "llama3",
        128,
        base,
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
        most=131072,
    )
    assert apart(found, llama3_frequencies(128, factor=factor, base=base)) <= CLOSE * factor
    assert magnitude == 1.0
    assert apart(found, llama3_frequencies(128, factor=factor, base=base, trained=8000)) > 10 * CLOSE * factor


@pytest.mark.peer("positions/proportional", "transformers ROPE_INIT_FUNCTIONS['proportional']", "2.4e-6: float32")
@pytest.mark.parametrize(("share", "factor"), [(0.25, 1.0), (0.3, 8.0), (1.0, 1.0), (0.0, 1.0)])
def test_proportional(share: float, factor: float) -> None:
    found, _ = theirs("proportional", 64, 10000.0, partial_rotary_factor=share, factor=factor)
    right = proportional_frequencies(64, share=share, factor=factor)
    if share:
        assert apart(found, right) <= CLOSE
    else:
        assert found.tolist() == list(right)


@pytest.mark.peer("positions/ntk", "transformers HunYuanDenseV1RotaryEmbedding", "2.4e-6: float32")
@pytest.mark.parametrize("alpha", [1.0, 4.0, 1000.0])
def test_a_fixed_alpha_as_hunyuan_has_it(alpha: float) -> None:
    modeling = pytest.importorskip(
        "transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense", reason="Hunyuan's code"
    )
    from transformers import HunYuanDenseV1Config

    config = HunYuanDenseV1Config(
        hidden_size=64,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": alpha, "factor": 1.0},
    )
    found = modeling.HunYuanDenseV1RotaryEmbedding(config).inv_freq.numpy().astype(np.float64)
    assert apart(found, ntk_frequencies(64, alpha=alpha)) <= CLOSE
    assert apart(found, ntk_frequencies(64, alpha=alpha * 1.1)) > 1e3 * CLOSE


@pytest.mark.peer("positions/ntk", "x-transformers RotaryEmbedding base_rescale_factor", "2.4e-6: float32")
def test_a_fixed_alpha_as_x_transformers_has_it() -> None:
    peer = pytest.importorskip(
        "x_transformers.x_transformers", reason="needs x-transformers, which the peers extra installs"
    )
    found = peer.RotaryEmbedding(64, base_rescale_factor=4.0).inv_freq.numpy().astype(np.float64)
    assert apart(found, ntk_frequencies(64, alpha=4.0)) <= CLOSE


@pytest.mark.peer(
    "positions/linear_interpolation", "x-transformers RotaryEmbedding interpolation_factor", "1e-2: float32 angles"
)
def test_interpolation_as_x_transformers_has_it() -> None:
    """It divides positions: its angles, in float32."""
    peer = pytest.importorskip(
        "x_transformers.x_transformers", reason="needs x-transformers, which the peers extra installs"
    )
    at = np.array([0, 1, 70, 4096])
    angles, scale = peer.RotaryEmbedding(64, interpolation_factor=4.0).forward(torch.from_numpy(at))
    assert float(scale) == 1.0
    found = np.unique(angles.numpy().astype(np.float64).reshape(4, -1), axis=1)
    right = np.unique(at[:, None] * np.array(linear_frequencies(64, factor=4.0)), axis=1)
    assert np.abs(found - right).max() <= 1e-2


def turned(embedding: Any, x: Any, at: Any) -> Any:
    """Rows turned by a layer's own cosines and sines, half layout, float32."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    rows, places = torch.from_numpy(x.astype(np.float32))[None, None], torch.from_numpy(at)[None]
    cosine, sine = embedding(rows, places)
    return apply_rotary_pos_emb(rows, rows, cosine, sine)[0][0, 0].numpy()


def llama(most: int, **given: Any) -> Any:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=8,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=most,
        rope_parameters={"rope_theta": 10000.0, **given},
    )
    return LlamaRotaryEmbedding(config)


def test_turned_rows_are_theirs_at_large_positions() -> None:
    x, at = np.random.default_rng(0).normal(size=(5, 8)), np.array([0, 1, 70, 1023, 4095])
    scheme = LongRope((1.0, 1.1, 1.2, 1.3), (1.0, 4.0, 9.0, 16.0), trained=1024, factor=4.0)
    longrope = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 1024}
    theirs_ = llama(4096, short_factor=list(scheme.short), long_factor=list(scheme.long), **longrope)
    rotary = scheme.rotary_at(4096)
    assert np.abs(turned(theirs_, x, at) - rotary.rotate(x, at)).max() <= 1e-2
    assert np.abs(turned(theirs_, x[:4], at[:4]) - scheme.rotary_at(1024).rotate(x[:4], at[:4])).max() <= 1e-2
    yarn = llama(4096, rope_type="yarn", factor=4.0, original_max_position_embeddings=1024)
    plain = Rotary(yarn_frequencies(8, factor=4.0, trained=1024), magnitude=yarn_magnitude(4.0))
    assert np.abs(turned(yarn, x, at) - plain.rotate(x, at)).max() <= 1e-2


def test_dynamic_frequencies_there_follow_the_longest_call_and_fall_back_below_the_trained_length() -> None:
    """What `kvattn.positions.dynamic_ntk` says of transformers, step by step."""
    scheme, layer = DynamicNTK(8, 2.0, trained=16), llama(16, rope_type="dynamic", factor=2.0)

    def length_in_use(calls_last: int) -> int:
        layer(torch.zeros(1), torch.arange(calls_last)[None])
        found = layer.inv_freq.numpy().astype(np.float64)
        return min(range(16, 64), key=lambda length: apart(found, scheme.frequencies_at(length)))

    assert [length_in_use(n) for n in (4, 16, 17, 40, 20)] == [16, 16, 17, 40, 40]
    assert [length_in_use(n) for n in (16, 15, 16)] == [40, 16, 16]


def test_phimoe_there_switches_its_magnitude_and_not_its_frequencies() -> None:
    """What `kvattn.positions.longrope` says of transformers 5.23."""
    modeling = pytest.importorskip("transformers.models.phimoe.modeling_phimoe", reason="PhiMoE's code")
    from transformers import PhimoeConfig

    config = PhimoeConfig(
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 100.0,
            "short_factor": [1.0] * 4,
            "long_factor": [8.0] * 4,
            "short_mscale": 1.0,
            "long_mscale": 2.0,
            "original_max_position_embeddings": 8,
        },
    )
    cosine, _ = modeling.PhimoeRotaryEmbedding(config)(torch.zeros(1), torch.arange(9)[None])
    assert float(cosine[0, 8, 0]) == pytest.approx(2.0 * math.cos(8 * 1.0), abs=1e-5)
    assert float(cosine[0, 8, 0]) != pytest.approx(2.0 * math.cos(8 / 8.0), abs=1e-1)


@pytest.fixture
def _float32_is_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("float32", "float"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


DYNAMIC = DynamicNTK(6, 4.0, trained=4, base=100.0)
LONG = LongRope((1.0, 1.5, 2.0), (1.0, 4.0, 9.0), trained=4, factor=8.0, base=100.0)
CHANGING: dict[str, tuple[Any, dict[str, Any]]] = {
    "dynamic": (DYNAMIC, {"rope_type": "dynamic", "factor": 4.0}),
    "longrope": (
        LONG,
        {
            "rope_type": "longrope",
            "factor": 8.0,
            "short_factor": list(LONG.short),
            "long_factor": list(LONG.long),
            "original_max_position_embeddings": 4,
        },
    ),
}


@pytest.mark.peer(
    "variants/dense/before_rotation", "transformers LlamaAttention, a fresh call for each length", "1e-12: float64"
)
@pytest.mark.usefixtures("_float32_is_float64")
@pytest.mark.parametrize("name", CHANGING)
def test_each_token_is_the_last_of_a_call_without_a_cache(name: str) -> None:
    """And transformers' own cache, whose keys are stale from the trained length on, is not."""
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama", reason="Llama's code")
    from transformers import DynamicCache, LlamaConfig

    scheme, given = CHANGING[name]
    sizes = {"hidden_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6}
    parameters = {"rope_theta": 100.0, **given}
    config = LlamaConfig(
        **sizes,
        num_hidden_layers=1,
        max_position_embeddings=4,
        attn_implementation="eager",
        rope_parameters=parameters,
    )
    w, x = drawn_projections(4, 2, hidden=12, width=6, value_width=6), drawn(2, 9, 12, seed=9)
    attention = modeling.LlamaAttention(config, 0).eval()
    with torch.no_grad():
        for theirs_, ours in ((attention.q_proj, w.query), (attention.k_proj, w.key), (attention.v_proj, w.value)):
            theirs_.weight.copy_(torch.from_numpy(np.ascontiguousarray(ours.T)))
        attention.o_proj.weight.copy_(torch.from_numpy(np.ascontiguousarray(w.output.T)))

    def called(embedding: Any, start: int, stop: int, cache: Any = None) -> Any:
        rows, at = torch.from_numpy(x[:, start:stop]), torch.arange(start, stop)[None]
        hidden = torch.full((stop - start, stop), float("-inf")).triu(start + 1)[None, None]
        found, _ = attention(
            rows, position_embeddings=embedding(rows, at), attention_mask=hidden, past_key_values=cache
        )
        return found.detach().numpy()[:, -1]

    found, _ = stepped(BeforeRotation(w, scheme), x, (1, 5, 6))
    kept, cache = modeling.LlamaRotaryEmbedding(config), DynamicCache()
    for t in range(9):
        anew = called(modeling.LlamaRotaryEmbedding(config), 0, t + 1)
        assert np.abs(found.out[:, t] - anew).max() < 1e-12
        decoded = called(kept, t, t + 1, cache)
        assert (np.abs(found.out[:, t] - decoded).max() < 1e-12) == (t < 4)
