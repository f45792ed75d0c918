"""The planted rotation without faults is the paper's, told by loops in Python floats."""

import math

import numpy as np
import pytest

from kvattn.testing.planted_rotation import PlantedRotation


@pytest.mark.parametrize("layout", ["half", "adjacent"])
def test_without_faults_it_equals_loops(layout: str) -> None:
    r = np.random.default_rng(8)
    B, H, T, D, width = 2, 3, 4, 10, 6
    x, at = r.standard_normal((B, H, T, D)), r.integers(0, 500, (B, T))
    out = PlantedRotation(width=width, start=2, base=321.0, layout=layout).alone(x, at)  # type: ignore[arg-type]
    for b, h, t in np.ndindex(B, H, T):
        row = x[b, h, t].tolist()
        wanted = [*row]
        for k in range(width // 2):
            first, second = (2 + k, 2 + k + width // 2) if layout == "half" else (2 + 2 * k, 3 + 2 * k)
            angle = int(at[b, t]) * 321.0 ** (-2 * k / width)
            wanted[first] = row[first] * math.cos(angle) - row[second] * math.sin(angle)
            wanted[second] = row[second] * math.cos(angle) + row[first] * math.sin(angle)
        assert out[b, h, t] == pytest.approx(wanted, abs=1e-12)


def test_both_are_turned_alike() -> None:
    x, at = np.random.default_rng(1).standard_normal((1, 2, 3, 8)), np.arange(3)[None]
    q, k = PlantedRotation()(x, x, at)
    assert np.array_equal(q, k)
