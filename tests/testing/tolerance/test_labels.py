"""The page, the code and the tests speak of the same terms: every label of one stands in the others."""

from pathlib import Path
import re

import pytest

ROOT = Path(__file__).parents[3]
LABEL = re.compile(r"\[([TSPV]\d+)\]")


def page() -> set[str]:
    return set(LABEL.findall((ROOT / "docs/explain/tolerance.md").read_text(encoding="utf-8")))


def lines(folder: Path) -> dict[str, list[str]]:
    """Label to the lines of code that carry it in a comment or, of a function that is one formula, in its docstring."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.py")):
        for text in path.read_text(encoding="utf-8").splitlines():
            code, _, comment = text.partition("#")
            where = comment if comment and code.strip() else text if text.strip().startswith('"""') else ""
            for label in LABEL.findall(where):
                found.setdefault(label, []).append(f"{path.name}: {text.strip()}")
    return found


def covered() -> set[str]:
    """Labels of cases that need a term, and of tests of the power and of the mean error."""
    found: set[str] = set()
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name != Path(__file__).name:
            text = path.read_text(encoding="utf-8")
            found |= set(LABEL.findall(text)) | set(re.findall(r'Case\(\s*"([TS]\d+)"', text))
    return found


def test_every_label_of_the_page_is_computed_and_tested() -> None:
    labels = page()
    assert len(labels) >= 34
    assert labels == set(lines(ROOT / "kvattn/testing/tolerance"))
    assert labels == covered()


def test_labels_are_numbered_without_gaps() -> None:
    for letter in "TSPV":
        numbers = sorted(int(label[1:]) for label in page() if label[0] == letter)
        assert numbers == list(range(1, len(numbers) + 1)), letter


@pytest.mark.parametrize(("text", "labels"), [("x = 1  # [T3]", {"T3"}), ("# [T3]", set()), ("x = [T3]", set())])
def test_only_a_line_that_computes_counts(text: str, labels: set[str], tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(text, encoding="utf-8")
    assert set(lines(tmp_path)) == labels
