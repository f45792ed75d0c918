"""What a window is taken for."""

from itertools import combinations

import numpy as np
import pytest

from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.recipe import Recipe, Sizes
from kvattn.testing.diagnosis.sight import read_window
from kvattn.testing.diagnosis.window_forms import forms
from kvattn.testing.planted import Mutant
from kvattn.testing.planted.sights import WINDOW
from tests.testing.diagnosis.named import named, silent

MUTANTS = [mutant for mutant in WINDOW if "reads" in mutant.parameters or "size" in mutant.parameters]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_form_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_window)


def test_the_contract_is_not_reported() -> None:
    assert silent(read_window)


def test_no_two_forms_are_the_same() -> None:
    cases = [
        Recipe(Sizes(T=t, S=9), options=(("causal", "True"), ("window", str(w)))).build()
        for t in (4, 9)
        for w in (2, 3)
    ]
    tables = [np.concatenate([form.sees(case).ravel() for case in cases]) for form in forms(Behaviour())]
    names = [(form.reads, form.causal) for form in forms(Behaviour())]
    same = [(a, b) for a, b in combinations(range(len(tables)), 2) if np.array_equal(tables[a], tables[b])]
    assert [(names[a], names[b]) for a, b in same] == []


def test_a_window_of_no_known_form_is_described_by_what_was_asked_and_what_was_seen() -> None:
    lab = Lab(planted(formulas={"window": "i - j < (w + 2) // 3 * 3"}))
    read_window(lab)
    assert lab.findings[0].fault_class == "mask-compose"
    assert "the last query sees" in lab.findings[0].detail
    assert "reads" not in lab.findings[0].parameters
