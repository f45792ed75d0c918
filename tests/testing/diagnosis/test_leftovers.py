"""Memory that nobody wrote."""

import pytest

from kvattn.testing.diagnosis.leftovers import read_leftovers
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.manners import MEMORY
from tests.testing.diagnosis.named import named, silent

MUTANTS = [mutant for mutant in MEMORY if mutant.name not in {*(f"strides of {x} ignored" for x in "qkv")}]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_leftovers)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_leftovers)
