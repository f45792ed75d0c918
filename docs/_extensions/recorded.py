"""Tables of the goldens: how many cases of what, which incidents they stand for, and which rows have none, and why.

Everything is read from the recorded files; the reasons from ``tests/goldens/test_coverage.py``, which asks for them.
"""

import ast
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kvattn.goldens import Case


def families(cases: Sequence[Case]) -> str:
    """A line for each file of cases."""
    lines = [
        "| cases | number | valid | acceptable | invalid | with mistakes | rows |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.name.rpartition("/")[0], []).append(case)
    for group, inside in [*groups.items(), ("all", list(cases))]:
        results = Counter(case.result for case in inside)
        wrong = sum(bool(case.mistakes) for case in inside)
        rows = sorted({case.row for case in inside})
        shown = f"{len(rows)} rows" if len(rows) > 3 else ", ".join(f"`{row}`" for row in rows)
        counts = " | ".join(str(results[word]) for word in ("valid", "acceptable", "invalid"))
        lines.append(f"| `{group}` | {len(inside)} | {counts} | {wrong} | {shown} |")
    return "\n".join(lines)


def incidents(cases: Sequence[Case]) -> str:
    """A line for each flag of a known bug."""
    lines = ["| flag | what an implementation does that fails | cases | where it happened |", "|---|---|---|---|"]
    flags = {flag.name: flag for case in cases for flag in case.flags if flag.bug_type == "KNOWN_BUG"}
    for name, flag in sorted(flags.items()):
        number = sum(name in {one.name for one in case.flags} for case in cases)
        links = ", ".join(f"[{_short(link)}]({link})" for link in flag.links)
        lines.append(f"| `{name}` | {flag.description} | {number} | {links} |")
    return "\n".join(lines)


def gaps(root: Path) -> str:
    """A line for each row of the catalogue without a case."""
    tree = ast.parse((root / "tests" / "goldens" / "test_coverage.py").read_text(encoding="utf-8"))
    (reasons,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ELSEWHERE"
    )
    return "\n".join(["| row | why |", "|---|---|", *(f"| `{row}` | {why} |" for row, why in reasons.items())])


def _short(link: str) -> str:
    parts = link.removeprefix("https://github.com/").split("/")
    if not link.startswith("https://github.com/") or len(parts) < 4:
        return link.removeprefix("https://").rstrip("/")
    owner, repository, kind, number = parts[:4]
    return f"{owner}/{repository}{'@' if kind == 'commit' else '#'}{number}"
