"""The planted attention without faults is attention, told by loops in Python floats."""

import math

import numpy as np
import pytest

from kvattn.testing.planted import Planted


def test_without_faults_it_equals_loops() -> None:
    r = np.random.default_rng(5)
    B, Hq, Hkv, T, S, D = 2, 4, 2, 3, 5, 6
    q, k, v = (r.standard_normal(shape) for shape in ((B, Hq, T, D), (B, Hkv, S, D), (B, Hkv, S, D)))
    sinks, bias, mask = r.standard_normal(Hq), r.standard_normal((B, Hq, T, S)), r.random((B, Hq, T, S)) < 0.6
    out, lse = Planted()(q, k, v, causal=True, window=3, softcap=1.5, sinks=sinks, bias=bias, mask=mask)
    for b, h, t in np.ndindex(B, Hq, T):
        at = S - T + t
        seen = [j for j in range(S) if 0 <= at - j < 3 and mask[b, h, t, j]]
        scores = []
        for j in seen:
            product = sum(float(x * y) for x, y in zip(q[b, h, t], k[b, h // 2, j], strict=True)) / math.sqrt(D)
            scores.append(1.5 * math.tanh(product / 1.5) + float(bias[b, h, t, j]))
        total = sum(map(math.exp, scores)) + math.exp(sinks[h])
        wanted = sum((math.exp(s) / total * v[b, h // 2, j] for s, j in zip(scores, seen, strict=True)), np.zeros(D))
        assert out[b, h, t] == pytest.approx(wanted, abs=1e-12)
        assert lse[b, h, t] == pytest.approx(math.log(total), abs=1e-12)


def test_single_precision_stays_single() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    assert Planted(returns_lse=False)(x, x, x).dtype == np.float32
