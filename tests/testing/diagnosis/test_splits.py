"""Parts merged in other ways."""

import pytest

from kvattn.testing.diagnosis.splits import read_splits
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sums import MERGES
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(MERGES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_splits)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_splits)
