"""What stands beside the products, and beside the numbers of a row."""

from fractions import Fraction

from kvattn.testing.counter_diagnosis.bench import bench_of
from kvattn.testing.counter_diagnosis.factors import split
from kvattn.testing.counter_diagnosis.pairs import DENSE
from kvattn.testing.counter_diagnosis.tables import Fit
from kvattn.testing.counter_diagnosis.units import name_byte_units, name_flop_units

D = (("width", 1),)


def test_a_softmax_is_told_with_its_constants() -> None:
    bench = bench_of(lambda *, queries, width: 0)
    soft = Fit(DENSE[0], Fraction(5), Fraction(2))
    name_flop_units(bench, {D: Fit(DENSE[0], Fraction(4), Fraction(1)), (): soft}, {})
    assert bench.findings[0].parameters == {"softmax": 5, "per query": "D + 2"}
    assert bench.findings[0].detail == "It counts more than products: 5 for each pair and D + 2 for each query."


def test_a_softmax_that_gives_back_is_none() -> None:
    bench = bench_of(lambda *, queries, width: 0)
    name_flop_units(
        bench, {D: Fit(DENSE[0], Fraction(4), Fraction(0)), (): Fit(DENSE[0], Fraction(-5), Fraction(0))}, {}
    )
    assert bench.findings[0].fault_class == "unclassified"


def test_what_stands_beside_the_numbers_of_a_row() -> None:
    bench = bench_of(lambda *, tokens, width, kv_heads, itemsize: 0)
    outer = split({(("item", 1), *D): Fraction(2), (): Fraction(8)})
    assert name_byte_units(bench, {D: Fraction(2), (): Fraction(8)}, outer) == 1
    assert [(f.kind, f.parameters) for f in bench.findings] == [("convention", {"beside": 8})]
