"""The planted latent layer without faults is latent attention, told by loops in Python floats; both paths agree."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.latent_by_hand import latent_by_hand
from kvattn.testing.planted_latent import PlantedLatent, declared


@pytest.mark.parametrize("latent", [declared(), declared(2, (3, 2, 5, 6, 4), scale=0.9, low_rank=5)])
@pytest.mark.parametrize("cuts", [(), (3,), (1, 2, 3)])
def test_without_faults_it_equals_loops(latent: Any, cuts: tuple[int, ...]) -> None:
    w = latent.projections
    x = np.random.default_rng(5).standard_normal((2, 5, w.hidden))
    layer, parts, cache, begin = PlantedLatent(latent), [], None, 0
    for end in (*cuts, 5):
        out, cache = layer(x[:, begin:end], cache=cache)
        parts.append(out)
        begin = end
    for b in range(2):
        wanted, _ = latent_by_hand(
            w, x[b].tolist(), range(5), lambda h, t, s: s <= t, rotation=latent.rotation, scale=latent.scale
        )
        assert np.concatenate(parts, 1)[b] == pytest.approx(np.array(wanted), abs=1e-12)


def test_padding_leaves_no_trace() -> None:
    latent = declared()
    x = np.random.default_rng(6).standard_normal((2, 5, 10))
    valid = np.array([[True] * 5, [False, False, True, True, True]])
    out, _ = PlantedLatent(latent)(x, valid=valid)
    alone, _ = PlantedLatent(latent)(x[1:, 2:])
    assert out[1:, 2:] == pytest.approx(alone, abs=1e-12)
