"""Scales of quantised keys and values."""

import pytest

from kvattn.testing.diagnosis.factors import read_factors
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sums import FACTORS
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(FACTORS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_factors)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_factors)
