"""The planted layer without faults is attention, told by loops in Python floats."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.testing.planted_layer import PlantedLayer, press


def test_without_faults_it_equals_loops() -> None:
    r = np.random.default_rng(3)
    B, T, Hq, Hkv, D, M = 2, 4, 4, 2, 3, 5
    x = r.standard_normal((B, T, M))
    w_q, w_k, w_v = (r.standard_normal((M, n * D)) for n in (Hq, Hkv, Hkv))
    w_o = r.standard_normal((Hq * D, M))
    out = PlantedLayer()(x, w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, heads=Hq, kv_heads=Hkv)
    for b, t in np.ndindex(B, T):
        joined = []
        for h in range(Hq):
            g = h // (Hq // Hkv)
            q = [sum(x[b, t, m] * w_q[m, h * D + d] for m in range(M)) for d in range(D)]
            k = [[sum(x[b, j, m] * w_k[m, g * D + d] for m in range(M)) for d in range(D)] for j in range(t + 1)]
            v = [[sum(x[b, j, m] * w_v[m, g * D + d] for m in range(M)) for d in range(D)] for j in range(t + 1)]
            weights = [math.exp(sum(a * c for a, c in zip(q, row, strict=True)) / math.sqrt(D)) for row in k]
            joined += [sum(w * row[d] for w, row in zip(weights, v, strict=True)) / sum(weights) for d in range(D)]
        wanted = [sum(joined[f] * w_o[f, m] for f in range(Hq * D)) for m in range(M)]
        assert out[b, t] == pytest.approx(wanted, abs=1e-12)


def test_in_parts_it_gives_the_same() -> None:
    r = np.random.default_rng(4)
    x = r.standard_normal((2, 6, 8))
    w: dict[str, Any] = {n: r.standard_normal((8, 8)) for n in ("w_q", "w_k", "w_v", "w_o")}
    whole, _ = PlantedLayer().cached(x, **w, heads=2, kv_heads=2)
    first, cache = PlantedLayer().cached(x[:, :4], **w, heads=2, kv_heads=2)
    second, _ = PlantedLayer().cached(x[:, 4:], **w, heads=2, kv_heads=2, cache=cache)
    assert np.concatenate([first, second], 1) == pytest.approx(whole, abs=1e-12)


def test_slopes_for_any_number_of_heads() -> None:
    assert press(4) == [0.25, 0.0625, 0.015625, 0.00390625]
    assert press(6) == pytest.approx([0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125])
