"""YaRN against 40-digit decimals: range, ramp, frequencies and magnitude, with and without rounding the range."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, getcontext
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.yarn import yarn_frequencies, yarn_magnitude, yarn_range, yarn_rotary, yarn_scale_factor

getcontext().prec = 40
PI = Decimal("3.141592653589793238462643383279502884197")

CASES: dict[str, dict[str, Any]] = {
    "Qwen": {"width": 128, "factor": 4.0, "trained": 32768, "base": 1000000.0},
    "DeepSeek-V2": {"width": 64, "factor": 40.0, "trained": 4096},
    "gpt-oss": {"width": 64, "factor": 32.0, "trained": 4096, "base": 150000.0, "truncate": False},
    "clamped below": {"width": 16, "factor": 8.0, "trained": 100, "base": 10000.0},
    "clamped above": {"width": 8, "factor": 8.0, "trained": 1000, "base": 20.0, "slow": 0.01},
    "high = low": {"width": 8, "factor": 8.0, "trained": 2, "base": 10000.0},
    "no scaling": {"width": 8, "factor": 1.0, "trained": 64, "base": 100.0},
}


def by_hand(
    width: int,
    factor: float,
    trained: int,
    base: float = 10000.0,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> list[Decimal]:
    turns = [width * (Decimal(trained) / (2 * PI * Decimal(n))).ln() / (2 * Decimal(base).ln()) for n in (fast, slow)]
    low, high = turns
    if truncate:
        low, high = low.to_integral_value(ROUND_FLOOR), high.to_integral_value(ROUND_CEILING)
    low, high = max(low, Decimal(0)), min(high, Decimal(width - 1))
    if low == high:
        high += Decimal("0.001")
    found = []
    for k in range(width // 2):
        plain = (-Decimal(base).ln() * 2 * k / width).exp()
        ramp = max(Decimal(0), min(Decimal(1), (k - low) / (high - low)))
        found.append(ramp * plain / Decimal(factor) + (1 - ramp) * plain)
    return found


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> float:
    """The largest relative error."""
    assert len(found) == len(wanted)
    return max(abs(float((Decimal(f) - w) / w)) for f, w in zip(found, wanted, strict=True))


ROUNDING = 2000 * 2.0**-53
"""A power errs by ln(base) <= 14 roundings.  Without truncation low and high err by about 4·high; over a range of at
least one pair that is below 200 roundings of a ramp, times f - 1 <= 39 where ramp·θ/f and (1 - ramp)·θ are alike."""


@pytest.mark.by_hand("positions/yarn")
@pytest.mark.parametrize("name", CASES)
def test_frequencies_equal_by_hand(name: str) -> None:
    assert apart(yarn_frequencies(**CASES[name]), by_hand(**CASES[name])) <= ROUNDING


def test_the_cases_reach_every_branch() -> None:
    ranges = {name: yarn_range(**{k: v for k, v in case.items() if k != "factor"}) for name, case in CASES.items()}
    assert ranges["DeepSeek-V2"] == (10.0, 23.0)
    assert ranges["gpt-oss"][0] % 1 != 0 != ranges["gpt-oss"][1] % 1
    assert ranges["clamped below"][0] == 0.0
    assert ranges["clamped above"][1] == 7.0
    assert ranges["high = low"] == (0.0, 0.001)
    frequencies = yarn_frequencies(**CASES["Qwen"])
    plain = Rotary.of(128, 1000000.0).frequencies
    assert frequencies[0] == plain[0]
    assert frequencies[-1] == plain[-1] / 4


def test_a_range_of_nothing_is_opened_by_a_thousandth() -> None:
    low, high = yarn_range(8, trained=4096, fast=4.0, slow=4.0, truncate=False)
    assert high == low + 0.001
    wanted = by_hand(8, 4.0, 4096, fast=4.0, slow=4.0, truncate=False)
    assert apart(yarn_frequencies(8, factor=4.0, trained=4096, fast=4.0, slow=4.0, truncate=False), wanted) <= ROUNDING


PLAIN = CASES["DeepSeek-V2"]


def mixed(low: float, high: float, *, inverse: bool = False, factor: float = 40.0) -> tuple[float, ...]:
    plain = Rotary.of(64).frequencies
    ramps = [min(max((k - low) / (high - low), 0.0), 1.0) for k in range(32)]
    ramps = [1 - ramp for ramp in ramps] if inverse else ramps
    return tuple(ramp * theta / factor + (1 - ramp) * theta for ramp, theta in zip(ramps, plain, strict=True))


MUTANTS: dict[str, Any] = {
    "not scaled": Rotary.of(64).frequencies,
    "linear": tuple(theta / 40.0 for theta in Rotary.of(64).frequencies),
    "ramp upside down": mixed(10, 23, inverse=True),
    "rounded inwards": mixed(11, 22),
    "not rounded": yarn_frequencies(**PLAIN, truncate=False),
    "fast and slow forgotten": mixed(0, 31),
    "the range of the wrong base": yarn_frequencies(**PLAIN | {"trained": 4097 * 2}),
    "another factor": mixed(10, 23, factor=39.0),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected(name: str) -> None:
    assert apart(mixed(10, 23), by_hand(**PLAIN)) <= ROUNDING
    assert apart(MUTANTS[name], by_hand(**PLAIN)) > 1e6 * ROUNDING


def m(factor: float, number: float) -> Decimal:
    return Decimal("0.1") * Decimal(number) * Decimal(factor).ln() + 1


@pytest.mark.by_hand("positions/yarn")
@pytest.mark.parametrize("factor", [1.0, 4.0, 16.0, 40.0, 64.0])
@pytest.mark.parametrize(("mscale", "all_dim"), [(1.0, 0.0), (0.707, 0.707), (1.0, 1.0), (0.707, 1.0), (0.707, 0.0)])
def test_magnitudes_equal_by_hand(factor: float, mscale: float, all_dim: float) -> None:
    found = yarn_magnitude(factor, mscale=mscale, mscale_all_dim=all_dim)
    assert abs(Decimal(found) - m(factor, mscale) / m(factor, all_dim)) < Decimal(10 * 2.0**-53)
    scale = yarn_scale_factor(factor, mscale_all_dim=all_dim)
    assert abs(Decimal(scale) - m(factor, all_dim) ** 2) < Decimal(20 * 2.0**-53)


def test_the_numbers_that_others_got_wrong() -> None:
    """Published: 1.277 for a factor of 16, 1.416 for 64; 1 where both numbers are equal."""
    assert round(yarn_magnitude(16.0), 3) == 1.277
    assert round(yarn_magnitude(64.0), 3) == 1.416
    assert yarn_magnitude(16.0, mscale=1.0, mscale_all_dim=1.0) == 1.0
    assert yarn_scale_factor(40.0, mscale_all_dim=0.707) != yarn_scale_factor(40.0, mscale_all_dim=1.0)


def test_the_magnitude_is_on_queries_and_keys() -> None:
    x, at = np.random.default_rng(0).normal(size=(3, 8)), np.array([0, 5, 70])
    rotary = yarn_rotary(8, factor=16.0, trained=64)
    assert rotary.magnitude == yarn_magnitude(16.0)
    assert np.allclose(rotary.rotate(x, at)[0], x[0] * yarn_magnitude(16.0), rtol=1e-15, atol=0)
    assert yarn_rotary(8, factor=16.0, trained=64, magnitude=1.0).magnitude == 1.0


@pytest.mark.law("positions/yarn", "shift equals fresh rotation", "bound")
@pytest.mark.parametrize("by", [1, -700, 4096, 10**5])
def test_a_moved_key_equals_a_fresh_one_there(by: int) -> None:
    """Within three turns of 14 roundings each, and angles rounded in proportion to themselves; magnitude once."""
    rotary = yarn_rotary(6, factor=16.0, trained=512, start=1)
    x, at = np.random.default_rng(1).normal(size=(4, 7)), 900
    cached = rotary.rotate(x, np.full(4, at))
    moved, fresh = rotary.shift(cached, np.full(4, by)), rotary.rotate(x, np.full(4, at + by))
    allowed = 2.0**-53 * (84 + 4 * (at + abs(by))) * 2 * rotary.magnitude * float(np.abs(x).max())
    assert np.abs(moved - fresh).max() <= allowed
    assert np.abs(rotary.rotate(cached, np.full(4, by)) - fresh).max() > 0.1  # mutant: magnitude twice
    assert np.abs(Rotary.of(6, start=1).shift(cached, np.full(4, by)) - fresh).max() > 1e-3


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "width": ({"width": 7}, r"^width must be even, got 7$"),
    "factor": ({"factor": 0.5}, r"^factor must be a finite number >= 1, got 0\.5$"),
    "trained": ({"trained": 0}, r"^trained must be an integer >= 1, got 0$"),
    "base": ({"base": 1.0}, r"^base must be a finite number above 1, got 1\.0$"),
    "slow": ({"slow": 0.0}, r"^slow must be a finite number above 0, got 0\.0$"),
    "fast": ({"fast": 0.5}, r"^fast must be a finite number >= 1, got 0\.5$"),
    "too short": ({"trained": 1}, r"^trained must be a length in which some pair turns between 1 and 32 times, got 1$"),
    "too long": ({"trained": 10**9, "base": 2.0}, r"^trained must be a length in which some pair turns between"),
    "truncate": ({"truncate": 1}, r"^truncate must be True or False, got 1$"),
    "magnitude": ({"magnitude": 0.0}, r"^magnitude must be a finite number above 0, got 0\.0$"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_parameter_is_named(name: str) -> None:
    with pytest.raises(ArgumentError, match=BAD[name][1]):
        yarn_rotary(**{"width": 8, "factor": 4.0, "trained": 64, "base": 100.0} | BAD[name][0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: yarn_magnitude(0.5), r"^factor must be a finite number >= 1, got 0\.5$"),
        (lambda: yarn_magnitude(4.0, mscale=-1.0), r"^mscale must be a finite number >= 0, got -1\.0$"),
        (
            lambda: yarn_scale_factor(4.0, mscale_all_dim=None),  # type: ignore[arg-type]
            r"^mscale_all_dim must be a finite number >= 0, got None$",
        ),
    ],
    ids=range(3),
)
def test_a_bad_magnitude_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_every_argument_matters() -> None:
    plain: dict[str, Any] = {
        "width": 64, "factor": 4.0, "trained": 4096, "base": 10000.0, "fast": 32.0, "slow": 1.0,
        "truncate": True, "magnitude": None, "layout": "half", "start": 0,
    }  # fmt: skip
    others: dict[str, Any] = {
        "width": 32, "factor": 8.0, "trained": 8192, "base": 500.0, "fast": 16.0, "slow": 2.0,
        "truncate": False, "magnitude": 1.0, "layout": "adjacent", "start": 1,
    }  # fmt: skip
    for name, other in others.items():
        assert yarn_rotary(**plain | {name: other}) != yarn_rotary(**plain)
