"""NTK-aware scaling against 40-digit decimals: the fastest pair stays, the slowest is divided by α."""

from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.ntk import ntk_base, ntk_frequencies, ntk_rotary

getcontext().prec = 40

CASES = [(4, 3.0, 100.0), (8, 4.0, 10000.0), (64, 1000.0, 10000.0), (128, 2.5, 500000.0), (128, 0.5, 10000.0)]


def by_hand(width: int, alpha: float, base: float) -> list[Decimal]:
    """θ_k · α^(-2k/(r-2)): between 1 for the fastest pair and 1/α for the slowest, evenly in the logarithm."""
    pairs = width // 2
    return [(-Decimal(base).ln() * (2 * k) / width - Decimal(alpha).ln() * k / (pairs - 1)).exp() for k in range(pairs)]


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> float:
    """The largest relative error."""
    assert len(found) == len(wanted)
    return max(abs(float((Decimal(f) - w) / w)) for f, w in zip(found, wanted, strict=True))


ROUNDING = 60 * 2.0**-53
"""Two rounded exponents move powers by up to ln(base') <= 21 roundings; powers, product, quotient: a few more."""


@pytest.mark.by_hand("positions/ntk")
@pytest.mark.parametrize(("width", "alpha", "base"), CASES)
def test_frequencies_equal_by_hand(width: int, alpha: float, base: float) -> None:
    found = ntk_frequencies(width, alpha=alpha, base=base)
    assert apart(found, by_hand(width, alpha, base)) <= ROUNDING
    assert found[0] == 1.0
    plain = Rotary.of(width, base).frequencies
    assert found[-1] == pytest.approx(plain[-1] / alpha, rel=ROUNDING)


MUTANTS: dict[str, Any] = {
    "not scaled": lambda r, alpha, base: Rotary.of(r, base).frequencies,
    "exponent r/(r-1)": lambda r, alpha, base: Rotary.of(r, base * alpha ** (r / (r - 1))).frequencies,
    "base times alpha": lambda r, alpha, base: Rotary.of(r, base * alpha).frequencies,
    "divided by alpha": lambda r, alpha, base: tuple(f / alpha for f in Rotary.of(r, base).frequencies),
    "pairs for features": lambda r, alpha, base: Rotary.of(r, base * alpha ** (r / 2 / (r / 2 - 2))).frequencies,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected(name: str) -> None:
    assert apart(MUTANTS[name](64, 4.0, 10000.0), by_hand(64, 4.0, 10000.0)) > 1e6 * ROUNDING


@pytest.mark.law("positions/ntk", "shift equals fresh rotation", "bound")
@pytest.mark.parametrize("by", [1, -700, 4096, 10**5])
def test_a_moved_key_equals_a_fresh_one_there(by: int) -> None:
    """Within three turns of 12 roundings each, and angles rounded in proportion to themselves."""
    rotary, x, at = ntk_rotary(6, alpha=4.0, start=1), np.random.default_rng(1).normal(size=(4, 7)), 900
    moved = rotary.shift(rotary.rotate(x, np.full(4, at)), np.full(4, by))
    allowed = 2.0**-53 * (72 + 4 * (at + abs(by))) * 2 * float(np.abs(x).max())
    assert np.abs(moved - rotary.rotate(x, np.full(4, at + by))).max() <= allowed
    assert np.abs(Rotary.of(6, start=1).shift(rotary.rotate(x, np.full(4, at)), np.full(4, by)) - moved).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ntk_base(2, alpha=2.0), r"^width must be an integer >= 4, got 2$"),
        (lambda: ntk_frequencies(5, alpha=2.0), r"^width must be even, got 5$"),
        (lambda: ntk_frequencies(4, alpha=0.0), r"^alpha must be a finite number above 0, got 0\.0$"),
        (lambda: ntk_frequencies(4, alpha="2"), r"^alpha must be a finite number above 0, got '2'$"),  # type: ignore[arg-type]
        (lambda: ntk_rotary(4, alpha=2.0, base=-1.0), r"^base must be a finite number above 0, got -1\.0$"),
    ],
    ids=range(5),
)
def test_a_bad_parameter_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_every_argument_matters() -> None:
    plain: dict[str, Any] = {"alpha": 4.0, "base": 100.0, "layout": "half", "start": 0}
    whole = ntk_rotary(4, **plain)
    assert ntk_rotary(6, **plain) != whole
    for name, other in {"alpha": 2.0, "base": 50.0, "layout": "adjacent", "start": 2}.items():
        assert ntk_rotary(4, **plain | {name: other}) != whole
