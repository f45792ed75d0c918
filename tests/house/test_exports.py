"""Every public name exists, says what it is, and shows it in an example that runs."""

from collections.abc import Iterator
from dataclasses import is_dataclass
import doctest
from enum import Enum
import importlib
import inspect
from pathlib import Path
import re
import subprocess
import sys
from types import FunctionType, ModuleType
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[2]

MODULES = sorted(
    ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    for path in (ROOT / "kvattn").rglob("*.py")
    if (parts := path.relative_to(ROOT).with_suffix("").parts)[-1] != "__main__"
)

NOTHING_TO_RUN = {"kvattn.typing"}
"""Names for types: there is nothing to execute."""


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes that a module defines, and what the classes define, without underscore."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if isinstance(thing, FunctionType) or hasattr(thing, "__wrapped__"):
            yield name, thing
        elif isinstance(thing, type):
            yield name, thing
            if Protocol in thing.__bases__ or hasattr(thing, "TestCase"):
                continue  # Hypothesis shows a state machine's rules when it fails
            for inner, member in vars(thing).items():
                plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                if not inner.startswith("_") and isinstance(plain, FunctionType | property):
                    yield f"{name}.{inner}", plain


def is_a_record(thing: object) -> bool:
    """Whether there is nothing to call: a NamedTuple, an enumeration, a protocol, a dataclass of fields only."""
    if not isinstance(thing, type):
        return False
    verbs = [x for name, x in vars(thing).items() if name[0] != "_" and isinstance(x, FunctionType | property)]
    return (
        hasattr(thing, "_fields")
        or hasattr(thing, "TestCase")
        or issubclass(thing, Enum)
        or Protocol in thing.__bases__
        or (is_dataclass(thing) and not verbs)
    )


def complaints(module: ModuleType) -> list[str]:
    """Say which names are missing, undocumented, or without an example."""
    found = [
        f"{module.__name__}.__all__ names {name}, which does not exist"
        for name in getattr(module, "__all__", ())
        if not hasattr(module, name)
    ]
    if not (module.__doc__ or "").strip():
        found.append(f"{module.__name__} has no docstring")
    if module.__name__ in NOTHING_TO_RUN:
        return found
    for name, thing in public(module):
        text = thing.__doc__ or ""
        generated = isinstance(thing, type) and text.startswith(f"{thing.__name__}(")
        if not text.strip() or generated:
            found.append(f"{module.__name__}.{name} has no docstring")
        elif ">>>" not in text and not is_a_record(thing):
            found.append(f"{module.__name__}.{name} has no example")
        elif ">>>" in text and re.search(r"\n *-{4,}\n", text) and not re.search(r"\n *Examples\n *-{8}\n", text):
            found.append(
                f"{module.__name__}.{name} has an example inside another section: it needs the heading Examples"
            )
    return found


def shadowed(packages: list[ModuleType]) -> list[str]:
    """Say which exported names mean a module, where that module defines the thing of this name."""
    return [
        f"{package.__name__}.{name} is a module, not the {name} that the module defines"
        for package in packages
        for name in getattr(package, "__all__", ())
        if isinstance(thing := getattr(package, name), ModuleType) and hasattr(thing, name)
    ]


def test_importing_a_module_does_not_take_an_exported_name_away() -> None:
    """In a process of its own, where nobody has asked for the names before."""
    code = (
        "from importlib import import_module\n"
        "from tests.house.test_exports import MODULES, shadowed\n"
        "print(*shadowed([import_module(name) for name in MODULES]), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_shadowed_name_is_noticed() -> None:
    package, module = ModuleType("planted"), ModuleType("planted.check")
    vars(module)["check"] = len
    vars(package).update(__all__=["check"], check=module)
    assert shadowed([package]) == ["planted.check is a module, not the check that the module defines"]
    vars(package)["check"] = len
    assert shadowed([package]) == []


def test_every_folder_is_a_package_that_says_what_it_holds() -> None:
    folders = {path.parent for path in (ROOT / "kvattn").rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").is_file()) == []


@pytest.mark.parametrize("name", [name for name in MODULES if "._" not in name])
def test_every_public_name_is_documented_and_has_an_example(name: str) -> None:
    found = complaints(importlib.import_module(name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", MODULES)
def test_every_example_runs(name: str) -> None:
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.ELLIPSIS | doctest.DONT_ACCEPT_TRUE_FOR_1
    )
    assert result.failed == 0


def test_the_front_door_lists_what_it_has() -> None:
    kvattn = importlib.import_module("kvattn")
    assert {"attention", "attend", "merge", "counting"} <= set(kvattn.__all__)
    for name in kvattn.__all__:
        assert inspect.getdoc(getattr(kvattn, name)), name


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("__all__ = ['gone']", "planted.__all__ names gone, which does not exist"),
        ("def f(): pass", "planted.f has no docstring"),
        ("def f():\n    'It says.'", "planted.f has no example"),
        ("class A:\n    '>>> 1'\n    def f(self): 'It says.'", "planted.A.f has no example"),
        ("class A:\n    '>>> 1'\n    @property\n    def f(self): pass", "planted.A.f has no docstring"),
        ("class A:\n    '>>> 1'\n    @classmethod\n    def f(cls): pass", "planted.A.f has no docstring"),
        (
            "def f():\n    'It says.\\n\\nRaises\\n------\\nShapeError\\n    So.\\n\\n>>> 1'",
            "planted.f has an example inside another section: it needs the heading Examples",
        ),
        ("import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int", "planted.A has no docstring"),
    ],
)
def test_a_bare_name_is_noticed(source: str, complaint: str) -> None:
    module = ModuleType("planted", "A module.")
    exec(source, vars(module))  # noqa: S102 -- the planted module above
    assert complaints(module) == [complaint]
