"""Slopes and distances of ALiBi."""

import pytest

from kvattn.testing.diagnosis.slopes import read_alibi, read_alibi_slopes
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.scores import SLOPES
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(SLOPES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_alibi, read_alibi_slopes)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_alibi, read_alibi_slopes)
