"""Positions taken in other ways."""

import pytest

from kvattn.testing.diagnosis.positions import read_positions
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sights import PLACES
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(PLACES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_positions)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_positions)
