"""Chunks and prefixes taken in other ways."""

import pytest

from kvattn.testing.diagnosis.regions import read_chunk, read_prefix
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sights import REGIONS
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(REGIONS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_chunk, read_prefix)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_chunk, read_prefix)
