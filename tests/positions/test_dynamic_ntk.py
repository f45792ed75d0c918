"""Dynamic NTK against 40-digit decimals on both sides of the trained length, and what it breaks."""

from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.dynamic_ntk import DynamicNTK

getcontext().prec = 40

CASES = [(4, 2.0, 8, 100.0), (64, 4.0, 2048, 10000.0), (128, 2.0, 4096, 500000.0)]


def by_hand(width: int, factor: float, trained: int, base: float, length: int) -> list[Decimal]:
    longer = max(trained, length)
    alpha = (Decimal(factor) * longer - (Decimal(factor) - 1) * trained) / trained
    pairs = width // 2
    return [(-Decimal(base).ln() * (2 * k) / width - alpha.ln() * k / (pairs - 1)).exp() for k in range(pairs)]


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> float:
    """The largest relative error."""
    assert len(found) == len(wanted)
    return max(abs(float((Decimal(f) - w) / w)) for f, w in zip(found, wanted, strict=True))


ROUNDING = 80 * 2.0**-53
"""As for `kvattn.positions.ntk`; α itself is a difference of numbers up to 17 times as large, for the lengths here."""


@pytest.mark.by_hand("positions/dynamic_ntk")
@pytest.mark.parametrize(("width", "factor", "trained", "base"), CASES)
def test_frequencies_equal_by_hand_around_the_trained_length(
    width: int, factor: float, trained: int, base: float
) -> None:
    scheme = DynamicNTK(width, factor, trained, base)
    for length in (0, 1, trained - 1, trained, trained + 1, 2 * trained, 4 * trained + 3):
        found = scheme.frequencies_at(length)
        assert apart(found, by_hand(width, factor, trained, base, length)) <= ROUNDING
        assert (found == Rotary.of(width, base).frequencies) == (length <= trained)
        assert scheme.rotary_at(length) == Rotary(found)


def frequencies(r: int, base: float, alpha: float) -> tuple[float, ...]:
    return Rotary.of(r, base * alpha ** (r / (r - 2))).frequencies


MUTANTS: dict[str, Any] = {
    "one token early": lambda r, f, trained, base, length: frequencies(r, base, f * (length + 1) / trained - (f - 1)),
    "static": lambda r, f, trained, base, length: frequencies(r, base, f),
    "not from the trained length on": lambda r, f, trained, base, length: frequencies(r, base, f * length / trained),
    "length over trained alone": lambda r, f, trained, base, length: frequencies(r, base, length / trained),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected(name: str) -> None:
    found = MUTANTS[name](64, 4.0, 2048, 10000.0, 2049)
    assert apart(found, by_hand(64, 4.0, 2048, 10000.0, 2049)) > 1e6 * ROUNDING


@pytest.mark.law("positions/dynamic_ntk", "shift equals fresh rotation, at one length", "bound")
@pytest.mark.parametrize("by", [1, -700, 4096])
def test_a_moved_key_equals_a_fresh_one_there_as_long_as_the_length_stays(by: int) -> None:
    scheme = DynamicNTK(6, 2.0, 1024, start=1)
    rotary, x, at = scheme.rotary_at(5000), np.random.default_rng(1).normal(size=(4, 7)), 900
    moved = rotary.shift(rotary.rotate(x, np.full(4, at)), np.full(4, by))
    allowed = 2.0**-53 * (72 + 4 * (at + abs(by))) * 2 * float(np.abs(x).max())
    assert np.abs(moved - rotary.rotate(x, np.full(4, at + by))).max() <= allowed


def test_a_key_cached_at_one_length_is_no_key_of_another_wherever_it_is_moved() -> None:
    """The law does not hold: the pairs would have to move by different distances."""
    scheme, x = DynamicNTK(8, 2.0, 16), np.random.default_rng(1).normal(size=(1, 8))
    cached = scheme.rotary_at(16).rotate(x, np.array([9]))
    wanted = scheme.rotary_at(48).rotate(x, np.array([9]))
    for by in range(-9, 40):
        assert np.abs(scheme.rotary_at(48).shift(cached, np.array([by])) - wanted).max() > 1e-2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DynamicNTK(2, 2.0, 8), r"^width must be an integer >= 4, got 2$"),
        (lambda: DynamicNTK(5, 2.0, 8), r"^width must be even, got 5$"),
        (lambda: DynamicNTK(4, 0.5, 8), r"^factor must be a finite number >= 1, got 0\.5$"),
        (lambda: DynamicNTK(4, 2.0, 0), r"^trained must be an integer >= 1, got 0$"),
        (lambda: DynamicNTK(4, 2.0, 8.0), r"^trained must be an integer >= 1, got 8\.0$"),  # type: ignore[arg-type]
        (lambda: DynamicNTK(4, 2.0, 8, base=0), r"^base must be a finite number above 0, got 0$"),
        (lambda: DynamicNTK(4, 2.0, 8, layout="neox"), r"^layout must be 'half' or 'adjacent', got 'neox'$"),  # type: ignore[arg-type]
        (lambda: DynamicNTK(4, 2.0, 8).rotary_at(-1), r"^length must be an integer >= 0, got -1$"),
    ],
    ids=range(8),
)
def test_a_bad_parameter_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


def test_it_is_a_value_and_every_argument_matters() -> None:
    plain: dict[str, Any] = {
        "width": 4, "factor": 4.0, "trained": 8, "base": 100.0, "layout": "half", "start": 0,
    }  # fmt: skip
    scheme = DynamicNTK(**plain)
    assert scheme == DynamicNTK(np.int64(4), 4, np.int64(8), 100, "half", np.int64(0))  # type: ignore[arg-type]
    assert repr(scheme) == "DynamicNTK(width=4, factor=4.0, trained=8, base=100.0, layout='half', start=0)"
    others = {"width": 6, "factor": 2.0, "trained": 9, "base": 50.0, "layout": "adjacent", "start": 2}
    for name, other in others.items():
        assert DynamicNTK(**plain | {name: other}).rotary_at(10) != scheme.rotary_at(10)
