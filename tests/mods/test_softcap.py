"""Softcap: cap · tanh(score / cap), in the scores' own dtype."""

import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.mods import Softcap, softcap
from kvattn.typing import Place

SCORES = [0.0, -0.0, 1e-9, 0.5, -3.0, 49.0, 50.0, -1e3, 1e30, math.inf, -math.inf]


def by_hand(score: float, cap: float) -> float:
    """Through exponentials: tanh(z) = (1 - e) / (1 + e), e = exp(-2 |z|)."""
    z = score / cap
    e = math.exp(-2 * abs(z))
    return math.copysign(cap * -math.expm1(-2 * abs(z)) / (1 + e), z)


def close(bent: Any, cap: float) -> bool:
    """Within 8 roundings of the dtype: tanh, division and product on one side, five operations on the other."""
    expected = np.array([by_hand(float(s), cap) for s in SCORES])
    return bool((np.abs(bent - expected) <= 8 * np.finfo(bent.dtype).eps * np.abs(expected)).all())


@pytest.mark.by_hand("mods/softcap")
@pytest.mark.parametrize("cap", [0.5, 30.0, 50.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_exponentials_by_hand(cap: float, dtype: Any) -> None:
    bent = softcap(np.array(SCORES, dtype), cap)
    assert bent.dtype == dtype
    assert close(bent, cap)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda s, cap: np.clip(s, -cap, cap),
        lambda s, cap: cap * np.tanh(s),
        lambda s, cap: np.tanh(s / cap),
        lambda s, cap: cap * np.arctan(s / cap),
        lambda s, cap: s,
    ],
    ids=["clip", "not divided", "not multiplied", "arctan", "ignored"],
)
def test_another_curve_is_rejected(mutant: Any) -> None:
    assert not close(mutant(np.array(SCORES), 30.0), 30.0)


def test_it_stays_within_the_cap_and_keeps_the_order() -> None:
    bent = softcap(np.linspace(-400, 400, 999), 50.0)
    assert (np.abs(bent) <= 50.0).all()
    assert (np.diff(bent) >= 0).all()


@pytest.mark.law("mods/softcap", "rows do not depend on their company", "bits")
def test_rows_do_not_depend_on_their_company() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 33)) * 60
    together = softcap(scores, 50.0)
    for rows in (1, 3, 7):
        parts = [softcap(scores[i : i + rows], 50.0) for i in range(0, 40, rows)]
        assert np.concatenate(parts).tobytes() == together.tobytes()
    assert softcap(scores[:, ::2], 50.0).tobytes() == together[:, ::2].tobytes()


def test_what_is_passed_in_stays_as_it_is() -> None:
    scores = np.array(SCORES)
    softcap(scores, 2.0)
    assert scores.tolist() == SCORES


def test_the_mod_is_the_function_whatever_the_place() -> None:
    scores, at = np.array([[SCORES]]), np.zeros((1, 1, 1), np.int64)
    assert (Softcap(30.0)(scores, Place(3, at, None, at, at)) == softcap(scores, 30.0)).all()
    assert repr(Softcap(30)) == "Softcap(cap=30.0)"
    assert Softcap(30) == Softcap(np.float32(30.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("cap", [0, 0.0, -1.0, math.inf, math.nan, True, "50", None])
def test_a_bad_cap_is_named(cap: Any) -> None:
    words = f"^cap must be a finite number above 0, got {cap!r}$"
    with pytest.raises(ArgumentError, match=words):
        softcap(np.zeros(1), cap)
    with pytest.raises(ArgumentError, match=words):
        Softcap(cap)


def test_a_numpy_cap_does_not_widen_float32() -> None:
    assert softcap(np.ones(3, np.float32), np.float64(50.0)).dtype == np.float32
