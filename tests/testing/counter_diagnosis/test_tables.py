"""Coefficients are read at each node; a unit and a rest explain them, or nothing does."""

from fractions import Fraction

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.pairs import CAUSAL, DENSE, Node
from kvattn.testing.counter_diagnosis.tables import LENGTHS, Fit, columns, fit, polynomial_of


def test_what_a_counter_cannot_be_asked_is_left_out() -> None:
    table = columns(bench_of(lambda *, queries, width: 4 * queries**2 * width), [(t, s, None) for t, s in LENGTHS])
    assert {(t, s) for t, s, _ in table[(("width", 1),)]} == {(t, s) for t, s in LENGTHS if t == s}


def test_a_rest_is_taken_where_nothing_else_explains() -> None:
    column: dict[Node, Fraction] = {(t, s, None): Fraction(3 * t * s + 7 * t) for t, s in LENGTHS}
    found = fit(column, DENSE)
    assert found is not None
    assert (found.unit, found.rest) == (Fraction(3), Fraction(7))
    assert all(found.at(node) == read for node, read in column.items())
    assert fit({(t, s, None): Fraction(t**3) for t, s in LENGTHS}, [*DENSE, *CAUSAL]) is None


def test_pairs_are_what_is_left() -> None:
    before = Fit(DENSE[0], Fraction(4), Fraction(2))
    assert before.pairs({(2, 5, None): Fraction(4 * 9 + 2 * 2)}) == {(2, 5, None): 9}


def test_a_polynomial_is_seen_and_what_is_none_too() -> None:
    cells: dict[Node, Fraction] = {(t, s, None): Fraction(2 * t * s - t * t + 5) for t, s in LENGTHS}
    assert polynomial_of(cells) == {
        (("queries", 1), ("keys", 1)): Fraction(2),
        (("queries", 2),): Fraction(-1),
        (): Fraction(5),
    }
    assert polynomial_of({(t, t, None): Fraction(t * t, 2) for t in range(1, 9)}) == {(("queries", 2),): Fraction(1, 2)}
    assert polynomial_of({(t, s, None): Fraction(min(t, 9) * s) for t, s in LENGTHS}) is None
    assert polynomial_of({(1, 1, None): Fraction(1)}) is None
