"""The worst-case bound holds for code that rounds every operation, and both bounds see a dropped key."""

from itertools import pairwise
import math

import numpy as np
import pytest

from kvattn.testing.tolerance import Arithmetic, bounds


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
