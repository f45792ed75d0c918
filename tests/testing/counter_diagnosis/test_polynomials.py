"""A polynomial comes back exactly; what is none is seen off the grid."""

from fractions import Fraction
import random

from kvattn.testing.counter_diagnosis.polynomials import interpolate, told, value


def test_every_coefficient_comes_back() -> None:
    r = random.Random(3)
    wanted = {
        tuple((n, p) for n, p in (("x", a), ("y", b), ("z", c)) if p): Fraction(r.randint(-9, 9), r.randint(1, 9))
        for a in range(3) for b in range(2) for c in range(3)
    }  # fmt: skip
    found = interpolate(lambda at: value(wanted, at), {"x": (1, 4, 7), "y": (2, 40), "z": (8, 16, 24)})
    assert found == {monomial: factor for monomial, factor in wanted.items() if factor}


def test_a_degree_too_high_shows_elsewhere() -> None:
    found = interpolate(lambda at: Fraction(at["x"] ** 2), {"x": (1, 3)})
    assert value(found, {"x": 3}) == 9
    assert value(found, {"x": 4}) != 16


def test_it_is_told_on_one_line() -> None:
    assert told({}) == "0"
    assert told({(("x", 1),): Fraction(1), (): Fraction(-1, 2)}) == "x - 1/2"
    assert told({(("x", 2), ("y", 1)): Fraction(-3)}, {"y": "Hq"}) == "- 3 x^2 Hq"
