"""Llama-3 scaling against 40-digit decimals, band by band, and as the released code says it: with if and else."""

from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.llama3 import llama3_frequencies, llama3_rotary

getcontext().prec = 40
PI = Decimal("3.141592653589793238462643383279502884197")

CASES: dict[str, dict[str, Any]] = {
    "Llama 3.1": {"width": 128, "factor": 8.0, "trained": 8192, "low": 1.0, "high": 4.0, "base": 500000.0},
    "Llama 3.2": {"width": 64, "factor": 32.0, "trained": 8192, "low": 1.0, "high": 4.0, "base": 500000.0},
    "small": {"width": 16, "factor": 3.0, "trained": 100, "low": 0.5, "high": 6.0, "base": 1000.0},
    "no scaling": {"width": 8, "factor": 1.0, "trained": 64, "low": 1.0, "high": 4.0, "base": 100.0},
}


def by_hand(width: int, factor: float, trained: int, low: float, high: float, base: float) -> list[Decimal]:
    """Three bands of wavelengths."""
    found = []
    for k in range(width // 2):
        plain = (-Decimal(base).ln() * 2 * k / width).exp()
        wavelength = 2 * PI / plain
        if wavelength > trained / Decimal(low):
            found.append(plain / Decimal(factor))
        elif wavelength < trained / Decimal(high):
            found.append(plain)
        else:
            t = (trained / wavelength - Decimal(low)) / (Decimal(high) - Decimal(low))
            found.append((1 - t) * plain / Decimal(factor) + t * plain)
    return found


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> list[float]:
    """The relative error of each."""
    assert len(found) == len(wanted)
    return [abs(float((Decimal(f) - w) / w)) for f, w in zip(found, wanted, strict=True)]


ROUNDING = 1000 * 2.0**-53
"""A power errs by ln(base) <= 14 roundings, and t, relative to t + 1/f, by about 20·high/(high - low); times f."""


@pytest.mark.by_hand("positions/llama3")
@pytest.mark.parametrize("name", CASES)
def test_frequencies_equal_by_hand(name: str) -> None:
    assert max(apart(llama3_frequencies(**CASES[name]), by_hand(**CASES[name]))) <= ROUNDING


def test_all_three_bands_occur_and_are_told_apart() -> None:
    case = CASES["Llama 3.1"]
    plain = Rotary.of(128, 500000.0).frequencies
    ratios = [f / p for f, p in zip(llama3_frequencies(**case), plain, strict=True)]
    bands = [sum(r == 1.0 for r in ratios), sum(0.125 < r < 1.0 for r in ratios), sum(r == 0.125 for r in ratios)]
    assert bands == [29, 6, 29]
    assert sorted(ratios, reverse=True) == ratios


def test_the_defaults_are_llama_3_1s() -> None:
    assert llama3_frequencies(128) == llama3_frequencies(**CASES["Llama 3.1"])


MUTANTS: dict[str, tuple[tuple[float, ...], list[int]]] = {
    "not scaled": (Rotary.of(128, 500000.0).frequencies, [*range(29, 64)]),
    "linear": (tuple(f / 8 for f in Rotary.of(128, 500000.0).frequencies), [*range(35)]),
    "no passage": (
        tuple(f if k < 29 else f / 8 for k, f in enumerate(Rotary.of(128, 500000.0).frequencies)),
        [*range(29, 35)],
    ),
    "low and high of another model": (llama3_frequencies(128, low=0.5), [*range(29, 39)]),
    "trained for half": (llama3_frequencies(128, trained=4096), [*range(25, 35)]),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected_in_the_bands_that_they_touch(name: str) -> None:
    found, touched = MUTANTS[name]
    wrong = [k for k, error in enumerate(apart(found, by_hand(**CASES["Llama 3.1"]))) if error > 1e6 * ROUNDING]
    assert set(wrong) <= set(touched)
    assert len(wrong) >= len(touched) - 1


@pytest.mark.law("positions/llama3", "shift equals fresh rotation", "bound")
@pytest.mark.parametrize("by", [1, -700, 4096, 10**5])
def test_a_moved_key_equals_a_fresh_one_there(by: int) -> None:
    """Within three turns of 12 roundings each, and angles rounded in proportion to themselves."""
    rotary = llama3_rotary(8, trained=64, base=1000.0, start=1)
    x, at = np.random.default_rng(1).normal(size=(4, 9)), 900
    moved = rotary.shift(rotary.rotate(x, np.full(4, at)), np.full(4, by))
    allowed = 2.0**-53 * (72 + 4 * (at + abs(by))) * 2 * float(np.abs(x).max())
    assert np.abs(moved - rotary.rotate(x, np.full(4, at + by))).max() <= allowed
    plain = Rotary.of(8, 1000.0, start=1)
    assert np.abs(plain.shift(rotary.rotate(x, np.full(4, at)), np.full(4, by)) - moved).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 5}, r"^width must be even, got 5$"),
        ({"factor": 0.9}, r"^factor must be a finite number >= 1, got 0\.9$"),
        ({"trained": 8192.0}, r"^trained must be an integer >= 1, got 8192\.0$"),
        ({"low": 0.0}, r"^low must be a finite number above 0, got 0\.0$"),
        ({"high": 1.0}, r"^high must be above low, 1, got 1$"),
        ({"base": -1.0}, r"^base must be a finite number above 0, got -1\.0$"),
    ],
    ids=range(6),
)
def test_a_bad_parameter_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        llama3_rotary(**{"width": 8} | change)


def test_every_argument_matters() -> None:
    plain: dict[str, Any] = {
        "width": 128, "factor": 8.0, "trained": 8192, "low": 1.0, "high": 4.0, "base": 500000.0,
        "layout": "half", "start": 0,
    }  # fmt: skip
    others: dict[str, Any] = {
        "width": 64, "factor": 32.0, "trained": 4096, "low": 0.5, "high": 8.0, "base": 10000.0,
        "layout": "adjacent", "start": 1,
    }  # fmt: skip
    for name, other in others.items():
        assert llama3_rotary(**plain | {name: other}) != llama3_rotary(**plain)
