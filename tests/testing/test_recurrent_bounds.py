"""The bounds for recurrences hold, are not empty, and grow as the derivation says they do."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.recurrent_bounds import Errors, Trajectory, layer_bound
from kvattn.variants.recurrent.gated_delta import GatedDelta, weight_shapes
from kvattn.variants.recurrent.gated_delta_rule import chunked, recurrent


def parts_of(length: int, decay: float, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    q, k = (rng.standard_normal((1, 2, length, 4)) for _ in range(2))
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    v, beta = rng.standard_normal((1, 2, length, 3)), rng.uniform(0, 1, (1, 2, length))
    return [q, k, v, np.full((1, 2, length), -decay), beta, np.zeros((1, 2, 4, 3))]


def run_of(parts: list[Any], dtype: str = "float32") -> Trajectory:
    return Trajectory(*parts, scale=1.0, dtype=dtype)


@pytest.mark.parametrize("decay", [0.0, 0.01, 1.0])
def test_float32_stays_inside_and_uses_more_than_a_thousandth(decay: float) -> None:
    """float64 of the same numbers stands for the exact answer: its own bound is a billionth of this one."""
    parts = parts_of(100, decay)
    small: list[Any] = [a.astype(np.float32) for a in parts]
    exact: list[Any] = [a.astype(np.float64) for a in small]
    wanted, run = recurrent(*exact, scale=1.0)[0], run_of(exact)
    for found, bound in (
        (recurrent(*small, scale=1.0)[0], run.recurrent()),
        (chunked(*small, scale=1.0, chunk=16)[0], run.chunked(16)),
    ):
        used = (np.abs(found - wanted) / bound).max()
        assert 1e-3 < used <= 1


@pytest.mark.parametrize("form", ["recurrent", "unrolled", "chunked"])
def test_without_decay_the_bound_grows_and_with_decay_it_settles(form: str) -> None:
    def largest(length: int, decay: float) -> float:
        run = run_of(parts_of(length, decay))
        return float((run.chunked(8) if form == "chunked" else getattr(run, form)())[:, :, length // 2 :].max())

    assert 1.5 < largest(80, 0.0) / largest(40, 0.0) <= 5
    assert largest(80, 1.0) / largest(40, 1.0) < 1.5


def test_an_error_in_an_input_moves_the_output_by_no_more_than_said() -> None:
    parts = parts_of(30, 0.05)
    run, rng = run_of(parts, "float64"), np.random.default_rng(1)
    steps = [1e-7 * rng.standard_normal(a.shape) for a in parts[:5]]
    lengths = [np.linalg.norm(steps[i], axis=-1) for i in (0, 1)]
    said = run.sensitivity(Errors(*lengths, *(np.abs(s) for s in steps[2:])))
    moved = recurrent(*[*(a + s for a, s in zip(parts, steps, strict=False)), parts[5]], scale=1.0)[0] - run.out
    assert (np.abs(moved) <= said).all()
    assert (np.abs(moved) / said).max() > 0.02


@pytest.mark.parametrize("name", ["query", "key", "value", "decay", "beta", "gate", "output", "convolution"])
def test_a_weight_that_is_off_by_a_millionth_is_seen_in_float64(name: str) -> None:
    rng = np.random.default_rng(2)
    shapes = weight_shapes(hidden=4, key_heads=1, heads=2, width=3, value_width=2, taps=2)
    weights: dict[str, Any] = {n: rng.standard_normal(shape) for n, shape in shapes.items()}
    layer, x = GatedDelta(**weights, key_heads=1), rng.standard_normal((1, 12, 4))
    other = GatedDelta(**{**weights, name: weights[name] * (1 + 1e-6)}, key_heads=1)
    off = np.abs(layer.step(layer.start(), x)[0].out - other.definition(x, np.arange(12)).out)
    assert (off > layer_bound(layer, x)).any()
