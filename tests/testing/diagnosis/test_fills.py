"""Finite numbers for minus infinity."""

import pytest

from kvattn.testing.diagnosis.fills import read_fills
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sums import FILLS
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(FILLS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_fills)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_fills)
