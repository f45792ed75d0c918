"""Recording: the same bytes every time, nothing recorded ever changes, and what breaks the rules is refused."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, UndecidedError
from kvattn.goldens.flag import Flag
from kvattn.goldens.numbers import Interval, Numbers
from kvattn.goldens.reading import RECORDED, every_case, files
from kvattn.goldens.recipe import Recipe
from kvattn.goldens.recipes import every
from kvattn.goldens.recording import evaluated, manifests, record, recorded, schema, sums

DEEP = os.environ.get("KVATTN_PROFILE", "ci") == "deep"


def thirds(n: Numbers, a: Any, p: Any) -> dict[str, Any]:
    return {"y": [x / p["by"] for x in a["x"]]}


RECIPE = Recipe("toy/thirds/one", "mods/bias", "dividing", "A third.", {"x": np.array([1.0, 2.0])}, {"by": 3}, thirds)


def test_the_recorded_files_are_what_the_recipes_give() -> None:
    """A twentieth of the groups, other ones as cases are added; all of them in the deep profile."""
    recipes: dict[str, list[Recipe]] = {}
    for recipe in every():
        recipes.setdefault(recipe.name.rpartition("/")[0], []).append(recipe)
    held = files(RECORDED)
    assert held.keys() <= {f"{group}.json" for group in recipes}
    recorded_groups = [group for group in recipes if f"{group}.json" in held]
    for group in recorded_groups if DEEP else recorded_groups[::20]:
        ((path, content),) = manifests(recipes[group]).items()
        assert held[path] == content, path
    assert (RECORDED / "golden-v1.schema.json").read_bytes() == schema()


def test_values_are_rounded_correctly() -> None:
    found = recorded(RECIPE)["expected"]["y"]
    assert found["values"] == [1 / 3, 2 / 3]
    assert 2.0**-53 / 3 < found["bound"] < 2.0**-50


def test_what_one_precision_leaves_open_the_next_decides() -> None:
    """A number that lies 10^-100 above the middle between two float64 numbers."""

    def near(n: Any, a: Any, p: Any) -> dict[str, Any]:
        if not hasattr(n, "digits"):
            return {"y": [n(1.0)]}
        with localcontext(prec=300):  # exact, whatever precision the thread has
            middle, width = 1 + Decimal(2) ** -53, Decimal(10) ** -(n.digits - 5)
            low, high = middle - width, middle + width
            if n.digits > 110:
                low = high = middle + Decimal("1e-100")
        return {"y": [Interval(low, high, n)]}

    assert evaluated(near, {}, {})["y"]["values"] == [1 + 2.0**-52]

    def never(n: Any, a: Any, p: Any) -> dict[str, Any]:
        return {"y": [n(1.0) if not hasattr(n, "digits") else Interval(Decimal(-1), Decimal(1), n)]}

    with pytest.raises(UndecidedError, match=r"got -1.0 and 1.0 at the two ends"):
        evaluated(never, {}, {})


def test_a_recorded_case_stays(tmp_path: Path) -> None:
    first = manifests([RECIPE])
    assert record(tmp_path, first) == ["toy/thirds/one"]
    assert record(tmp_path, first) == []
    second = replace(RECIPE, name="toy/thirds/two", supersedes="toy/thirds/one", parameters={"by": 7})
    assert record(tmp_path, manifests([RECIPE, second])) == ["toy/thirds/two"]
    old, new = every_case(tmp_path)
    assert (old.superseded_by, new.supersedes) == ("toy/thirds/two", "toy/thirds/one")
    before = (tmp_path / "toy" / "thirds.json").read_bytes()
    with pytest.raises(ArgumentError, match="recorded cases must stay, got recipes without toy/thirds/two"):
        record(tmp_path, first)
    changed = replace(RECIPE, comment="A third, once more.")
    with pytest.raises(ArgumentError, match=r"a recorded case must not change, .* got toy/thirds/one anew"):
        record(tmp_path, manifests([changed, second]))
    assert (tmp_path / "toy" / "thirds.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "thirds"}, "name must be family/group/case in lower case with hyphens, got 'thirds'"),
        ({"name": "toy/thirds/One"}, "name must be family/group/case"),
        ({"result": "maybe"}, "result of toy/thirds/one must be one of valid, acceptable, invalid, got 'maybe'"),
        ({"result": "acceptable"}, "must have alternatives exactly if acceptable, got acceptable"),
        ({"alternatives": {"other": thirds}}, "must have alternatives exactly if acceptable, got valid"),
        ({"comment": "A third"}, "must be one line that ends in a full stop"),
        ({"flags": (Flag("Odd", "ODD", "It is."),)}, "bug_type of Odd must be one of BASIC, .* got 'ODD'"),
        ({"flags": (Flag("Odd", "KNOWN_BUG", "It is."),)}, "Odd must say where the bug was, got no link"),
    ],
)
def test_a_bad_recipe_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        recorded(replace(RECIPE, **change))


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([RECIPE], "names of recipes must differ, got two called toy/thirds/one"),
        (
            [replace(RECIPE, name="toy/thirds/two", flags=(Flag("Odd", "BASIC", "Other."),))],
            "flags of a name must be equal, got two called Odd",
        ),
    ],
)
def test_recipes_that_contradict_each_other_are_refused(others: list[Recipe], words: str) -> None:
    first = replace(RECIPE, flags=(Flag("Odd", "BASIC", "It is."),))
    with pytest.raises(ArgumentError, match=words):
        manifests([first, *others])


def test_leaves_say_what_an_array_is() -> None:
    def mixed(n: Any, a: Any, p: Any) -> dict[str, Any]:
        return {"i": [[1, 2]], "b": [True, False], "f": [n(1), -np.inf, 0.0], "e": np.zeros((2, 0, 3))}

    found = evaluated(mixed, {}, {})
    assert [found[name]["dtype"] for name in "ibfe"] == ["int64", "bool", "float64", "float64"]
    assert found["f"]["values"] == [1.0, "-inf", 0.0]
    assert found["i"]["shape"] == [1, 2]
    assert found["e"]["shape"] == [2, 0, 3]


def test_invalid_cases_expect_nothing() -> None:
    def never(*_: Any) -> dict[str, Any]:
        raise AssertionError

    found = recorded(replace(RECIPE, result="invalid", formula=never))
    assert found["expected"] == {}


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    record(tmp_path, manifests([RECIPE]))
    held = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.json")}
    assert (tmp_path / "SHA256SUMS").read_bytes() == sums(held)


def test_progress_is_told() -> None:
    told: list[str] = []
    tick: Callable[[str], None] = told.append
    manifests([RECIPE], tick)
    assert told == ["toy/thirds/one"]
    assert json.loads(next(iter(manifests([RECIPE]).values())))["numberOfTests"] == 1
