"""torch's scaled dot product attention in float64, at 1e-12.

Why 1e-12 is enough, and not luck: each side is within the worst case of `kvattn.testing.tolerance` of the exact
answer, so they are within twice that of each other; every comparison uses that elementwise bound, and asserts
besides that it is below 1e-12 for the sizes and numbers drawn here.  The tested mistakes move results by 1e-3 or more.
"""

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest

import kvattn
from kvattn.masks import Causal, bottom_right, top_left, top_left_positions
from kvattn.testing.tolerance import Arithmetic, bounds

torch = pytest.importorskip("torch", minversion="2.5", reason="compares with torch's attention: kvattn[peers]")

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sdpa(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """float64 NumPy in and out."""
    tensors = [torch.from_numpy(np.array(x)) for x in (q, k, v)]
    return torch.nn.functional.scaled_dot_product_attention(*tensors, enable_gqa=True, **options).numpy()


def allowed(q: Any, k: Any, v: Any, **options: Any) -> Any:
    """Twice the worst case, which stays below 1e-12."""
    worst: Any = 2 * bounds(q, k, v, arithmetic=Arithmetic("float64"), **options).worst
    assert worst.max(initial=0.0) < 1e-12
    return worst


SHORT = st.floats(-2, 2, width=16)  # few digits: shrunk examples can be read; results need all 53 bits all the same


@st.composite
def inputs(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """q, k, v of sizes that differ from each other."""
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, width, value_width = (
        draw(st.integers(1, 5)),
        draw(st.sampled_from([1, 3, 8])),
        draw(st.sampled_from([2, 5])),
    )
    keys = draw(st.integers(1, 6))
    shapes = (
        (batch, kv_heads * group, queries, width),
        (batch, kv_heads, keys, width),
        (batch, kv_heads, keys, value_width),
    )
    seed = draw(st.integers(0, 1000))
    q, k, v = (np.random.default_rng([seed, n]).uniform(-2, 2, shape) for n, shape in enumerate(shapes))
    if draw(st.booleans()):
        q = draw(arrays(np.float64, q.shape, elements=SHORT))
    return q, k, v


scales = st.none() | st.sampled_from([0.3, 1.0, -0.5])


@given(inputs(), scales)
def test_plain(qkv: tuple[Any, Any, Any], scale: float | None) -> None:
    ours = kvattn.attention(*qkv, scale=scale)
    assert (np.abs(ours - sdpa(*qkv, scale=scale)) <= allowed(*qkv, scale=scale)).all()


@pytest.mark.peer("masks/causal", "torch scaled_dot_product_attention", "derived bound of float64, below 1e-12")
@given(inputs(), st.booleans(), scales)
def test_is_causal_hangs_in_the_top_left_corner(qkv: tuple[Any, Any, Any], square: bool, scale: float | None) -> None:
    """With T == S there is one triangle; with T != S torch's first query sees the first key only."""
    q, k, v = qkv
    if square:
        k, v = k[:, :, : q.shape[2]], v[:, :, : q.shape[2]]
        q = q[:, :, : k.shape[2]]
    queries, keys = q.shape[2], k.shape[2]
    theirs = sdpa(q, k, v, is_causal=True, scale=scale)
    bound = allowed(q, k, v, scale=scale, visible=top_left(queries, keys))
    at = top_left_positions(queries)
    assert (np.abs(kvattn.attention(q, k, v, mask=Causal(), q_positions=at, scale=scale) - theirs) <= bound).all()
    assert (np.abs(kvattn.attention(q, k, v, mask=top_left(queries, keys), scale=scale) - theirs) <= bound).all()
    if queries == keys:
        assert (np.abs(kvattn.attention(q, k, v, mask=Causal(), scale=scale) - theirs) <= bound).all()


def test_the_other_corner_is_noticed() -> None:
    q, k, v = (np.random.default_rng(n).normal(size=(1, 1, n, 4)) for n in (3, 5, 5))
    theirs = sdpa(q, k, v, is_causal=True)
    assert np.abs(kvattn.attention(q, k, v, mask=Causal()) - theirs).max() > 1e-3
    assert np.abs(kvattn.attention(q, k, v, mask=bottom_right(3, 5)) - theirs).max() > 1e-3


@pytest.mark.peer("masks/explicit", "torch scaled_dot_product_attention", "derived bound of float64, below 1e-12")
@given(inputs(), st.data(), scales)
def test_boolean_masks_and_rows_that_see_nothing(
    qkv: tuple[Any, Any, Any], data: st.DataObject, scale: float | None
) -> None:
    """True = may see on both sides; a row without a key is 0 on both sides."""
    q, k, v = qkv
    lead = data.draw(st.sampled_from([(1, 1), (q.shape[0], 1), (1, q.shape[1]), q.shape[:2]]))
    mask = data.draw(arrays(np.bool_, (*lead, q.shape[2], k.shape[2])))
    if data.draw(st.booleans()):
        mask[..., 0, :] = False
    theirs = sdpa(q, k, v, attn_mask=torch.from_numpy(mask), scale=scale)
    ours = kvattn.attend(q, k, v, mask=mask, scale=scale)
    assert (np.abs(ours.out - theirs) <= allowed(q, k, v, visible=mask, scale=scale)).all()
    empty = np.broadcast_to(~mask.any(-1), ours.lse.shape)
    assert not ours.out[empty].any()
    assert not theirs[empty].any()
    assert (np.isneginf(ours.lse) == empty).all()


@pytest.mark.peer("mods/bias", "torch scaled_dot_product_attention", "derived bound of float64, below 1e-12")
@given(inputs(), st.data(), scales)
def test_additive_masks_with_and_without_infinities(
    qkv: tuple[Any, Any, Any], data: st.DataObject, scale: float | None
) -> None:
    q, k, v = qkv
    numbers = st.floats(-3, 3, width=16) | st.just(-np.inf)
    lead = data.draw(st.sampled_from([(1, 1), (q.shape[0], 1), (1, q.shape[1]), q.shape[:2]]))
    bias = data.draw(arrays(np.float64, (*lead, q.shape[2], k.shape[2]), elements=numbers))
    theirs = sdpa(q, k, v, attn_mask=torch.from_numpy(bias), scale=scale)
    finite = np.where(np.isneginf(bias), 0.0, bias)
    bound = allowed(q, k, v, bias=finite, visible=~np.isneginf(bias), scale=scale)
    assert (np.abs(kvattn.attention(q, k, v, bias=bias, scale=scale) - theirs) <= bound).all()
    assert (
        np.abs(kvattn.attention(q, k, v, bias=finite, mask=~np.isneginf(bias), scale=scale) - theirs) <= bound
    ).all()


@given(inputs())
def test_the_log_sum_exp_is_torchs(qkv: tuple[Any, Any, Any]) -> None:
    q, k, v = qkv
    scores = torch.from_numpy(q) @ torch.from_numpy(np.repeat(k, q.shape[1] // k.shape[1], 1)).mT / q.shape[3] ** 0.5
    bound = 2 * bounds(q, k, v, arithmetic=Arithmetic("float64")).lse_worst
    assert bound.max() < 1e-12
    assert (np.abs(kvattn.attend(q, k, v).lse - torch.logsumexp(scores, -1).numpy()) <= bound).all()


def test_heads_tiled_instead_of_repeated_are_noticed() -> None:
    q, k, v = (np.random.default_rng(n).normal(size=(1, n, 3, 4)) for n in (4, 2, 2))
    tiled = kvattn.attention(q, np.tile(k, (1, 2, 1, 1)), np.tile(v, (1, 2, 1, 1)))
    assert np.abs(tiled - sdpa(q, k, v)).max() > 1e-3


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_tensors_go_in_as_they_are(kind: str) -> None:
    """Any floating dtype, requiring a gradient, not contiguous: the same bits as the same numbers in NumPy."""
    rng = np.random.default_rng(5)
    tensors = [torch.from_numpy(rng.normal(size=s)).to(getattr(torch, kind)) for s in ((2, 3, 4, 8), (2, 5, 1, 8))]
    q, k = tensors[0], tensors[1].transpose(1, 2)
    if not kind.startswith("float8"):
        q = q.requires_grad_()
    wide = [x.detach().double().numpy() for x in (q, k)]
    ours = kvattn.attention(q, k, k, mask=Causal())
    assert ours.dtype == np.float64
    assert np.array_equal(ours, kvattn.attention(wide[0], wide[1], wide[1], mask=Causal()))
    theirs = sdpa(wide[0], wide[1], wide[1], attn_mask=torch.from_numpy(bottom_right(4, 5)))
    assert (np.abs(ours - theirs) <= allowed(wide[0], wide[1], wide[1], visible=bottom_right(4, 5))).all()


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float32"])
def test_torch_in_a_smaller_dtype_is_within_that_dtypes_bound(kind: str) -> None:
    """torch multiplies in ``kind``, adds in float32 and stores ``kind``; what kvattn has beside is far smaller."""
    rng = np.random.default_rng(6)
    q, k, v = (torch.from_numpy(rng.normal(size=(2, n, 9, 16))).to(getattr(torch, kind)) for n in (4, 2, 2))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    arithmetic = Arithmetic(kind, accumulate="float32", store=kind)
    worst = bounds(*(x.double().numpy() for x in (q, k, v)), arithmetic=arithmetic, visible=top_left(9, 9)).worst
    assert (np.abs(kvattn.attention(q, k, v, mask=Causal()) - theirs.double().numpy()) <= worst).all()
