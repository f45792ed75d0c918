"""Rounding to number formats: by hand in fractions, at every number, every tie and beside every tie."""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.testing.formats import FORMATS, Format, format_of, saturating
from kvattn.typing import Array

NAMES = tuple(FORMATS)
SMALL = tuple(name for name in NAMES if FORMATS[name].kind.bits <= 8)

WORDS: dict[
    str, tuple[int, int, int, Fraction, float]
] = {  # exponent bits, mantissa bits, bias, largest number, what stands beyond it: from the standards' words
    "float64": (11, 52, 1023, Fraction(2**53 - 1) * 2**971, math.inf),
    "float32": (8, 23, 127, Fraction(2**24 - 1) * 2**104, math.inf),
    "tf32": (8, 10, 127, Fraction(2**11 - 1) * 2**117, math.inf),
    "bfloat16": (8, 7, 127, Fraction(2**8 - 1) * 2**120, math.inf),
    "float16": (5, 10, 15, Fraction(65504), math.inf),
    "float8_e4m3": (4, 3, 7, Fraction(448), math.nan),
    "float8_e5m2": (5, 2, 15, Fraction(57344), math.inf),
    "float8_e4m3fnuz": (4, 3, 8, Fraction(240), math.nan),
    "float8_e5m2fnuz": (5, 2, 16, Fraction(57344), math.nan),
    "float6_e2m3": (2, 3, 1, Fraction(15, 2), 7.5),
    "float6_e3m2": (3, 2, 3, Fraction(28), 28.0),
    "float4_e2m1": (2, 1, 1, Fraction(6), 6.0),
}


def nearest(x: Fraction, name: str, cut: bool = False) -> Fraction | float:
    """The nearest number, ties to even, or the next towards zero, in exact fractions."""
    _, mantissa, bias, largest, beyond = WORDS[name]
    size = abs(x)
    exponent = size.numerator.bit_length() - size.denominator.bit_length() if size else 1 - bias
    exponent -= size < Fraction(2) ** exponent
    exponent = max(exponent, 1 - bias)
    step = Fraction(2) ** (exponent - mantissa)
    whole, rest = divmod(size, step)
    if not cut and (2 * rest > step or (2 * rest == step and whole % 2 == 1)):
        whole += 1
    found = whole * step
    if found > largest:
        return math.copysign(beyond, x)
    return found if x >= 0 else -found


def by_hand(x: float, name: str, cut: bool = False) -> float:
    """The same for any float, with the signs of zeros."""
    if math.isnan(x):
        return x
    beyond = WORDS[name][4]
    found = beyond if math.isinf(x) else abs(float(nearest(Fraction(x), name, cut)))
    return 0.0 if found == 0 and name.endswith("fnuz") else math.copysign(found, x)


def same(found: Any, wanted: Any) -> bool:
    """Equal to the bit, but for what a NaN holds."""
    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return np.array_equal(a, b, equal_nan=True) and bool((np.signbit(a) == np.signbit(b))[~np.isnan(b)].all())


def ends(name: str) -> Iterator[float]:
    """What stands at the ends of the range and beside them."""
    _, mantissa, bias, largest, _ = WORDS[name]
    smallest = math.ldexp(1.0, max(1 - bias - mantissa, -1074))
    for x in (smallest, smallest / 2, 3 * smallest / 2, smallest * 2**mantissa, float(largest)):
        yield from (math.nextafter(x, 0.0), x, math.nextafter(x, math.inf))
    if name != "float64":
        half = float(largest) + math.ldexp(1.0, math.frexp(float(largest))[1] - mantissa - 2)  # half a step beyond
        yield from (math.nextafter(half, 0.0), half, math.nextafter(half, math.inf), 3 * half)
    yield from (0.0, 1.0, math.inf, 1e300, 5e-324)


def probes(name: str) -> Array:
    """Numbers, ties and neighbours of ties: all of them up to 8 bits, 1,500 of each otherwise."""
    number_format = FORMATS[name]
    bits = min(number_format.kind.bits, 64)
    if bits <= 8:
        codes = np.arange(1 << (bits - 1), dtype=np.uint64)
    else:
        codes = np.random.default_rng(5).integers(0, 1 << (bits - 1), 1500, dtype=np.uint64)
    below = number_format.number(codes)
    above = number_format.number(codes + np.uint64(1))
    below, above = (x[np.isfinite(below) & np.isfinite(above)] for x in (below, above))
    ties = below + (above - below) / 2
    around = [ties, np.nextafter(ties, np.inf), np.nextafter(ties, 0.0), np.array(list(ends(name)))]
    x = np.concatenate([below, above, *around])
    return np.concatenate([x, -x])


@cache
def answers(name: str, cut: bool = False) -> tuple[Array, Array]:
    """The probes and what becomes of them by hand."""
    x = probes(name)
    return x, np.array([by_hand(float(one), name, cut) for one in x])


def agrees(candidate: Format, name: str) -> bool:
    """Whether a format rounds as by hand; NaN besides, where there is one."""
    x, wanted = answers(name)
    return same(candidate.round(x), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_ties_and_their_neighbours_by_hand(name: str) -> None:
    assert agrees(FORMATS[name], name)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_cut_off_is_the_next_towards_zero(name: str) -> None:
    x, wanted = answers(name, cut=True)
    assert same(FORMATS[name].cut(x), wanted)
    assert not same(FORMATS[name].round(x), wanted) or name == "float64"


@given(st.sampled_from(NAMES), st.floats(allow_nan=False, width=64), st.sampled_from((1.0, 1e-300, 1e-35, 1e-6)))
def test_any_number_by_hand(name: str, x: float, shrink: float) -> None:
    assert same(FORMATS[name].round(x * shrink), by_hand(x * shrink, name))


@pytest.mark.parametrize("name", NAMES)
def test_the_constants_are_the_standards(name: str) -> None:
    number_format = FORMATS[name]
    exponent, mantissa, bias, largest, _ = WORDS[name]
    kind = number_format.kind
    assert (kind.exponent, kind.mantissa, kind.bias, Fraction(kind.largest)) == (exponent, mantissa, bias, largest)
    assert number_format.roundoff == 2.0 ** -(mantissa + 1)
    if name in {"float64", "float32", "float16"}:
        about = np.finfo(name)
        assert (number_format.tiny, kind.largest) == (float(about.smallest_subnormal), float(about.max))
        assert number_format.roundoff == float(about.eps) / 2


@pytest.mark.parametrize("name", ["float64", "float32", "float16"])
def test_numpy_has_the_same_patterns(name: str) -> None:
    kind = np.dtype(name)
    unsigned = np.dtype(f"uint{8 * kind.itemsize}")
    if kind.itemsize == 2:
        codes = np.arange(1 << 16, dtype=np.uint16)
    else:
        codes = np.random.default_rng(3).integers(0, np.iinfo(unsigned).max, 20000, unsigned)
    with np.errstate(invalid="ignore"):  # some of them are NaN that signal
        theirs = codes.view(kind).astype(np.float64)
    assert same(FORMATS[name].number(codes), theirs)
    real = ~np.isnan(theirs)
    back = FORMATS[name].pattern(theirs[real])
    assert back.dtype == unsigned
    assert np.array_equal(back, codes[real])


@pytest.mark.parametrize("name", NAMES)
def test_patterns_come_back(name: str) -> None:
    number_format = FORMATS[name]
    bits = number_format.kind.bits
    draw = np.random.default_rng(2).integers(0, (1 << bits) - 1, 5000, dtype=np.uint64, endpoint=True)
    codes = np.arange(1 << bits, dtype=np.uint64) if bits <= 16 else draw
    numbers = number_format.number(codes)
    real = ~np.isnan(numbers)
    assert same(number_format.round(numbers[real]), numbers[real])
    assert np.array_equal(number_format.pattern(numbers[real]), codes[real])
    if not real.all():
        assert np.isnan(number_format.number(number_format.pattern([np.nan, -np.nan]))).all()


@pytest.mark.parametrize("name", NAMES)
def test_saturating_keeps_all_else(name: str) -> None:
    number_format, x = FORMATS[name], probes(name)
    plain, held = number_format.round(x), saturating(number_format).round(x)
    over = ~np.isfinite(plain)
    assert same(held[~over], plain[~over])
    assert np.array_equal(np.abs(held[over]), np.full(over.sum(), number_format.kind.largest))
    assert np.array_equal(np.signbit(held[over]), np.signbit(x[over]))
    assert over.any() == (name not in {"float6_e2m3", "float6_e3m2", "float4_e2m1"})


def test_what_has_no_nan_says_so() -> None:
    for name in ("float6_e2m3", "float6_e3m2", "float4_e2m1"):
        kind = FORMATS[name].kind.name
        with pytest.raises(ArgumentError, match=rf"^x must not be NaN in {kind}, which has none, got NaN$"):
            FORMATS[name].round([1.0, np.nan])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^format must be one of float64, float32, .*, got float128$"):
        format_of("float128")


class HalvesUp(Format):
    """Ties go away from zero."""

    def round(self, x: Any) -> Array:
        return super().round(np.nextafter(x, np.copysign(np.inf, x)))


class HalvesTowardsInfinity(Format):
    """Ties go up, as floor(x + 1/2) has it."""

    def round(self, x: Any) -> Array:
        return super().round(np.nextafter(x, np.inf))


class CutsOff(Format):
    """What does not fit is dropped."""

    def round(self, x: Any) -> Array:
        found, step = super().round(x), 2.0**-self.kind.mantissa
        lower = super().round(found * (1 - step / 2))
        return np.where(np.abs(found) > np.abs(x), lower, found)


class NoSubnormals(Format):
    """Below the smallest normal number there is only zero."""

    def round(self, x: Any) -> Array:
        found = super().round(x)
        return np.where(np.abs(found) < 2.0 ** (1 - self.kind.bias), np.copysign(0.0, found), found)


class Twice(Format):
    """By way of float32."""

    def round(self, x: Any) -> Array:
        with np.errstate(over="ignore"):
            return super().round(np.asarray(x, np.float32))


class LosesTheSignOfZero(Format):
    """Plus zero always."""

    def round(self, x: Any) -> Array:
        return super().round(x) + 0.0


MUTANTS = (HalvesUp, HalvesTowardsInfinity, CutsOff, NoSubnormals, Twice, LosesTheSignOfZero)


def is_the_same(mutant: type[Format], name: str) -> bool:
    """Where a mutant is no mutant: float32 is what it goes by, or there is one zero."""
    if mutant is Twice:
        return name == "float32"
    return mutant is LosesTheSignOfZero and name.endswith("fnuz")


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_wrong_rounding_is_rejected(mutant: type[Format], name: str) -> None:
    right = FORMATS[name]
    assert agrees(mutant(right.kind, right.beyond), name) == is_the_same(mutant, name)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_overflow_is_rejected(name: str) -> None:
    right = FORMATS[name]
    for beyond in (math.inf, math.nan, right.kind.largest):
        same_end = beyond == right.beyond or (math.isnan(beyond) and math.isnan(right.beyond))
        assert agrees(Format(right.kind, beyond), name) == same_end
