"""The catalogue: one line for every variant, scheme, mask and strategy, read from the tests.

A test says what it shows of which row by a marker (``by_hand``, ``peer``, ``no_peer``, ``law``; `pyproject.toml`
describes them), and a file of ``kvattn/testing/zoo`` names in its first line the modules whose cases it makes.
Both are read as text, so that the table needs no peer to be installed; that the tests pass, and that none is
skipped, is CI's business.  ``tests/house/test_catalogue.py`` asks for a line without gaps.
"""

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import re
from typing import Any

import numpy as np

KINDS = ("by_hand", "peer", "no_peer", "law")

GROUPS = {
    "variants/dense": "Dense variants",
    "variants/compressed": "Compressed variants",
    "variants/sparse": "Sparse variants",
    "variants/recurrent": "Recurrent variants",
    "masks": "Masks and fixed patterns",
    "mods": "Mods",
    "positions": "Positional schemes",
    "execution": "Execution strategies",
    "caches": "Caches",
    "codecs": "Codecs",
    "eviction": "Eviction",
}
"""Folders whose files are rows, in the order of the table."""

STORES = ("caches",)
"""Folders whose rows are held against a plain list by their laws, and need no other witness."""


@dataclass
class Row:
    """What the tests say of one file.

    Attributes
    ----------
    definition
        Its public classes and functions.
    by_hand
        Tests that compare it with loops.
    peers
        Implementations compared with, each with the precision.
    reasons
        Why nothing else was found to compare with.
    laws
        Laws beside those of the zoo, each with how equal.
    zoo
        Names of the generators whose cases go through every law of `kvattn.testing.laws`.
    """

    definition: list[str] = field(default_factory=list)
    by_hand: list[str] = field(default_factory=list)
    peers: list[tuple[str, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    laws: list[tuple[str, str]] = field(default_factory=list)
    zoo: list[str] = field(default_factory=list)


def rows(root: Path) -> dict[str, Row]:
    """Every file of `GROUPS`, with what the tests say of it; a marker that names no file is an error."""
    found = {
        f"{group}/{path.stem}": Row(_public(path))
        for group in GROUPS
        for path in sorted((root / "kvattn" / group).glob("*.py"))
        if not path.name.startswith("_")
    }
    for path in sorted((root / "tests").rglob("test_*.py")):
        for test, kind, words in _markers(path):
            name, _, part = words[0].partition(":")
            if name == "interop/transformers":
                continue
            if name not in found:
                raise ValueError(f"{path.relative_to(root)}: {test} is marked for {name}, which is no file of a group")
            row, prefix = found[name], f"{part.strip()}: " if part.strip() else ""
            if kind == "by_hand":
                row.by_hand.append(prefix + test.removeprefix("test_"))
            elif kind == "peer":
                row.peers.append((prefix + words[1], words[2]))
            elif kind == "no_peer":
                row.reasons.append(prefix + words[1])
            else:
                row.laws.append((prefix + words[1], words[2]))
    for path in sorted((root / "kvattn" / "testing" / "zoo").glob("*.py")):
        for name in _cases_of(path):
            if name in found:
                found[name].zoo.append(path.stem)
    return found


def _public(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = ast.ClassDef | ast.FunctionDef
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _cases_of(path: Path) -> list[str]:
    """The modules that the first sentence of a zoo file names."""
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    return [name.replace(".", "/") for name in re.findall(r"`kvattn\.([\w.]+)`", first)]


def _markers(path: Path) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Test name, kind and words of every marker in a file, wherever it stands."""

    def walk(node: ast.AST, test: str) -> Iterator[tuple[str, str, tuple[str, ...]]]:
        for child in ast.iter_child_nodes(node):
            named = child.name if isinstance(child, ast.FunctionDef) and child.name.startswith("test_") else test
            called = child.func if isinstance(child, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in KINDS and ast.unparse(called.value)[-4:] == "mark":
                words = tuple(str(ast.literal_eval(word)) for word in child.args)
                wanted = {"by_hand": 1, "no_peer": 2}.get(called.attr, 3)
                if len(words) != wanted:
                    raise ValueError(f"{path.name}: {ast.unparse(child)} must have {wanted} words")
                yield named or path.stem, called.attr, words
            yield from walk(child, named)

    text = path.read_text(encoding="utf-8")
    return walk(ast.parse(text), "") if any(f"mark.{kind}(" in text for kind in KINDS) else iter(())


def gaps(found: Mapping[str, Row]) -> list[str]:
    """What a row lacks: a witness by hand, a peer or the reason why there is none, a law."""
    missing = []
    for name, row in found.items():
        stores = name.startswith(STORES)
        if not row.by_hand and not stores:
            missing.append(f"{name} has no test marked by_hand")
        if not row.peers and not row.reasons and not stores:
            missing.append(f"{name} has no test marked peer, and none says why (no_peer)")
        if not row.zoo and not row.laws and not (stores and row.by_hand):
            missing.append(f"{name} has no law: no generator of the zoo names it, and no test is marked law")
    return missing


def table(found: Mapping[str, Row], laws: int) -> str:
    """The catalogue in Markdown, a section for each group."""
    lines = []
    for group, title in GROUPS.items():
        inside = {name: row for name, row in found.items() if name.rpartition("/")[0] == group and _is_shown(row)}
        if not inside:
            continue
        lines += [
            f"## {title}",
            "",
            "| row | definition | by hand | compared with | laws | equal |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in inside.items():
            module = f"kvattn.{name.replace('/', '.')}"
            stem = name.rpartition("/")[2]
            held = [f"all {laws} of `{one}`" for one in row.zoo] + [law for law, _ in row.laws]
            equal = ["bits; definition: bound"] * bool(row.zoo) + sorted({how for _, how in row.laws})
            cells = (
                f"{{py:mod}}`{stem.replace('_', ' ')} <{module}>`",
                ", ".join(f"`{one}`" for one in row.definition),
                _words([test.replace("_", " ") for test in row.by_hand]),
                _words([f"{who} ({how})" for who, how in row.peers] or [f"none: {why}" for why in row.reasons]),
                _words(held),
                _words(list(dict.fromkeys(equal))),
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def models(root: Path) -> str:
    """The whole models that the tests run on kvattn's attention, from the keys of ``MODELS`` in their file."""
    source = (root / "tests" / "peers" / "test_transformers_models.py").read_text(encoding="utf-8")
    found = [node.value for node in ast.parse(source).body if isinstance(node, ast.AnnAssign) and _is_models(node)]
    lines = ["| model type | compared with | what it exercises |", "|---|---|---|"]
    for table in found:
        assert isinstance(table, ast.Dict)
        for key, value in zip(table.keys, table.values, strict=True):
            assert key is not None
            assert isinstance(value, ast.Tuple)
            own, exercised = (str(ast.literal_eval(part)) for part in value.elts[:2])
            lines.append(f"| `{ast.literal_eval(key)}` | transformers' {own} | {exercised} |")
    return "\n".join(lines)


def _is_models(node: ast.AnnAssign) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == "MODELS"


def _is_shown(row: Row) -> bool:
    """Whether tests say anything of a file; a piece of others has no line."""
    return bool(row.by_hand or row.peers or row.laws or row.zoo)


def _words(parts: list[str]) -> str:
    return "; ".join(dict.fromkeys(parts))


def questions(asked: Mapping[str, Callable[[], Any]]) -> str:
    """Every question of `kvattn.testing.disagreements`: its readings, and the numbers that tell them apart."""
    lines = []
    for name, question in asked.items():
        case = question()
        page = f"{{py:mod}}`{case.row.rpartition('/')[2]} <kvattn.{case.row.replace('/', '.')}>`"
        lines += [
            f"## {case.question}",
            "",
            f"`{name}`, see {page}.",
            "",
            "| reading | who | the result begins |",
            "|---|---|---|",
        ]
        for reading in case.readings:
            numbers = np.ravel(reading.result[_telling(case.readings)] if reading.result.ndim > 1 else reading.result)
            shown = ", ".join(f"{number:.4g}" for number in numbers[:6])
            lines.append(
                f"| {reading.says} | {', '.join(reading.who)} | `{shown}` |".replace("<=", "≤").replace(">=", "≥")
            )
        lines.append("")
    return "\n".join(lines)


def _telling(readings: Sequence[Any]) -> int:
    """The first row in which all readings differ, else the first in which some do."""
    first, *others = (np.nan_to_num(reading.result, nan=-1.0) for reading in readings)
    apart = [[float(np.abs(first[row] - other[row]).max()) > 0.01 for other in others] for row in range(len(first))]
    return max(range(len(first)), key=lambda row: (sum(apart[row]), -row))
