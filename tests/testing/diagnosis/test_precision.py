"""Number formats on the way."""

import pytest

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
