"""Pages read in other ways."""

import pytest

from kvattn.testing.diagnosis.pages import read_pages
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sights import PAGES
from tests.testing.diagnosis.named import named, silent

MUTANTS = list(PAGES)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_pages)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_pages)
