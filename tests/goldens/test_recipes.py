"""Every recipe: kvattn's own attention gives the same within the bound, and what should differ differs."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kvattn.errors import KvattnError
from kvattn.goldens.reading import RECORDED, Case, every_case
from kvattn.goldens.recipe import Recipe
from kvattn.goldens.recipes import every

RECIPES = {recipe.name: recipe for recipe in every()}
CASES = {case.name: case for case in every_case(RECORDED)}


def gap(found: Any, wanted: Any) -> float:
    """The largest difference; infinite where shapes differ or where only one is no number, 0 for two NaN."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape:
        return np.inf if found.size + wanted.size else 0.0
    with np.errstate(invalid="ignore"):
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        apart = np.where(same, 0.0, np.abs(found - wanted))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))


def beyond(case: Case, found: Mapping[str, Any]) -> dict[str, float]:
    """Outputs that are not the expected ones within their bounds, with how far they are."""
    gaps = {name: gap(found[name], array) for name, array in case.expected.items()}
    return {name: apart for name, apart in gaps.items() if apart > case.bounds.get(name, 0.0)}


def stands_apart(case: Case, found: Mapping[str, Any]) -> bool:
    """Whether a thousand bounds lie between the expected outputs and others."""
    shared = [name for name in case.expected if name in found]
    return any(gap(found[name], case.expected[name]) > 1000 * case.bounds.get(name, 0.0) for name in shared)


def inputs(case: Case) -> dict[str, Any]:
    return {
        name: case.decoded(name) if case.dtypes[name] not in {"float64", "int64", "bool"} else array
        for name, array in case.inputs.items()
    }


def ours(recipe: Recipe, case: Case) -> Mapping[str, Any]:
    assert recipe.ours is not None
    return recipe.ours(inputs(case), case.parameters)


@pytest.mark.parametrize("name", CASES)
def test_kvattn_gives_what_is_recorded(name: str) -> None:
    recipe, case = RECIPES[name], CASES[name]
    if case.result == "invalid":
        with pytest.raises(KvattnError):
            ours(recipe, case)
        return
    assert beyond(case, ours(recipe, case)) == {}


def test_every_case_stands_apart_from_its_sibling() -> None:
    for name, case in CASES.items():
        if case.sibling is not None:
            assert stands_apart(case, CASES[case.sibling].expected), name


def test_every_mistake_and_every_other_convention_stands_apart() -> None:
    for name, case in CASES.items():
        for kind in ("mistakes", "alternatives"):
            for word, outputs in getattr(case, kind).items():
                assert outputs.keys() <= case.expected.keys(), (name, word)
                assert stands_apart(case, outputs), (name, word)


def test_what_stands_too_near_would_be_told() -> None:
    case = CASES["dense/grouped/plain"]
    near = {name: array + 10 * case.bounds[name] for name, array in case.expected.items()}
    assert not stands_apart(case, case.expected)
    assert not stands_apart(case, near)
    assert beyond(case, near).keys() == case.expected.keys()
    assert stands_apart(case, {**near, "lse": case.expected["lse"] + 1e-3})


def test_a_mistake_would_be_told_from_what_is_right() -> None:
    """The comparison itself must be able to fail: every recorded mistake lies beyond the bounds."""
    tried = 0
    for case in CASES.values():
        for outputs in case.mistakes.values():
            tried += 1
            assert beyond(case, {**case.expected, **outputs})
    assert tried > 100


EQUAL = {
    "dense/range/one-hot-values": "unit vectors, as many as keys",
    "execution/parts/empty-rows": "two heads and two keys",
    "execution/parts/empty-rows-with-sinks": "two heads and two keys",
    "positions/alibi/none-3": "three heads and three queries",
    "positions/alibi/three-heads": "three heads and three queries",
}
"""Cases in which neighbouring dimensions of an array have one size."""


def test_neighbouring_sizes_differ() -> None:
    """Equal ones hide a transposed dimension."""
    mixed = set()
    for name, case in CASES.items():
        shapes = [case.inputs[key].shape for key in ("q", "k", "v") if key in case.inputs]
        if case.result != "invalid" and all(len(shape) == 4 for shape in shapes):
            pairs = [pair for shape in shapes for pair in pairwise(shape[1:])]
            if any(one == other > 1 for one, other in pairs):
                mixed.add(name)
    assert mixed == EQUAL.keys()


def test_there_are_enough() -> None:
    assert len(CASES) >= 300
    assert len({case.row for case in CASES.values()}) > 70
