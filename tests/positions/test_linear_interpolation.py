"""Linear interpolation against 40-digit decimals, and the same as other positions turned by the plain frequencies."""

from decimal import Decimal, getcontext
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.linear_interpolation import linear_frequencies, linear_rotary

getcontext().prec = 40

CASES = [(2, 1.0, 10000.0), (8, 4.0, 10000.0), (6, 2.5, 500000.0), (128, 8.0, 10000.0)]


def by_hand(width: int, factor: float, base: float) -> list[Decimal]:
    return [
        (-Decimal(base).ln() * (2 * k) / width).exp() / Decimal(factor)  # base^(-2k/r) / f
        for k in range(width // 2)
    ]


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> float:
    """The largest relative error."""
    assert len(found) == len(wanted)
    return max(abs(float((Decimal(f) - w) / w)) for f, w in zip(found, wanted, strict=True))


ROUNDING = 40 * 2.0**-53
"""The exponent 2k/r is rounded, which moves a power by up to ln(base) <= 13.2 roundings; power, quotient: a few."""


@pytest.mark.by_hand("positions/linear_interpolation")
@pytest.mark.parametrize(("width", "factor", "base"), CASES)
def test_frequencies_equal_by_hand(width: int, factor: float, base: float) -> None:
    assert apart(linear_frequencies(width, factor=factor, base=base), by_hand(width, factor, base)) <= ROUNDING


MUTANTS: dict[str, Any] = {
    "not scaled": lambda width, factor, base: Rotary.of(width, base).frequencies,
    "multiplied": lambda width, factor, base: tuple(f * factor for f in Rotary.of(width, base).frequencies),
    "the base scaled": lambda width, factor, base: Rotary.of(width, base * factor).frequencies,
    "the first pair alone": lambda width, factor, base: (1 / factor, *Rotary.of(width, base).frequencies[1:]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected(name: str) -> None:
    assert apart(MUTANTS[name](8, 4.0, 10000.0), by_hand(8, 4.0, 10000.0)) > 1e6 * ROUNDING


@pytest.mark.parametrize("layout", ["half", "adjacent"])
def test_it_turns_as_the_plain_frequencies_turn_a_position_over_the_factor(layout: Any) -> None:
    """The paper's form; 4 is a power of two, so that both angles are the same number."""
    x, at = np.random.default_rng(0).normal(size=(5, 8)), np.array([0, 3, 4096, 65535, 10**6])
    plain, quarter = Rotary.of(8, layout=layout), at / 4
    scaled: Any = linear_rotary(8, factor=4.0, layout=layout).rotate(x, at)
    assert np.abs(scaled - plain.rotate(x, quarter)).max() <= 12 * 2.0**-53 * 2 * 4  # type: ignore[arg-type]
    assert np.abs(scaled[1:] - plain.rotate(x, at)[1:]).max(axis=1).min() > 0.1


@pytest.mark.law("positions/linear_interpolation", "shift equals fresh rotation", "bound")
@pytest.mark.parametrize("by", [1, -700, 4096, 10**5])
def test_a_moved_key_equals_a_fresh_one_there(by: int) -> None:
    """Within three turns of 12 roundings each, and angles rounded in proportion to themselves."""
    rotary, x, at = linear_rotary(6, factor=4.0, start=1), np.random.default_rng(1).normal(size=(4, 7)), 900
    moved = rotary.shift(rotary.rotate(x, np.full(4, at)), np.full(4, by))
    allowed = 2.0**-53 * (72 + 4 * (at + abs(by))) * 2 * float(np.abs(x).max())
    assert np.abs(moved - rotary.rotate(x, np.full(4, at + by))).max() <= allowed
    assert np.abs(Rotary.of(6, start=1).shift(rotary.rotate(x, np.full(4, at)), np.full(4, by)) - moved).max() > 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: linear_frequencies(3, factor=2.0), r"^width must be even, got 3$"),
        (lambda: linear_frequencies(4, factor=0.5), r"^factor must be a finite number >= 1, got 0\.5$"),
        (lambda: linear_frequencies(4, factor=math.nan), r"^factor must be a finite number >= 1, got nan$"),
        (lambda: linear_frequencies(4, factor=True), r"^factor must be a finite number >= 1, got True$"),
        (lambda: linear_rotary(4, factor=2.0, base=0.0), r"^base must be a finite number above 0, got 0\.0$"),
        (lambda: linear_rotary(4, factor=2.0, layout="neox"), r"^layout must be 'half' or 'adjacent', got 'neox'$"),  # type: ignore[arg-type]
    ],
    ids=range(6),
)
def test_a_bad_parameter_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_every_argument_matters() -> None:
    plain: dict[str, Any] = {"factor": 4.0, "base": 100.0, "layout": "half", "start": 0}
    whole = linear_rotary(4, **plain)
    assert linear_rotary(6, **plain) != whole
    for name, other in {"factor": 2.0, "base": 50.0, "layout": "adjacent", "start": 2}.items():
        assert linear_rotary(4, **plain | {name: other}) != whole
