"""The bound accepts every order of addition and rejects wrong arithmetic; how small an error it sees is stated.

Power, measured below for an attention of 6 tokens at depth 100: relative to the largest number of a
row, anything above 1e-12 in float64 and 1e-3 in float32 is seen.
"""

from collections.abc import Callable
from functools import partial
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.core.definition import definition
from kvattn.masks import Causal, Window
from kvattn.testing.closeness import conditioned_bound
from kvattn.typing import Array

DTYPES = [np.float64, np.float32]


def in_order(x: Array) -> Array:
    """Row sums, added one after the other."""
    total = np.zeros(x.shape[0], x.dtype)
    for column in x.T:
        total = total + column
    return total


@given(st.sampled_from(DTYPES), st.integers(1, 200), st.integers(0, 2**16))
def test_a_sum_in_another_order_is_accepted(dtype: Any, length: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(4, length)).astype(dtype)
    bound = conditioned_bound(in_order, x, depth=length)
    assert bound.shape == (4,)
    for other in (x[:, ::-1], x[:, random.permutation(length)], np.sort(x, axis=1)):
        assert (np.abs(in_order(other) - in_order(x)) <= bound).all()
    assert (np.abs(x.sum(axis=1) - in_order(x)) <= bound).all()


def attention(x: Array, scale: float = 0.5, window: int | None = None, tail: int = 0) -> Array:
    """Tokens that attend to each other; ``tail`` adds 0 in another order of the same products."""
    at = np.arange(x.shape[1])[None]
    mask = Causal() if window is None else Window(window)
    q = k = v = x[None]
    if tail:
        order = np.random.default_rng(tail).permutation(x.shape[1])
        k, v = k[:, :, order], v[:, :, order]
        return definition(q, k, v, q_positions=at, k_positions=at[:, order], mask=mask, scale=scale).out
    return definition(q, k, v, q_positions=at, k_positions=at, mask=mask, scale=scale).out


def drawn(dtype: Any) -> Any:
    return np.random.default_rng(3).normal(size=(2, 6, 4)).astype(dtype)


def distance(dtype: Any, found: Callable[[Array], Array]) -> float:
    """The largest difference in units of the bound."""
    x = drawn(dtype)
    bound = conditioned_bound(attention, x, depth=100)
    return float((np.abs(found(x) - attention(x)) / bound).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_keys_in_another_order_are_accepted(dtype: Any, seed: int) -> None:
    assert distance(dtype, partial(attention, tail=seed)) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_arithmetic_is_rejected(dtype: Any) -> None:
    slight = 1e-11 if dtype is np.float64 else 1e-2
    mutants: dict[str, Callable[[Array], Array]] = {
        "scale 1/D": partial(attention, scale=0.25),
        "no scale": partial(attention, scale=1.0),
        "a scale that is slightly off": partial(attention, scale=0.5 * (1 + slight)),
        "a window of 5 in place of all": partial(attention, window=5),
        "a result that is slightly off": lambda x: attention(x) * (1 + slight),
    }
    for name, mutant in mutants.items():
        assert distance(dtype, mutant) > 1, name


@pytest.mark.parametrize(("dtype", "power"), [(np.float64, 1e-12), (np.float32, 1e-3)])
def test_its_power_is_as_stated(dtype: Any, power: float) -> None:
    x = drawn(dtype)
    bound = conditioned_bound(attention, x, depth=100)
    assert (bound <= power * np.abs(attention(x)).max(axis=-1, keepdims=True)).all()
    assert (bound > 0).all()


def test_it_grows_with_depth_and_with_what_cancels() -> None:
    x = np.array([[1.0, 1e-8, -1.0]])
    calm = np.array([[1.0, 1e-8, 1.0]])
    assert conditioned_bound(in_order, x, depth=20)[0] == 2 * conditioned_bound(in_order, x, depth=10)[0]
    relative = [float(conditioned_bound(in_order, a, depth=10)[0] / abs(in_order(a)[0])) for a in (x, calm)]
    assert relative[0] > 1e6 * relative[1]
    for order in ([0, 1, 2], [2, 1, 0], [0, 2, 1]):  # which is needed
        assert abs(in_order(x[:, order])[0] - in_order(x)[0]) <= conditioned_bound(in_order, x, depth=3)[0]


def test_what_is_not_finite_has_no_bound() -> None:
    """An empty row's lse is -inf on both sides, or it is wrong."""

    def logs(x: Array) -> Array:
        return np.concatenate([np.log(np.exp(x).sum(axis=1)), [-math.inf, math.nan]])

    bound = conditioned_bound(logs, np.ones((3, 4)), depth=10)
    assert (bound[:3] > 0).all()
    assert bound[3:].tolist() == [0, 0]


def test_of_nothing_there_is_nothing() -> None:
    assert conditioned_bound(lambda x: x, np.zeros((0, 3)), depth=5).shape == (0, 3)
    assert conditioned_bound(lambda x: x[:, :0], np.ones((2, 3)), depth=5).shape == (2, 0)
