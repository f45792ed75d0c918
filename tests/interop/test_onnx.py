"""The ONNX adapters against loops in Python floats; tests/peers has onnx's own cases."""

from itertools import product
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.interop.onnx import attention, rotary_embedding

INF = math.inf


def noise(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def by_hand(
    q: Any,
    k: Any,
    v: Any,
    bias: Any,
    offset: list[int],
    real: list[int],
    *,
    causal: bool = False,
    left: int = -1,
    right: int = -1,
    scale: float = 0.5,
    softcap: float = 0.0,
    mode: int = 0,
) -> tuple[Any, Any]:
    """``Y`` and ``qk_matmul_output``, pair by pair as the operator's text has it."""
    batch, heads, queries, _ = q.shape
    keys, group = k.shape[2], heads // k.shape[1]
    y, stage = np.zeros((*q.shape[:3], v.shape[3])), np.zeros((*q.shape[:3], keys))
    for b, h, i in product(range(batch), range(heads), range(queries)):
        final = []
        for j in range(keys):
            raw = scale * math.fsum(x * z for x, z in zip(q[b, h, i], k[b, h // group, j], strict=True))
            capped = softcap * math.tanh(raw / softcap) if softcap else raw
            p = offset[b] + i
            hidden = (
                (causal and j > p)
                or (left >= 0 and j < p - left)
                or (right >= 0 and j > p + right)
                or j >= real[b]
                or bias[b, h, i, j] == -INF
            )
            final.append(-INF if hidden else capped + bias[b, h, i, j])
            stage[b, h, i, j] = (raw, capped, final[-1], 0.0)[mode]
        top = max(final, default=-INF)
        if top == -INF:
            continue
        weights = [math.exp(s - top) for s in final]
        total = math.fsum(weights)
        for j in range(keys):
            if mode == 3:
                stage[b, h, i, j] = weights[j] / total
        for d in range(v.shape[3]):
            y[b, h, i, d] = math.fsum(w * v[b, h // group, j, d] for j, w in enumerate(weights)) / total
    return y, stage


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Sizes that differ from each other, one of the three kinds of cache, any mask, window, cap and stage."""
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries, new, past = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(0, 4))
    cache = draw(st.sampled_from(["none", "past", "nonpad"]))
    total = new + (past if cache == "past" else 0)
    mask = draw(st.sampled_from(["none", "bool", "float", "short"]))
    lead = draw(st.sampled_from([(), (kv_heads * group,), (batch, 1), (1, kv_heads * group)]))
    reach = draw(st.integers(1, total)) if mask == "short" else total
    bits = np.array(draw(st.lists(st.booleans(), min_size=reach * queries, max_size=reach * queries)), bool)
    bits = np.broadcast_to(bits.reshape(queries, reach), (*lead, queries, reach))
    seed = draw(st.integers(0, 99))
    return {
        "shape": (batch, kv_heads, group, queries, new, past),
        "cache": cache,
        "mask": {"none": None, "float": np.where(bits, noise(*bits.shape, seed=seed), -INF)}.get(mask, bits),
        "real": draw(st.lists(st.integers(0, new), min_size=batch, max_size=batch)),
        "causal": draw(st.booleans()),
        "left": draw(st.integers(-1, 3)),
        "right": draw(st.integers(-1, 3)),
        "softcap": draw(st.sampled_from([0.0, 0.7])),
        "mode": draw(st.integers(0, 3)),
        "folded": draw(st.booleans()),
        "seed": seed,
    }


def fold(x: Any) -> Any:
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


@given(calls())
def test_attention_is_what_the_operators_text_says(call: dict[str, Any]) -> None:
    batch, kv_heads, group, queries, new, past = call["shape"]
    heads, seed = kv_heads * group, call["seed"]
    q, k, v = noise(batch, heads, queries, 3), noise(batch, kv_heads, new, 3, seed=seed), noise(batch, kv_heads, new, 2)
    old_k, old_v = noise(batch, kv_heads, past, 3), noise(batch, kv_heads, past, 2)
    inside = call["cache"] == "past"
    whole_k, whole_v = (np.concatenate((old_k, k), 2), np.concatenate((old_v, v), 2)) if inside else (k, v)
    total = whole_k.shape[2]
    outside = call["cache"] == "nonpad"
    real = call["real"] if outside else [total] * batch
    offset = [r - queries for r in real] if outside else [past if inside else 0] * batch
    bias = np.full((batch, heads, queries, total), 0.0)
    if call["mask"] is not None:
        given_mask = call["mask"]
        added = np.where(given_mask, 0.0, -INF) if given_mask.dtype == bool else given_mask
        bias[..., given_mask.shape[-1] :] = -INF
        bias[..., : given_mask.shape[-1]] += added
    wanted, stage = by_hand(
        q,
        whole_k,
        whole_v,
        bias,
        offset,
        real,
        causal=call["causal"],
        left=call["left"],
        right=call["right"],
        softcap=call["softcap"],
        mode=call["mode"],
    )
    counts = {"q_num_heads": heads, "kv_num_heads": kv_heads}
    shape = fold if call["folded"] else np.asarray
    done = attention(
        shape(q),
        shape(k),
        shape(v),
        call["mask"],
        old_k if inside else None,
        old_v if inside else None,
        real if outside else None,
        is_causal=int(call["causal"]),
        left_window_size=call["left"],
        right_window_size=call["right"],
        scale=0.5,
        softcap=call["softcap"],
        qk_matmul_output_mode=call["mode"],
        **(counts if call["folded"] else {}),
    )
    assert np.allclose(done.Y, shape(wanted), rtol=0, atol=1e-13)
    assert np.array_equal(done.present_key, whole_k)
    assert np.array_equal(done.present_value, whole_v)
    assert np.allclose(done.qk_matmul_output, stage, rtol=0, atol=1e-13)


def test_the_dtype_asked_for_is_kept_in_every_output() -> None:
    x = noise(1, 2, 3, 4)
    for mode in range(4):
        done = attention(x, x, x, noise(3, 3), qk_matmul_output_mode=mode, dtype=np.float32)
        assert {output.dtype for output in done} == {np.dtype(np.float32)}


def test_no_keys_give_zeros_and_a_stage_without_columns() -> None:
    q, none = noise(1, 2, 3, 4), np.zeros((1, 2, 0, 4))
    for mode in range(4):
        done = attention(q, none, none, qk_matmul_output_mode=mode, is_causal=1, left_window_size=1)
        assert not done.Y.any()
        assert done.qk_matmul_output.shape == (1, 2, 3, 0)


X4, X3 = noise(2, 4, 3, 6), noise(2, 3, 24)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((X4, X4, X3), {}, ShapeError, r"v must have rank 3 or 4, the same for all, got shape \(2, 3, 24\)"),
        ((X4[0, 0], X4, X4), {}, ShapeError, r"q must have rank 3 or 4, the same for all, got shape \(3, 6\)"),
        ((X3, X3, X3), {}, ArgumentError, "q_num_heads must divide the 24 features of q, got None"),
        (
            (X3, X3, X3),
            {"q_num_heads": 4, "kv_num_heads": 5},
            ArgumentError,
            "kv_num_heads must divide the 24 features of k, got 5",
        ),
        ((X4, X4, X4), {"q_num_heads": 3}, ArgumentError, "q_num_heads must be the 4 heads of q or left out, got 3"),
        ((X4, X4[:, :3], X4[:, :3]), {}, ShapeError, "q must have a multiple of the 3 key/value heads"),
        ((X4, X4, X4, None, X4), {}, ArgumentError, "past_key and past_value must come together, got one of them"),
        (
            (X4, X4, X4, None, X4, X4, [3, 3]),
            {},
            ArgumentError,
            "nonpad_kv_seqlen must not come together with past_key",
        ),
        (
            (X4, X4, X4, None, X4[..., :5], X4),
            {},
            ShapeError,
            r"past_key must have shape \[2, 4, past, 6\], got \(2, 4, 3, 5\)",
        ),
        (
            (X4, X4, X4, None, X4, X4[:, :, :2]),
            {},
            ShapeError,
            r"past_value must have shape \[2, 4, past, 6\] with past=3",
        ),
        ((X4, X4, X4, None, None, None, [3]), {}, ShapeError, r"nonpad_kv_seqlen must have shape \[2\]"),
        (
            (X4, X4, X4, None, None, None, [3, 4]),
            {},
            ArgumentError,
            r"nonpad_kv_seqlen must be from 0 to the 3 keys, got \[3, 4\]",
        ),
        ((X4, X4, X4, np.zeros((2, 4))), {}, ShapeError, r"attn_mask must broadcast to \[B, Hq, T, S\] = "),
        ((X4, X4, X4, np.zeros((3, 3), complex)), {}, DtypeError, "attn_mask must be an array of real numbers"),
        ((X4, X4, X4), {"left_window_size": -2}, ArgumentError, "left_window_size must be an integer >= -1, got -2"),
        (
            (X4, X4, X4),
            {"right_window_size": 1.5},
            ArgumentError,
            "right_window_size must be an integer >= -1, got 1.5",
        ),
        (
            (X4, X4, X4),
            {"qk_matmul_output_mode": 4},
            ArgumentError,
            "qk_matmul_output_mode must be 0, 1, 2 or 3, got 4",
        ),
        ((X4, X4, X4), {"softmax_precision": 2}, ArgumentError, "softmax_precision must be one of .*, got 2"),
        ((X4, X4, X4), {"softcap": -1.0}, ArgumentError, "softcap must be a finite number above 0, got -1.0"),
        ((X4, X4, X4), {"dtype": np.float16}, DtypeError, "dtype must be float64 or float32"),
    ],
)
def test_a_bad_argument_of_attention_is_named(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        attention(*arguments, **options)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("turning", [0, 2, 6])
@pytest.mark.parametrize("folded", [False, True])
def test_pairs_are_multiplied_by_the_tables(interleaved: int, turning: int, folded: bool) -> None:
    """``(a, b)`` becomes ``(c a - s b, s a + c b)``, whatever c and s are."""
    width = turning or 6
    x, (cosine, sine) = noise(2, 4, 3, 6), noise(2, 5, width // 2)
    ids = np.array([[4, 0, 2], [1, 1, 3]])
    wanted = x.copy()
    for b, h, t, pair in product(range(2), range(4), range(3), range(width // 2)):
        c, s = cosine[ids[b, t], pair], sine[ids[b, t], pair]
        i, j = (2 * pair, 2 * pair + 1) if interleaved else (pair, pair + width // 2)
        wanted[b, h, t, i] = c * x[b, h, t, i] - s * x[b, h, t, j]
        wanted[b, h, t, j] = s * x[b, h, t, i] + c * x[b, h, t, j]
    options: dict[str, Any] = {"interleaved": interleaved, "rotary_embedding_dim": turning}
    if folded:
        x, wanted, options["num_heads"] = fold(x), fold(wanted), 4
    found = rotary_embedding(x, cosine, sine, ids, **options)
    assert np.allclose(found, wanted, rtol=0, atol=1e-13)
    gathered = rotary_embedding(x, cosine[ids], sine[ids], **options)
    assert np.array_equal(gathered, found)
    assert rotary_embedding(x, cosine, sine, ids, dtype=np.float32, **options).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((X4[0, 0], X3, X3), {}, ShapeError, r"x must have rank 3 or 4"),
        ((X3, X3, X3), {"num_heads": 7}, ArgumentError, "num_heads must divide the 24 features of x, got 7"),
        (
            (X4, X3, X3),
            {"rotary_embedding_dim": 8},
            ArgumentError,
            "rotary_embedding_dim must be even and at most 6, got 8",
        ),
        (
            (X4, X3, X3),
            {"rotary_embedding_dim": 3},
            ArgumentError,
            "rotary_embedding_dim must be even and at most 6, got 3",
        ),
        ((X4, X3[..., :3], X3), {}, ShapeError, r"sin_cache must have a row of 3 for each token, got \(2, 3, 24\)"),
        (
            (X4, np.ones((5, 3)), np.ones((5, 3)), [[0, 1, 5]] * 2),
            {},
            ArgumentError,
            "position_ids must be from 0 to 4, got 0 to 5",
        ),
        (
            (X4, np.ones((5, 3)), np.ones((5, 3)), [[0]]),
            {},
            ShapeError,
            r"position_ids must have shape \[3\] or \[2, 3\]",
        ),
    ],
)
def test_a_bad_argument_of_rotary_embedding_is_named(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        rotary_embedding(*arguments, **options)
