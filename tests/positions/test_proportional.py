"""Proportional RoPE against 40-digit decimals, and against the partial rotation that it is not."""

from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.proportional import proportional_frequencies, proportional_rotary

getcontext().prec = 40

CASES = [(8, 0.5, 1.0, 10000.0), (512, 0.25, 8.0, 1000000.0), (12, 0.4, 2.0, 100.0), (8, 1.0, 1.0, 10000.0)]


def by_hand(width: int, share: float, factor: float, base: float) -> list[Decimal]:
    turning = {0.5: 2, 0.25: 64, 0.4: 2, 1.0: 4}[share]  # floor of 0.5 · 4, 0.25 · 256, 0.4 · 6, 1 · 4
    found = [(-Decimal(base).ln() * 2 * k / width).exp() / Decimal(factor) for k in range(turning)]
    return found + [Decimal(0)] * (width // 2 - turning)


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> float:
    """The largest relative error; infinite where one is 0 and the other is not."""
    assert len(found) == len(wanted)
    errors = [0.0 if f == w else abs(float((Decimal(f) - w) / w)) if w else np.inf for f, w in zip(found, wanted)]  # noqa: B905
    return max(errors)


ROUNDING = 40 * 2.0**-53
"""The exponent 2k/D is rounded, which moves a power by up to ln(base) <= 14 roundings; power, quotient: a few."""


@pytest.mark.by_hand("positions/proportional")
@pytest.mark.parametrize(("width", "share", "factor", "base"), CASES)
def test_frequencies_equal_by_hand(width: int, share: float, factor: float, base: float) -> None:
    found = proportional_frequencies(width, share=share, factor=factor, base=base)
    assert apart(found, by_hand(width, share, factor, base)) <= ROUNDING


MUTANTS: dict[str, tuple[float, ...]] = {
    "exponent of the share": (*Rotary.of(4).frequencies, 0.0, 0.0),
    "the slowest pairs": (0.0, 0.0, *Rotary.of(8).frequencies[2:]),
    "all pairs": Rotary.of(8).frequencies,
    "one pair more": (*Rotary.of(8).frequencies[:3], 0.0),
    "one pair fewer": (1.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected(name: str) -> None:
    assert apart(MUTANTS[name], by_hand(8, 0.5, 1.0, 10000.0)) > 1e6 * ROUNDING


def test_a_pair_is_a_feature_of_each_half_of_the_full_width() -> None:
    """Features 0, 1, 4, 5 of 8 turn, the others pass to the bit; a partial rotation turns 0 to 3."""
    x, at = np.random.default_rng(0).normal(size=(3, 8)), np.array([1, 70, 4096])
    turned = proportional_rotary(8, share=0.5).rotate(x, at)
    assert (turned[:, [2, 3, 6, 7]] == x[:, [2, 3, 6, 7]]).all()
    assert (turned[:, [0, 1, 4, 5]] != x[:, [0, 1, 4, 5]]).all()
    partial = Rotary.of(4).rotate(x, at)
    assert (partial[:, 4:] == x[:, 4:]).all()
    assert np.abs(turned - partial).max() > 0.1


def test_a_share_of_all_is_plain_and_of_nothing_is_none() -> None:
    assert proportional_rotary(8, share=1.0) == Rotary.of(8)
    x = np.ones((2, 8))
    assert (proportional_rotary(8, share=0.0).rotate(x, np.array([3, 4])) == x).all()


@pytest.mark.law("positions/proportional", "shift equals fresh rotation", "bound")
@pytest.mark.parametrize("by", [1, -700, 4096, 10**5])
def test_a_moved_key_equals_a_fresh_one_there(by: int) -> None:
    """Within three turns of 12 roundings each, and angles rounded in proportion to themselves."""
    rotary = proportional_rotary(8, share=0.5, factor=2.0, start=1)
    x, at = np.random.default_rng(1).normal(size=(4, 9)), 900
    moved = rotary.shift(rotary.rotate(x, np.full(4, at)), np.full(4, by))
    allowed = 2.0**-53 * (72 + 4 * (at + abs(by))) * 2 * float(np.abs(x).max())
    assert np.abs(moved - rotary.rotate(x, np.full(4, at + by))).max() <= allowed
    assert np.abs(Rotary.of(8, start=1).shift(rotary.rotate(x, np.full(4, at)), np.full(4, by)) - moved).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 5}, r"^width must be even, got 5$"),
        ({"share": -0.1}, r"^share must be a finite number >= 0, got -0\.1$"),
        ({"share": 1.5}, r"^share must be a finite number in 0 \.\. 1, got 1\.5$"),
        ({"factor": 0.5}, r"^factor must be a finite number >= 1, got 0\.5$"),
        ({"base": 0.0}, r"^base must be a finite number above 0, got 0\.0$"),
    ],
    ids=range(5),
)
def test_a_bad_parameter_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        proportional_rotary(**{"width": 8, "share": 0.5} | change)


def test_every_argument_matters() -> None:
    plain: dict[str, Any] = {"width": 8, "share": 0.5, "factor": 1.0, "base": 10000.0, "layout": "half", "start": 0}
    others: dict[str, Any] = {
        "width": 6, "share": 0.75, "factor": 2.0, "base": 50.0, "layout": "adjacent", "start": 2,
    }  # fmt: skip
    for name, other in others.items():
        assert proportional_rotary(**plain | {name: other}) != proportional_rotary(**plain)
