"""Factors of widths are explained by the fewest faults; where two explain as well, both are told."""

from fractions import Fraction
from typing import Any

import pytest

from kvattn.testing.counter_diagnosis.widths import byte_unit, flop_unit, no_size, own_size, read_widths


def factors(*numbers: Any) -> dict[str, Fraction]:
    return {name: Fraction(x) for name, x in zip(("width", "value_width", "head"), numbers, strict=False)}


@pytest.mark.parametrize(
    ("numbers", "parameters"),
    [
        ((2, 2), []),
        ((1, 1), [{"unit": 1}]),
        ((4, 0), [{"value_width": "width"}]),
        ((0, 4), [{"width": "value_width"}]),
        ((6, 4), [{"passes": "backward, scores recomputed"}]),
        ((8, 6), [{"passes": "forward and backward, scores recomputed"}]),
        ((7, 7), [{"passes": "forward and backward, scores recomputed in tiles"}]),
        ((Fraction(5, 2), Fraction(5, 2)), [{"unit": 1}, {"passes": "backward, scores recomputed in tiles"}]),
        ((0, 0, 4), [{"width": "hidden // query_heads"}]),
        ((0, 1, 1), [{"width": "hidden // query_heads"}, {"unit": 1}]),
        ((2, 0, 2), [{"value_width": "hidden // query_heads"}]),
        ((4,), []),
        ((2,), [{"unit": 1}]),
        ((18, 18), [{"factor": 9}]),
    ],
)
def test_factors_of_flops(numbers: Any, parameters: list[dict[str, Any]]) -> None:
    assert [dict(part.parameters) for part in read_widths("flops", factors(*numbers), flop_unit)[0].parts] == parameters


def test_two_explanations_are_both_told() -> None:
    found = read_widths("flops", factors(2, 0), flop_unit)
    assert [[dict(part.parameters) for part in reading.parts] for reading in found] == [
        [{"left out": "PV"}],
        [{"value_width": "width"}, {"unit": 1}],
    ]


def test_what_nothing_explains_has_no_reading() -> None:
    assert read_widths("flops", factors(3, 5), flop_unit) == []
    assert read_widths("flops", factors(-2, -2), flop_unit) == []


def test_bytes_of_a_number() -> None:
    assert byte_unit(Fraction(1)) == ()
    assert own_size(Fraction(1, 2))[0].parameters == {"itemsize": 0.5}
    assert own_size(Fraction(3))[0].kind == "fault"
    assert no_size(Fraction(4))[0].parameters == {"itemsize": "ignored", "bytes": 4}
