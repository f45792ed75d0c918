"""Every class of fault that a check can see has a mutant, and every mutant's class has a name and a sentence."""

from collections import Counter
import importlib.util
from pathlib import Path
import re
import sys
from typing import Any

import pytest

from kvattn.testing.fault_classes import FAULT_CLASSES, FURTHER_CLASSES, UNSEEN

ROOT = Path(__file__).parents[2]


def _load() -> Any:
    path = ROOT / "docs" / "_extensions" / "classes.py"
    spec = importlib.util.spec_from_file_location("classes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["classes"] = module
    spec.loader.exec_module(module)
    return module


classes = _load()


def test_no_class_has_a_gap() -> None:
    found = classes.inhabitants(ROOT)
    assert classes.gaps(found) == []
    for zoo, counts in found.items():
        assert sum(counts.values()), f"the mutants of {zoo} are not found where they were"
    assert sum(sum(counts.values()) for counts in found.values()) >= 600


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "mutants").glob("test_*.py")), ids=lambda path: path.stem)
def test_what_a_file_lists_is_tested_in_it(path: Path) -> None:
    assert classes.unused(path.read_text(encoding="utf-8")) == set()


def test_every_class_has_a_sentence() -> None:
    assert len(FAULT_CLASSES) == 49
    assert not FAULT_CLASSES.keys() & FURTHER_CLASSES.keys()
    assert UNSEEN.keys() <= FAULT_CLASSES.keys()
    sentences = [*FAULT_CLASSES.values(), *FURTHER_CLASSES.values()]
    assert all(re.fullmatch(r"[A-Z].*\.", words) and len(words) > 30 for words in sentences)
    assert len({*sentences}) == len(sentences)


def test_every_class_that_the_package_names_is_one_of_them() -> None:
    """As far as it is the first word of what is named ``Finding``, ``Suspect``, ``Change`` or ``Fit``."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "kvattn" / "testing").rglob("*.py")))
    found = {*re.findall(r"""(?:Finding|Suspect|Change|Fit)\(\s*"([a-z-]+)",""", text)}
    assert len(found) > 30
    assert found - {*FAULT_CLASSES, *FURTHER_CLASSES} == set()


TEXT = """
WRONG = {"one": ({}, None, "scale", {"rule": "1"}), "two": ({}, None, "sink", {"x": "scale"})}
LEGAL = {"three": ({}, None, "scale", {})}
SHARING = {"four": ({}, None, {})}
FLOPS = {"right": F(), "five": F(({},)), "six": F(faults=({},))}
class Mutant: ...
def test_it(): assert Mutant
def lost(): ...
FAULT_CLASSES = {"leak": [Mutant, lost]}
"""


def test_tables_are_read() -> None:
    assert Counter(classes.of_tables(TEXT)) == {"scale": 1, "sink": 1, "shared-kv-layers": 1, "flop-count": 2}
    assert classes.declared(TEXT) == {"leak": ["Mutant", "lost"]}
    assert classes.unused(TEXT) == {"lost"}


def test_a_gap_is_told() -> None:
    found = {zoo: Counter(counts) for zoo, counts in classes.inhabitants(ROOT).items()}
    for counts in found.values():
        del counts["leak"]
    found["caches"].update(["oracle-fault", "no-such-class"])
    assert classes.gaps(found) == [
        "leak has no inhabitant",
        "no-such-class is no class",
        "oracle-fault is called unseen and has 1 inhabitants",
    ]


def test_the_table_has_a_line_for_each() -> None:
    lines = classes.table(classes.inhabitants(ROOT)).splitlines()
    named = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert named == sorted([*FAULT_CLASSES, *FURTHER_CLASSES])
    assert f"| `oracle-fault` | {FAULT_CLASSES['oracle-fault']} | {UNSEEN['oracle-fault']} |" in lines
