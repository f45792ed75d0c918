"""Lengths and starts taken in other ways."""

import pytest

from kvattn.testing.diagnosis.padding import read_lengths, read_starts
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sights import PADDING
from tests.testing.diagnosis.named import named, silent

MUTANTS = [
    mutant for mutant in PADDING if mutant.name not in {"each chunk from position 0", "starts ignored beside a window"}
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_reading_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_lengths, read_starts)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_lengths, read_starts)
