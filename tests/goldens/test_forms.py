"""Every form that a recipe names, a definition, steps, a paged cache, gives what is recorded."""

from pathlib import Path
import re
import sys
from typing import Any

import numpy as np
import pytest

import kvattn
from kvattn.goldens.numbers import Decimals
from kvattn.goldens.reading import RECORDED, Case, every_case
from kvattn.goldens.recipe import read
from kvattn.goldens.recipes import every
from kvattn.goldens.recipes._told import Told, mistaken

TOLD = {recipe.name: recipe for recipe in every() if isinstance(recipe, Told)}
CASES = {case.name: case for case in every_case(RECORDED) if case.name in TOLD}
FORMS = [(name, form) for name in CASES for form in TOLD[name].forms]


def distances(case: Case, found: Any) -> dict[str, float]:
    """Of each output that a form gives, how far it is in units of the recorded bound, where there is one."""
    far = {}
    for name, wanted in case.expected.items():
        if name not in found:
            continue
        numbers = np.asarray(found[name], np.float64)
        assert numbers.shape == wanted.shape, name
        with np.errstate(invalid="ignore"):
            same = (numbers == wanted) | (np.isnan(numbers) & np.isnan(wanted))
            apart = np.where(same, 0.0, np.abs(numbers - wanted))
        bound = case.bounds.get(name, 0.0)
        gap = float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))
        far[name] = gap / bound if bound else (np.inf if gap else 0.0)
    return far


@pytest.mark.parametrize("name", [name for name in CASES if TOLD[name].forms])
def test_every_form_gives_what_is_recorded(name: str) -> None:
    recipe, case = TOLD[name], CASES[name]
    for form, function in recipe.forms.items():
        far = distances(case, function(recipe.inputs, recipe.parameters))
        assert far, f"{form} must give at least one of the outputs"
        assert max(far.values()) <= 1.0, form


def test_every_such_recipe_is_recorded() -> None:
    assert CASES.keys() == TOLD.keys()


def test_forms_are_many() -> None:
    """A definition and cached steps for all but those that have neither."""
    assert len(FORMS) > 3 * len(TOLD)


def test_rows_of_the_catalogue_exist() -> None:
    """A row is a module below kvattn."""
    package = Path(kvattn.__file__).parent
    for recipe in TOLD.values():
        assert (package / f"{recipe.row}.py").is_file(), recipe.name


def test_bounds_are_narrow() -> None:
    """A bound that a wrong digit fits into would tell nothing: all lie below a millionth of the largest output."""
    for name, case in CASES.items():
        for output, bound in case.bounds.items():
            finite = np.abs(case.expected[output][np.isfinite(case.expected[output])])
            assert bound <= 1e-6 * max(float(finite.max(initial=0.0)), 1e-3), (name, output)


def test_known_bugs_say_where() -> None:
    for recipe in TOLD.values():
        assert recipe.flags, recipe.name
        for flag in recipe.flags:
            assert all("#" in link for link in flag.links), flag.name


def test_a_wrong_form_would_be_noticed() -> None:
    """Each number of an output moved by its bound and a half."""
    for name in list(CASES)[::7]:
        case = CASES[name]
        for output, bound in case.bounds.items():
            moved = np.where(np.isfinite(case.expected[output]), case.expected[output] + 1.5 * bound, 0.0)
            far = distances(case, {output: moved})
            assert not bound or far[output] > 1.0 or not moved.size


def test_a_mistake_is_the_formula_with_other_parameters() -> None:
    n = Decimals()
    given = {"x": read(n, np.array([1.0]))}
    doubled = mistaken(lambda n, inputs, p: {"y": [p["times"] * x for x in inputs["x"]]}, {"times": 2})
    assert doubled(n, given, {"times": 1})["y"][0].rounded() == 2.0


def test_what_an_operation_takes_stands_in_its_file() -> None:
    """Operation, inputs, parameters and outputs of every case are named at the head of the file of its formula."""
    for name, recipe in TOLD.items():
        said = sys.modules[recipe.formula.__module__].__doc__ or ""
        assert f'"{recipe.operation}"' in said.replace("\n", " "), recipe.operation
        for word in (*recipe.parameters, *recipe.inputs, *CASES[name].expected):
            general = re.sub(r"_\d+$", "_[a-z]", word)
            assert re.search(rf"\b{general}\b", said), (name, word)
