"""The worst-case bound holds for code that rounds every operation, and both bounds see a dropped key."""

from dataclasses import replace
from itertools import pairwise
import math
import tracemalloc
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.testing import arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.formats import format_of
from kvattn.testing.tolerance import Arithmetic, bounds, calls, logs, merging, running
from kvattn.typing import Array

PRESETS = [value for value in vars(arithmetic).values() if isinstance(value, Arithmetic)]


def rounded(x: np.ndarray, dtype: type) -> np.ndarray:
    return x.astype(dtype).astype(np.float64)


def attention_rounded_everywhere(q: np.ndarray, k: np.ndarray, v: np.ndarray, dtype: type) -> np.ndarray:
    """One head, sequential sums, each operation computed in float64 and rounded to dtype."""
    out = np.zeros((len(q), v.shape[1]))
    for t, row in enumerate(q):
        scores = np.zeros(len(k))
        for j, key in enumerate(k):
            total = 0.0
            for a, b in zip(row, key, strict=True):
                total = float(dtype(total + float(dtype(a * b))))
            scores[j] = float(dtype(total * float(dtype(1 / math.sqrt(q.shape[1])))))
        weights = rounded(np.exp(rounded(scores - scores.max(), dtype)), dtype)
        denominator, mixed = 0.0, np.zeros(v.shape[1])
        for weight, value in zip(weights, v, strict=True):
            denominator = float(dtype(denominator + weight))
            mixed = rounded(mixed + rounded(weight * value, dtype), dtype)
        out[t] = rounded(mixed / denominator, dtype)
    return out


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    s = q @ k.T / math.sqrt(q.shape[1])
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True) @ v)


@pytest.mark.parametrize(("name", "dtype"), [("float32", np.float32), ("float16", np.float16)])
@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [1, 7, 60])
def test_the_worst_case_holds_and_the_statistical_bound_is_tighter(name: str, dtype: type, size: float, n: int) -> None:
    r = np.random.default_rng(n)
    q, k, v = (rounded(r.standard_normal(s), dtype) for s in ((4, 16), (n, 16), (n, 8)))
    q, k = rounded(size * q, dtype), rounded(size * k, dtype)
    error = np.abs(attention_rounded_everywhere(q, k, v, dtype) - exact(q, k, v))
    found = bounds(q[None, None], k[None, None], v[None, None], arithmetic=Arithmetic(name))
    assert (error <= found.worst[0, 0]).all()
    assert (error <= found.statistical[0, 0]).all()
    assert (found.statistical <= found.worst).all()


def test_a_dropped_key_is_far_outside_in_single_precision() -> None:
    r = np.random.default_rng(1)
    q, k, v = (r.standard_normal(s) for s in ((4, 16), (50, 16), (50, 8)))
    found = bounds(q[None, None], k[None, None], v[None, None], arithmetic=Arithmetic("float32"))
    error = np.abs(exact(q, k[:-1], v[:-1]) - exact(q, k, v))
    assert (error > found.worst[0, 0]).mean() > 0.9


def test_a_bound_grows_with_the_roundoff() -> None:
    q = np.ones((1, 1, 1, 4))
    names = ("float64", "float32", "float16", "bfloat16")
    width = [bounds(q, q, q, arithmetic=Arithmetic(name)).worst.max() for name in names]
    assert all(a < b for a, b in pairwise(width))


def test_nobody_sees_the_values_behind_a_mask() -> None:
    q, k = np.ones((1, 1, 1, 4)), np.ones((1, 1, 2, 4))
    k[:, :, 1] = np.nan
    seen = np.array([True, False])
    found = bounds(q, k, k, arithmetic=Arithmetic(), visible=seen)
    assert np.isfinite(found.worst).all()
    nothing = bounds(q, k, k, arithmetic=Arithmetic(), visible=np.zeros(2, bool))
    assert nothing.worst.max() == 0
    assert nothing.lse_worst.max() == 0


def test_cap_bias_and_sinks_widen_the_bound() -> None:
    q = np.ones((1, 2, 3, 4))
    plain = bounds(q, q, q, arithmetic=Arithmetic())
    bias, sinks = np.full((1, 2, 3, 3), 5.0), np.array([0.0, 3.0])
    assert (bounds(q, q, q, arithmetic=Arithmetic(), bias=bias).lse_worst > plain.lse_worst).all()
    assert bounds(q, q, q, arithmetic=Arithmetic(), sinks=sinks).worst.shape == q.shape
    assert np.isfinite(bounds(q, q, q, arithmetic=Arithmetic(), softcap=0.5).worst).all()


@st.composite
def problems(draw: st.DrawFn) -> tuple[Arithmetic, tuple[Array, Array, Array], dict[str, Any]]:
    """An arithmetic, numbers that stress it, and options."""
    at = replace(
        draw(st.sampled_from(PRESETS)),
        order=draw(st.sampled_from(["sequential", "pairwise"])),
        tiles=draw(st.sampled_from([0, 1, 3])),
        merges=draw(st.sampled_from([0, 0, 1, 2])),
        totals=draw(st.sampled_from(["either", "rounded", "unrounded"])),
    )
    keys, width = draw(st.sampled_from([1, 2, 3, 17, 60])), draw(st.sampled_from([1, 3, 8, 33]))
    r = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    q, k, v = (r.standard_normal((1, *size)) for size in ((2, 3, width), (1, keys, width), (1, keys, 5)))
    q *= draw(st.sampled_from([1e-3, 1.0, 10.0, 300.0]))
    v *= draw(st.sampled_from([1e-6, 1.0, 3e3]))
    if draw(st.booleans()):
        k[:, :, ::2] = k[:, :, :1]
    if draw(st.booleans()):
        v = np.abs(v)
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["softcap"] = draw(st.sampled_from([0.5, 20.0]))
    if draw(st.booleans()):
        options["sinks"] = r.standard_normal(2) * draw(st.sampled_from([0.5, 20.0]))
    if draw(st.booleans()):
        options["bias"] = r.standard_normal((3, keys)) * draw(st.sampled_from([0.1, 30.0]))
    if draw(st.booleans()):
        options["visible"] = r.random((2, 3, keys)) < 0.6
    return at, (q, k, v), options


@settings(max_examples=150)
@given(problems())
def test_no_arithmetic_computes_outside_its_worst_case(
    problem: tuple[Arithmetic, tuple[Array, Array, Array], dict[str, Any]],
) -> None:
    at, arrays, options = problem
    exact = emulate(*arrays, arithmetic=Arithmetic("float64", tiles=0), **options)
    found = emulate(*arrays, arithmetic=at, **options)
    limits = bounds(*arrays, arithmetic=at, **options)
    with np.errstate(invalid="ignore"):
        for got, want, worst in ((found.out, exact.out, limits.worst), (found.lse, exact.lse, limits.lse_worst)):
            inside = (np.abs(got - want) <= worst + 1e-13 * np.abs(want)) | (got == want) | np.isinf(worst)
            assert inside.all()
    assert (limits.statistical <= limits.worst).all()
    assert (limits.lse_statistical <= limits.lse_worst).all()


@pytest.mark.parametrize("at", [arithmetic.FLOAT32_BLAS, arithmetic.BFLOAT16_SOFTMAX, arithmetic.FLOAT16_PURE])
def test_how_the_work_is_cut_does_not_matter(at: Arithmetic, monkeypatch: pytest.MonkeyPatch) -> None:
    r = np.random.default_rng(3)
    q, k, v = (r.standard_normal(s) for s in ((2, 4, 30, 8), (2, 2, 50, 8), (2, 2, 50, 6)))
    options: dict[str, Any] = {"visible": r.random((2, 4, 30, 50)) < 0.5, "bias": r.standard_normal((4, 1, 50))}
    whole = bounds(q, k, v, arithmetic=at, **options)
    monkeypatch.setattr(calls, "ROWS", 7)
    monkeypatch.setattr(running, "CHUNK", 100)
    for one, other in zip(whole, bounds(q, k, v, arithmetic=at, **options), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-9)
    alone = bounds(
        q[1:, 2:3, 4:5], k[1:, 1:], v[1:, 1:], arithmetic=at, visible=options["visible"][1:, 2:3, 4:5],
        bias=options["bias"][2:3],
    )  # fmt: skip
    np.testing.assert_allclose(alone.worst[0, 0, 0], whole.worst[1, 2, 4], rtol=1e-9)


def test_memory_stays_small_where_pairs_are_many() -> None:
    r = np.random.default_rng(4)
    q, k, v = (r.standard_normal((1, 1, n, 8)) for n in (600, 4000, 4000))
    tracemalloc.start()
    try:
        bounds(q, k, v, arithmetic=arithmetic.FLOAT32_BLAS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * 600 * 4000 * 3  # [T, S] alone is a third of it, [T, S, Dv] 2.7 times it


def test_a_sum_too_long_for_its_format_proves_nothing() -> None:
    """bfloat16 counts to 256: with n u > 1 the worst case is wider than all values, and says so."""
    r = np.random.default_rng(5)
    q, k, v = (r.standard_normal((1, 1, n, 4)) for n in (1, 2000, 2000))
    found = bounds(q, k, v, arithmetic=arithmetic.BFLOAT16_PURE)
    assert (found.worst > np.ptp(v)).all()
    paired = bounds(q, k, v, arithmetic=replace(arithmetic.BFLOAT16_PURE, order="pairwise"))
    assert (paired.worst < 0.1 * found.worst).all()


def test_numbers_that_are_in_the_format_are_not_converted() -> None:
    r = np.random.default_rng(6)
    at = arithmetic.BFLOAT16_TENSOR_CORE
    q, k, v = (r.standard_normal((1, 1, 9, 4)) for _ in "qkv")
    rounded = [format_of("bfloat16").round(x) for x in (q, k, v)]
    assert bounds(*rounded, arithmetic=at).lse_worst.mean() < 0.7 * bounds(q, k, v, arithmetic=at).lse_worst.mean()


def test_every_option_narrows_to_what_is_seen() -> None:
    """What a row sees is what matters: fewer keys, fewer roundings."""
    q, k, v = (np.random.default_rng(7).standard_normal((1, 1, 300, 4)) for _ in "qkv")
    causal = bounds(q, k, v, arithmetic=arithmetic.FLOAT32_BLAS, visible=np.tri(300, dtype=bool))
    hidden = bounds(q, k, v, arithmetic=arithmetic.FLOAT32_BLAS, bias=np.where(np.tri(300), 0.0, -np.inf))
    np.testing.assert_allclose(causal.lse_worst, hidden.lse_worst, rtol=0.2)
    assert causal.lse_worst[0, 0, 0] < causal.lse_worst[0, 0, -1] / 10


@pytest.mark.parametrize("keys", [2, 500, 12000])
def test_a_log_sum_exp_may_be_added_up_key_by_key(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors do not cancel where weights are exp(s - lse) [T16]; scores of 100 leave it coarse steps."""
    scores, one = np.full(keys, 100, np.float32), np.ones((1, 1, 1, 1))
    lse = np.logaddexp.reduce(scores)
    wrong = abs(float(np.exp(scores - lse).astype(np.float64).sum()) - 1)
    away = abs(float(lse) - (100 + math.log(keys)))

    near_to = Arithmetic("float32", order="pairwise", tiles=0, merges=1)

    def near() -> tuple[float, float]:
        k, v = np.full((1, 1, keys, 1), 10.0), np.ones((1, 1, keys, 1))
        found = bounds(10 * one, k, v, arithmetic=near_to, scale=1.0)
        assert found.statistical <= found.worst
        return found.worst.item(), found.lse_worst.item()

    assert wrong <= near()[0] < 0.2
    assert away <= near()[1] < 0.2
    for module in (merging, logs):
        monkeypatch.setattr(module, "added", lambda weights, arithmetic: 0 * weights.keys)
    assert (wrong > near()[0]) == (keys == 12000)
    assert (away > near()[1]) == (keys == 12000)
