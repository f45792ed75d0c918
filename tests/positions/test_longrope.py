"""LongRoPE against 40-digit decimals on both sides of the trained length."""

from decimal import Decimal, getcontext
import math
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.positions.longrope import LongRope

getcontext().prec = 40

SHORT, LONG = (1.0, 1.05, 1.5, 2.25), (1.25, 3.0, 17.5, 64.0)
SCHEME = LongRope(SHORT, LONG, trained=4096, factor=32.0, start=1)


def by_hand(scheme: LongRope, length: int) -> tuple[list[Decimal], Decimal]:
    """Frequencies and magnitude."""
    pairs = len(scheme.short)
    found = []
    for k in range(pairs):
        divisor = scheme.long[k] if length >= scheme.trained + 1 else scheme.short[k]
        found.append((-Decimal(scheme.base).ln() * k / pairs).exp() / Decimal(divisor))
    return found, (1 + Decimal(scheme.factor).ln() / Decimal(scheme.trained).ln()).sqrt()


def apart(found: tuple[float, ...], wanted: list[Decimal]) -> float:
    """The largest relative error."""
    assert len(found) == len(wanted)
    return max(abs(float((Decimal(f) - w) / w)) for f, w in zip(found, wanted, strict=True))


ROUNDING = 40 * 2.0**-53
"""The exponent is rounded, which moves a power by up to ln(base) <= 13.2 roundings; power, quotient: a few."""


@pytest.mark.by_hand("positions/longrope")
@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 4097, 131072])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_frequencies_and_magnitude_equal_by_hand(length: int, base: float) -> None:
    scheme = LongRope(SHORT, LONG, trained=4096, factor=32.0, base=base)
    frequencies, magnitude = by_hand(scheme, length)
    rotary = scheme.rotary_at(length)
    assert rotary.frequencies == scheme.frequencies_at(length)
    assert apart(rotary.frequencies, frequencies) <= ROUNDING
    assert apart((rotary.magnitude,), [magnitude]) <= ROUNDING
    assert rotary.magnitude == scheme.magnitude_at(length)


MUTANTS: dict[str, tuple[int, Any]] = {
    "long one token early": (4096, lambda length: SCHEME.frequencies_at(length + 1)),
    "short one token late": (4097, lambda length: SCHEME.frequencies_at(length - 1)),
    "always short": (9999, lambda length: SCHEME.frequencies_at(0)),
    "always long": (7, lambda length: SCHEME.frequencies_at(9999)),
    "multiplied": (7, lambda length: tuple(f * s for f, s in zip(Rotary.of(8).frequencies, SHORT, strict=True))),
    "exponent over pairs": (7, lambda length: tuple(10000.0 ** (-2 * k / 4) / SHORT[k] for k in range(4))),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_wrong_frequencies_are_rejected(name: str) -> None:
    length, mutant = MUTANTS[name]
    assert apart(mutant(length), by_hand(SCHEME, length)[0]) > 1e6 * ROUNDING


def test_explicit_magnitudes_hold_on_their_own_side() -> None:
    scheme = LongRope(SHORT, LONG, trained=8, factor=4.0, short_magnitude=1.25, long_magnitude=1.5)
    assert [scheme.rotary_at(n).magnitude for n in (7, 8, 9)] == [1.25, 1.25, 1.5]
    half = LongRope(SHORT, LONG, trained=8, factor=4.0, long_magnitude=1.5)
    assert [half.magnitude_at(n) for n in (8, 9)] == [math.sqrt(1 + math.log(4) / math.log(8)), 1.5]
    assert LongRope(SHORT, LONG, trained=8, factor=1.0).magnitude_at(9) == 1.0


@pytest.mark.law("positions/longrope", "shift equals fresh rotation, in one stage", "bound")
@pytest.mark.parametrize("length", [4096, 4097])
@pytest.mark.parametrize("by", [1, -700, 3000])
def test_a_moved_key_equals_a_fresh_one_there_in_one_stage(by: int, length: int) -> None:
    """Within three turns of 14 roundings each, and angles rounded in proportion to themselves; magnitude once."""
    rotary, x, at = SCHEME.rotary_at(length), np.random.default_rng(1).normal(size=(4, 9)), 900
    cached = rotary.rotate(x, np.full(4, at))
    moved, fresh = rotary.shift(cached, np.full(4, by)), rotary.rotate(x, np.full(4, at + by))
    allowed = 2.0**-53 * (84 + 4 * (at + abs(by))) * 2 * rotary.magnitude * float(np.abs(x).max())
    assert np.abs(moved - fresh).max() <= allowed
    other = SCHEME.rotary_at(4097 + 4096 - length)
    assert np.abs(other.shift(cached, np.full(4, by)) - fresh).max() > 1e-3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"short": ()}, r"^short must be a non-empty sequence of finite numbers, got \(\)$"),
        ({"short": (1.0,)}, r"^long must have one factor for each of 1 pairs, got 4$"),
        ({"long": (1.0, 0.0, 1.0, 1.0)}, r"^long\[1\] must be a finite number above 0, got 0\.0$"),
        ({"trained": 1}, r"^trained must be an integer >= 2, got 1$"),
        ({"factor": 0.5}, r"^factor must be a finite number >= 1, got 0\.5$"),
        ({"base": 0.0}, r"^base must be a finite number above 0, got 0\.0$"),
        ({"short_magnitude": 0.0}, r"^short_magnitude must be a finite number above 0, got 0\.0$"),
        ({"long_magnitude": math.inf}, r"^long_magnitude must be a finite number above 0, got inf$"),
        ({"layout": "neox"}, r"^layout must be 'half' or 'adjacent', got 'neox'$"),
        ({"start": 0.5}, r"^start must be an integer, got 0\.5$"),
    ],
    ids=range(10),
)
def test_a_bad_parameter_is_named(change: dict[str, Any], words: str) -> None:
    plain: dict[str, Any] = {"short": SHORT, "long": LONG, "trained": 8, "factor": 4.0}
    with pytest.raises(ArgumentError, match=words):
        LongRope(**plain | change)


def test_a_bad_length_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"^length must be an integer >= 0, got -1$"):
        SCHEME.rotary_at(-1)


def test_it_is_a_value_and_every_argument_matters() -> None:
    plain: dict[str, Any] = {
        "short": SHORT, "long": LONG, "trained": 8, "factor": 4.0, "base": 100.0,
        "short_magnitude": None, "long_magnitude": None, "layout": "half", "start": 0,
    }  # fmt: skip
    scheme = LongRope(**plain)
    assert scheme == LongRope(**plain | {"short": list(SHORT), "long": np.array(LONG), "start": np.int64(0)})
    assert hash(scheme) == hash(LongRope(**plain))
    others: dict[str, Any] = {
        "short": LONG, "long": SHORT, "trained": 9, "factor": 2.0, "base": 50.0,
        "short_magnitude": 3.0, "long_magnitude": 3.0, "layout": "adjacent", "start": 1,
    }  # fmt: skip
    for name, other in others.items():
        changed = LongRope(**plain | {name: other})
        assert any(changed.rotary_at(length) != scheme.rotary_at(length) for length in (8, 9))
