"""The power statement is what planting each fault shows: the smallest that moves an element by twice its tolerance."""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kvattn.testing.arithmetic import BFLOAT16_TENSOR_CORE, FLOAT16_PURE, FLOAT64, Arithmetic
from kvattn.testing.emulated import emulate
from kvattn.testing.tolerance import Power, bounds
from kvattn.testing.tolerance.bounding import examined
from kvattn.testing.tolerance.calls import Call
from kvattn.testing.tolerance.power import power, weakest
from kvattn.typing import Array
from tests.testing.tolerance.without import edited

KEYS = 12
SINKS = np.array([0.5])


def numbers() -> tuple[Array, Array, Array]:
    r = np.random.default_rng(8)
    return r.standard_normal((1, 1, 5, 8)), r.standard_normal((1, 1, KEYS, 8)), r.standard_normal((1, 1, KEYS, 4))


def exact(q: Array, k: Array, v: Array, **options: Any) -> Array:
    return np.asarray(emulate(q, k, v, arithmetic=FLOAT64, sinks=SINKS, **options).out[0, 0])


def said(at: Arithmetic, package: ModuleType | None = None) -> Power:
    name = package.__name__ if package else "kvattn.testing.tolerance"
    some = next(import_module(f"{name}.bounding").examined(Call(*numbers(), sinks=SINKS), at))
    found: Power = import_module(f"{name}.power").power(some, some.out.statistical, some.lse.statistical)
    return found


def limits(at: Arithmetic) -> tuple[Array, Array]:
    found = bounds(*numbers(), arithmetic=at, sinks=SINKS)
    return found.statistical[0, 0], found.lse_statistical[0, 0]


def moves(at: Arithmetic, out: Array) -> Array:
    """By how many tolerances each row moves."""
    return np.asarray((np.abs(out - exact(*numbers())) / limits(at)[0]).max(axis=1))


ARITHMETICS = pytest.mark.parametrize("at", [FLOAT16_PURE, BFLOAT16_TENSOR_CORE])


@ARITHMETICS
def test_dropped_keys(at: Arithmetic) -> None:
    """[P1]: every key is dropped, one after the other."""
    q, k, v = numbers()
    weights = exact(q, k, np.eye(KEYS)[None, None])
    seen = np.array([moves(at, exact(q, k, v, visible=np.arange(KEYS) != key)) > 2 for key in range(KEYS)]).T
    assert 0 < seen.mean() < 1
    assert said(at).keys == pytest.approx(seen.mean())
    assert said(at).dropped_key == pytest.approx(weights[~seen].max())


@ARITHMETICS
def test_stale_values(at: Arithmetic) -> None:
    """[P2]: every value is its neighbour's, one after the other."""
    q, k, v = numbers()
    weights = exact(q, k, np.eye(KEYS)[None, None])
    seen = []
    for key in range(KEYS):
        stale = v.copy()
        stale[0, 0, key] = v[0, 0, key - 1]
        seen.append(moves(at, exact(q, k, stale)) > 2)
    unseen = ~np.array(seen).T
    assert unseen.any()
    assert said(at).stale_row == pytest.approx(weights[unseen].max())


def test_a_wrong_scale() -> None:
    """[P3]: for small errors, so that what they move is in proportion."""
    q, k, v = numbers()
    at = Arithmetic("float32")
    least = said(at).scale
    for factor, seen in ((1.02, True), (0.98, False)):
        out = exact(q, k, v, scale=(1 + factor * least) / np.sqrt(8))
        assert (moves(at, out) > 2).any() == seen


@ARITHMETICS
def test_a_wrong_total_and_a_wrong_lse(at: Arithmetic) -> None:
    """[P4] [P5]."""
    out, least = exact(*numbers()), said(at)
    for factor, seen in ((1.001, True), (0.999, False)):
        assert (moves(at, out * (1 + factor * least.total)) > 2).any() == seen
    assert least.lse == pytest.approx(2 * limits(at)[1].min())


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("heavy / (1 - heavy) * gain", "heavy / (1 - heavy) * fresh", "dropped_key"),
        ("stale = heavy * fresh > 1", "stale = heavy * gain > 1", "stale_row"),
        (" - (heavy * slope).sum(1, keepdims=True) * out", "", "scale"),
        ("total = 1 / (np.abs(out)", "total = 0.5 / (np.abs(out)", "total"),
        ("lse = 2 *", "lse = 1 *", "lse"),
        ("0.5 / tolerance", "1 / tolerance", "keys"),
    ],
)
def test_a_wrong_formula_says_something_else(old: str, new: str, field: str) -> None:
    with edited(("power", old, new)) as package:
        wrong = said(FLOAT16_PURE, package)
    assert getattr(wrong, field) != pytest.approx(getattr(said(FLOAT16_PURE), field), rel=1e-6)


def test_what_is_not_seen_has_words() -> None:
    x = np.zeros((1, 1, 2, 4))
    some = next(examined(Call(x, x, x), FLOAT64))
    blind = power(some, np.full((2, 4), np.inf), np.full(2, np.inf))
    assert str(blind).startswith("no dropped key, ")
    assert "no wrong scale, no wrong total, no wrong lse" in str(blind)
    assert weakest([]).keys == 0
    assert weakest([blind, said(FLOAT64)]).scale == said(FLOAT64).scale
