"""What is raised is an error of kvattn's own, with a message that says what came."""

import ast
from collections.abc import Iterator
from pathlib import Path
import re

import pytest

import kvattn.errors

ROOT = Path(__file__).parents[2]

OURS = {name for name, thing in vars(kvattn.errors).items() if isinstance(thing, type)}

SAYS_WHAT_CAME = {"ShapeError", "DtypeError", "ArgumentError", "PositionError"}

LANGUAGE = {"AttributeError", "StopIteration", "SystemExit", "KeyboardInterrupt"}
"""What Python itself waits for: in ``__getattr__``, in iterators, at the end of a command."""


def words(message: ast.expr) -> str:
    """The literal part of a message, with {} for what is filled in; empty where it is built elsewhere."""
    if isinstance(message, ast.Constant):
        return str(message.value)
    if isinstance(message, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in message.values)
    if isinstance(message, ast.BinOp):
        return words(message.left) + words(message.right)
    if isinstance(message, ast.IfExp):
        return words(message.body)
    return ""


def complaints(source: str) -> Iterator[str]:
    """Say which raise statements of a module break the rules, and which assert is not a narrowing of types."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            test = ast.unparse(node.test)
            if "isinstance(" not in test and "is not None" not in test:
                yield f"assert {test}"
        if not isinstance(node, ast.Raise) or node.exc is None:
            continue
        call = node.exc if isinstance(node.exc, ast.Call) else None
        name = ast.unparse(call.func if call else node.exc).rpartition(".")[2]
        if name[:1].islower():
            continue  # an exception that somebody caught, or a function that builds one
        text = words(call.args[0]) if call and call.args else ""
        if name not in OURS | LANGUAGE:
            yield f"raises {name}"
        elif text.endswith((".", "!")) or re.search(r"[.!?] [A-Z]", text):
            yield f"more than one sentence: {text}"
        elif text and name in SAYS_WHAT_CAME and "got" not in text and "{}" not in text:
            yield f"does not say what came: {text}"


@pytest.mark.parametrize("path", sorted((ROOT / "kvattn").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_are_our_own_and_say_what_came(path: Path) -> None:
    found = list(complaints(path.read_text(encoding="utf-8")))
    # A law fails by assertion, a foreign implementation raises what it likes, pytest has its own errors.
    if "testing" in path.parts or path.name == "pytest_plugin.py":
        found = [x for x in found if not x.startswith(("assert", "raises")) or "NotImplemented" in x]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("raise ValueError('no')", "raises ValueError"),
        ("raise NotImplementedError", "raises NotImplementedError"),
        ("raise ShapeError('q must be [T, D].')", "more than one sentence: q must be [T, D]."),
        ("raise ArgumentError('window must be at least 1')", "does not say what came: window must be at least 1"),
        ("assert window > 0", "assert window > 0"),
    ],
)
def test_a_bad_raise_is_noticed(source: str, complaint: str) -> None:
    assert list(complaints(source)) == [complaint]


def test_a_good_raise_is_let_through() -> None:
    good = "raise ArgumentError(f'window must be an integer >= 1, got {window!r}')\nassert isinstance(x, int)"
    assert list(complaints(good)) == []
