"""The gated delta rule: token by token against Python floats, chunk by chunk against token by token."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.counting import Tally, counting
from kvattn.errors import ArgumentError, ShapeError
from kvattn.testing.recurrent_bounds import Trajectory
from kvattn.variants.recurrent.gated_delta_rule import chunked, l2_norm, recurrent, recurrent_cost

DTYPES = [np.float64, np.float32]


def inputs(
    seed: Any,
    *,
    batch: Any = 1,
    key_heads: Any = 1,
    heads: Any = 1,
    length: Any = 5,
    width: Any = 3,
    value_width: Any = 2,
    dtype: Any = np.float64,
    decays: Any = 1.0,
) -> Any:
    """q, k, v, log decays, betas and a state: keys of length at most 1, betas up to 2."""
    rng = np.random.default_rng(seed)
    q, k = (l2_norm(rng.standard_normal((batch, key_heads, length, width))) for _ in range(2))
    v = rng.standard_normal((batch, heads, length, value_width))
    log_decay = -decays * rng.exponential(size=(batch, heads, length))
    beta = rng.uniform(0, 2, (batch, heads, length))
    state = rng.standard_normal((batch, heads, width, value_width))
    return tuple(a.astype(dtype) for a in (q, k, v, log_decay, beta, state))


def trajectory(parts: Any, scale: Any, dtype: Any) -> Any:
    q, k, v = parts[:3]
    group = v.shape[1] // k.shape[1]
    return Trajectory(
        np.repeat(q, group, 1), np.repeat(k, group, 1), *parts[2:6], scale=scale, dtype=np.dtype(dtype).name
    )


def by_hand(parts: Any, scale: Any) -> Any:
    """S_t = a (I - β k kᵀ) S_{t-1} + β k vᵀ, o = scale Sᵀ q; nested lists of Python floats."""
    q, k, v, log_decay, beta, state = parts
    batch, heads, length, value_width = v.shape
    width, group = k.shape[3], heads // k.shape[1]
    out, final = np.zeros(v.shape), np.zeros(state.shape)
    for b in range(batch):
        for h in range(heads):
            s = [[float(z) for z in row] for row in state[b, h]]
            for t in range(length):
                key = [float(z) for z in k[b, h // group, t]]
                query = [float(z) for z in q[b, h // group, t]]
                value = [float(z) for z in v[b, h, t]]
                a, rate = math.exp(float(log_decay[b, h, t])), float(beta[b, h, t])
                turn = [[a * ((m == n) - rate * key[m] * key[n]) for n in range(width)] for m in range(width)]
                s = [
                    [
                        sum(turn[m][n] * s[n][c] for n in range(width)) + rate * key[m] * value[c]
                        for c in range(value_width)
                    ]
                    for m in range(width)
                ]
                for c in range(value_width):
                    out[b, h, t, c] = scale * sum(query[m] * s[m][c] for m in range(width))
            final[b, h] = s
    return out, final


@pytest.mark.by_hand("variants/recurrent/gated_delta_rule")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_token_by_token_equals_python_floats(seed: Any, dtype: Any) -> None:
    parts = inputs(seed, batch=2, key_heads=2, heads=6, length=1 + 5 * seed, width=3, value_width=4, dtype=dtype)
    scale = 0.3 + seed
    found, states = recurrent(*parts, scale=scale)
    wanted, final = by_hand(parts, scale)
    bound = trajectory(parts, scale, dtype).recurrent()
    error = np.abs(found - wanted)
    assert found.dtype == states[-1].dtype == dtype
    assert (error <= 2 * bound).all()
    assert bound.max() < (1e-12 if dtype == np.float64 else 1e-3)
    np.testing.assert_allclose(states[-1], final, rtol=0, atol=1e-12 if dtype == np.float64 else 1e-4)


def test_a_beta_of_one_and_no_decay_is_a_table_that_is_written_over() -> None:
    keys = np.eye(2)[[0, 1, 0]][None, None]
    values = np.array([[1.0], [2.0], [5.0]])[None, None]
    zero, one = np.zeros((1, 1, 3)), np.ones((1, 1, 3))
    out, (state,) = recurrent(keys[:, :, [1, 1, 1]], keys, values, zero, one, np.zeros((1, 1, 2, 1)), scale=1.0)
    assert out.ravel().tolist() == [0.0, 2.0, 2.0]  # what the second key holds
    assert state.ravel().tolist() == [5.0, 2.0]


def test_the_scale_is_one_over_the_root_of_the_width_unless_given() -> None:
    parts = inputs(1, width=4)
    plain, _ = recurrent(*parts)
    assert np.array_equal(plain, recurrent(*parts, scale=0.5)[0])
    assert np.array_equal(chunked(*parts)[0], chunked(*parts, scale=0.5)[0])
    assert not np.array_equal(plain, recurrent(*parts, scale=0.6)[0])


def test_value_head_h_reads_key_head_h_over_g() -> None:
    q, k, *rest = inputs(2, key_heads=2, heads=4)
    for form in (recurrent, chunked):
        grouped = form(q, k, *rest)[0]
        assert np.array_equal(grouped, form(q[:, [0, 0, 1, 1]], k[:, [0, 0, 1, 1]], *rest)[0])
        assert not np.array_equal(grouped, form(q[:, [0, 1, 0, 1]], k[:, [0, 1, 0, 1]], *rest)[0])


@pytest.mark.parametrize(("keep", "count"), [(0, 0), (1, 1), (3, 3), (5, 5), (9, 5)])
def test_the_last_states_are_those_of_shorter_runs(keep: Any, count: Any) -> None:
    parts = inputs(3, length=5)
    tokens: list[Any] = list(parts[:5])
    state: Any = parts[5]
    _, states = recurrent(*[*tokens, state], keep=keep)
    assert len(states) == count
    for back, held in enumerate(reversed(states)):
        _, (alone,) = recurrent(*[*(a[:, :, : 5 - back] for a in tokens), state])
        assert np.array_equal(held, alone)


@pytest.mark.law("variants/recurrent/gated_delta_rule", "joined pieces equal the whole", "bits")
@pytest.mark.parametrize("ordered", [False, True])
@given(st.sampled_from(DTYPES), st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 5), max_size=5))
def test_joined_pieces_have_the_bits_of_the_whole(
    ordered: Any, dtype: Any, width: Any, value_width: Any, pieces: Any
) -> None:
    parts = inputs(
        5, batch=2, key_heads=1, heads=2, length=sum(pieces), width=width, value_width=value_width, dtype=dtype
    )
    tokens: list[Any] = list(parts[:5])
    state: Any = parts[5]
    with pytest.MonkeyPatch.context() as patch:
        if ordered:
            patch.setenv("KVATTN_ARITHMETIC", "ordered")
        whole, _ = recurrent(*[*tokens, state])
        found, start = [whole[:, :, :0]], 0
        for size in pieces:
            out, states = recurrent(*[*(a[:, :, start : start + size] for a in tokens), state])
            state, start = states[-1] if states else state, start + size
            found.append(out)
    assert np.concatenate(found, axis=2).tobytes() == np.ascontiguousarray(whole).tobytes()


@pytest.mark.law("variants/recurrent/gated_delta_rule", "chunks agree with tokens", "bound")
@given(
    st.sampled_from(DTYPES),
    st.integers(0, 2**16),
    st.integers(0, 40),
    st.integers(1, 9),
    st.sampled_from([0.0, 0.05, 1.0, 30.0]),
    st.data(),
)
def test_chunks_agree_with_tokens_within_the_bound(
    dtype: Any, seed: Any, length: Any, width: Any, decays: Any, data: Any
) -> None:
    parts = inputs(seed, key_heads=1, heads=2, length=length, width=width, dtype=dtype, decays=decays)
    sizes = sorted({1, 2, 3, 7, max(length - 1, 1), max(length, 1), length + 1, 64})
    chunk = data.draw(st.sampled_from(sizes))
    found, state = chunked(*parts, scale=1.0, chunk=chunk)
    wanted, states = recurrent(*parts, scale=1.0)
    run = trajectory(parts, 1.0, dtype)
    assert found.dtype == state.dtype == dtype
    assert (np.abs(found - wanted) <= run.recurrent() + run.chunked(chunk)).all()
    if length:
        assert run.chunked(chunk).max() < (1e-9 if dtype == np.float64 else 0.5)
        # a bound is |q| times what a column of the state errs by, and a little more
        size = np.sqrt((parts[0].astype(np.float64)[:, :, -1, :, None] ** 2).sum(-2))
        column = (run.recurrent() + run.chunked(chunk))[:, :, -1] / size
        assert (np.abs(state - states[-1]) <= column[:, :, None]).all()


def test_a_chunk_of_one_token_is_the_recurrence() -> None:
    parts = inputs(6, length=9)
    np.testing.assert_allclose(chunked(*parts, chunk=1)[0], recurrent(*parts)[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_that_vanishes_at_once_overflows_nowhere(dtype: Any) -> None:
    q, k, v, log_decay, beta, state = inputs(7, length=12, dtype=dtype)
    log_decay = np.full_like(log_decay, -1e4)
    for form in (recurrent, chunked):
        out, _ = form(q, k, v, log_decay, beta, state, scale=1.0)
        alone = (q * k).sum(-1)[..., None] * beta[..., None] * v  # each token sees itself only
        np.testing.assert_allclose(out, alone, rtol=1e-5, atol=1e-6)


def test_small_decays_behind_a_large_one_keep_their_digits() -> None:
    """Differences of cumulative sums would lose ``3000 · 2^-24``, a thousand times what float32 allows here."""
    parts = list(inputs(8, length=16, width=2, dtype=np.float32))
    parts[3] = np.full_like(parts[3], -0.01)
    parts[3][:, :, 0] = -30000.0
    run = trajectory(parts, 1.0, np.float32)
    wanted, _ = by_hand(parts, 1.0)
    assert (np.abs(chunked(*parts, scale=1.0)[0] - wanted) <= run.chunked(64)).all()
    assert np.abs(chunked(*parts, scale=1.0)[0] - wanted).max() < 2e-6


def test_cost_is_count() -> None:
    parts = inputs(9, batch=2, key_heads=1, heads=3, length=7, width=4, value_width=5)
    with counting() as tally:
        recurrent(*parts)
    assert tally.tally == recurrent_cost(2 * 3 * 7, 4, 5)
    assert recurrent_cost(1, 4, 5) == Tally(matmul=4 * 20, arithmetic=3 * 20 + 2 * 5 + 4, transcendental=1)


def test_chunks_count_their_products() -> None:
    """Two chunks, of 4 and 3 tokens: K Kᵀ, Q Kᵀ, the substitution, and three products with the state and one to it."""
    parts = inputs(9, length=7, width=4, value_width=5)
    with counting() as tally:
        chunked(*parts, chunk=4)
    each = [2 * c * c * 4 * 2 + c * (c - 1) * 9 + 2 * c * 20 * 2 + 2 * c * c * 5 + 2 * c * 20 for c in (4, 3)]
    assert tally.matmul == sum(each)
    assert tally.transcendental == sum(c * c + c for c in (4, 3))


def test_a_length_is_one_or_less() -> None:
    x = np.random.default_rng(0).standard_normal((5, 4)) * 1e-3
    wanted = [[z / math.sqrt(sum(y * y for y in row) + 1e-6) for z in row] for row in x.tolist()]
    np.testing.assert_allclose(l2_norm(x), wanted, rtol=1e-14)
    assert (np.linalg.norm(l2_norm(x), axis=-1) < 1).all()
    with counting() as tally:
        l2_norm(x)
    assert tally.tally == Tally(arithmetic=3 * 20 + 5, transcendental=5)


@pytest.mark.parametrize(
    ("place", "shape", "words"),
    [
        (1, (1, 1, 5, 4), r"k must have shape \[B, Hk, T, Dk\] with B=1, Hk=1, T=5, Dk=3, got \(1, 1, 5, 4\)"),
        (2, (1, 1, 4, 2), r"v must have shape \[B, Hv, T, Dv\] with B=1, T=5, got \(1, 1, 4, 2\)"),
        (3, (1, 1, 5, 3), r"log_decay must have shape \[B, Hv, T\] with B=1, Hv=1, T=5, got \(1, 1, 5, 3\)"),
        (4, (1, 2, 5), r"beta must have shape \[B, Hv, T\] with B=1, Hv=1, T=5, got \(1, 2, 5\)"),
        (5, (1, 1, 2, 3), r"state must have shape \[B, Hv, Dk, Dv\] with B=1, Hv=1, Dk=3, Dv=2, got \(1, 1, 2, 3\)"),
    ],
)
@pytest.mark.parametrize("form", [recurrent, chunked])
def test_arrays_that_do_not_fit_are_refused(form: Any, place: Any, shape: Any, words: Any) -> None:
    parts = list(inputs(10))
    parts[place] = np.zeros(shape)
    with pytest.raises(ShapeError, match=words):
        form(*parts)


def test_value_heads_that_are_no_multiple_of_the_key_heads_are_refused() -> None:
    with pytest.raises(ShapeError, match="v must have heads that are a multiple of the 2 of k, got 3"):
        recurrent(*inputs(11, key_heads=2, heads=3))


@pytest.mark.parametrize("chunk", [0, -1, True, 2.0])
def test_a_chunk_below_one_is_refused(chunk: Any) -> None:
    with pytest.raises(ArgumentError, match=f"chunk must be an integer >= 1, got {chunk}"):
        chunked(*inputs(12), chunk=chunk)


def test_a_negative_number_of_states_is_refused() -> None:
    with pytest.raises(ArgumentError, match="keep must be an integer >= 0, got -1"):
        recurrent(*inputs(12), keep=-1)
