"""Ends of tiles."""

import pytest

from kvattn.testing.diagnosis.tails import read_tails
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.manners import TAILS
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(TAILS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_tails)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_tails)
