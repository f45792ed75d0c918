"""The folder listing is the catalogue: every idea has a file, a test of the same name and a page of the same name."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

GROUPS = (
    "",
    "codecs",
    "masks",
    "positions",
    "mods",
    "caches",
    "core",
    "variants/dense",
    "variants/compressed",
    "variants/sparse",
    "variants/recurrent",
    "execution",
    "eviction",
    "goldens",
)

NOTHING_TO_TEST = {"errors", "typing"}
"""Names only: their words are tested where they are raised, their shapes by mypy."""


def missing_twins(root: Path) -> list[str]:
    """Say which module lacks its test or its page, and which page has no module."""
    found = []
    for group in GROUPS:
        modules = sorted(p.stem for p in (root / "kvattn" / group).glob("*.py") if not p.name.startswith("_"))
        folder = f"{group}/" if group else ""
        for name in modules:
            twins = [f"docs/reference/{folder}{name}.md"]
            if f"{folder}{name}" not in NOTHING_TO_TEST:
                twins.append(f"tests/{folder}test_{name}.py")
            found += [f"kvattn/{folder}{name}.py has no {twin}" for twin in twins if not (root / twin).is_file()]
        pages = sorted(p.stem for p in (root / "docs" / "reference" / group).glob("*.md"))
        found += [
            f"docs/reference/{folder}{name}.md has no kvattn/{folder}{name}.py"
            for name in pages
            if name not in {*modules, "index", "catalogue"}
        ]
    return found


def test_every_module_has_its_test_and_its_page() -> None:
    found = missing_twins(ROOT)
    assert not found, "\n".join(found)


def test_no_package_lies_outside_the_groups_unnoticed() -> None:
    """Packages under ``variants`` are all listed above."""
    folders = {f"variants/{p.parent.name}" for p in (ROOT / "kvattn" / "variants").glob("*/*.py")}
    assert folders <= set(GROUPS)


@pytest.mark.parametrize(
    ("left_out", "complaint"),
    [
        ("tests/masks/test_causal.py", "kvattn/masks/causal.py has no tests/masks/test_causal.py"),
        ("docs/reference/masks/causal.md", "kvattn/masks/causal.py has no docs/reference/masks/causal.md"),
        ("kvattn/masks/causal.py", "docs/reference/masks/causal.md has no kvattn/masks/causal.py"),
    ],
)
def test_a_lonely_twin_is_noticed(tmp_path: Path, left_out: str, complaint: str) -> None:
    whole = {"kvattn/masks/causal.py", "tests/masks/test_causal.py", "docs/reference/masks/causal.md"}
    for name in {*whole, "kvattn/masks/__init__.py", "docs/reference/masks/index.md"} - {left_out}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert missing_twins(tmp_path) == [complaint]
    (tmp_path / left_out).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left_out).touch()
    assert missing_twins(tmp_path) == []
