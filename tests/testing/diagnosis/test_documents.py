"""Packed documents taken in other ways."""

import pytest

from kvattn.testing.diagnosis.documents import read_segments
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sights import DOCUMENTS
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(DOCUMENTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_segments)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_segments)
