"""The choice among readings: the first that agrees everywhere; a row where nothing agrees."""

import numpy as np

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.readings import Reading, read_sight, with_options, without
from kvattn.testing.diagnosis.recipe import FLAT, Sizes

SIZES = Sizes(2, 2, 1, 4, 8, 9, 9)


def test_the_first_reading_that_agrees_with_all_cases_is_taken() -> None:
    lab = Lab(planted(formulas={"chunk": "i // (c + 1) == j // (c + 1)"}))
    cases = [lab.case(SIZES, FLAT, chunk=str(c)) for c in (2, 3)]
    readings = [
        Reading("a", {}, "ignored", without(lab, "chunk")),
        Reading("b", {"by": 1}, "one more", with_options(lab, lambda built: {"chunk": built.options["chunk"] + 1})),
        Reading("c", {}, "never reached", with_options(lab, lambda built: {"chunk": built.options["chunk"] + 1})),
    ]
    assert not read_sight(lab, "chunk", cases, readings)
    assert [finding.fault_class for finding in lab.findings] == ["b"]
    assert not lab.can("chunk")


def test_where_nothing_agrees_a_row_is_described() -> None:
    lab = Lab(planted(formulas={"chunk": "(i // c == j // c) & (j != 5)"}))
    assert not read_sight(lab, "chunk", [lab.case(SIZES, FLAT, chunk="4")], [])
    (finding,) = lab.findings
    assert finding.fault_class == "mask-compose"
    assert finding.parameters["sees"] == [4, 6, 7]
    assert finding.detail == "With chunk=4, T=4, S=8, row 0 of head 0 sees keys 4, 6-7, expected 4-7."


def test_a_reading_that_shows_nothing_does_not_agree_by_default() -> None:
    lab = Lab(planted(formulas={"chunk": "(i // c == j // c) & (j != 5)"}))
    nothing = Reading("nothing", {}, "nothing", lambda built: np.zeros((2, 2, 4, 8), bool))
    assert not read_sight(lab, "chunk", [lab.case(SIZES, FLAT, chunk="4")], [nothing])
    assert lab.findings[0].fault_class == "mask-compose"
