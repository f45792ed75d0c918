"""Number formats on the way."""

import pytest

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.precision import read_precision
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sums import PRECISION
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(PRECISION)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_precision)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_precision)


@pytest.mark.parametrize(
    ("stage", "said"),
    [("probabilities", "The probabilities are"), ("q, k", "q and k are"), ("out", "The output is")],
)
def test_what_is_rounded_is_told_in_a_sentence(stage: str, said: str) -> None:
    lab = Lab(planted(rounded={stage: "bfloat16"}))
    read_precision(lab)
    assert lab.findings[0].detail.startswith(f"{said} rounded to bfloat16, although its inputs are float64")
