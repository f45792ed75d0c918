"""Dropout at evaluation."""

import pytest

from kvattn.testing.diagnosis.dropped import read_dropout
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sums import DROPOUT
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(DROPOUT)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_dropout)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_dropout)
