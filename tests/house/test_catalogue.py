"""The catalogue of the site is read from the tests, and no row of it has a gap."""

import importlib.util
from pathlib import Path
import sys
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("catalogue", ROOT / "docs" / "_extensions" / "catalogue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["catalogue"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return module


catalogue = _load()

PARTS = {
    "masks/combine",
    "masks/anchors",
    "caches/blocks",
    "caches/pages",
    "caches/rows",
    "caches/tables",
    "caches/vectors",
    "variants/dense/around",
    "variants/dense/projections",
    "variants/compressed/latent_projections",
    "variants/compressed/latent_rows",
}
"""Pieces of rows, no rows of their own."""


def test_no_row_has_a_gap() -> None:
    found = catalogue.rows(ROOT)
    missing = catalogue.gaps({name: row for name, row in found.items() if name not in PARTS})
    assert not missing, "\n".join(missing)


WHOLE = """
import pytest

@pytest.mark.by_hand("masks/far")
@pytest.mark.peer("masks/far: wide", "torch", "1e-12")
def test_far_by_hand(): ...
"""


def tree(root: Path, test: str, zoo: str = '"""Cases of `kvattn.masks.far`, among others.\n\nMore."""') -> Path:
    for name, text in {
        "kvattn/masks/far.py": "class Far: ...\ndef _hidden(): ...",
        "kvattn/testing/zoo/some.py": zoo,
        "tests/masks/test_far.py": test,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_line_says_what_the_tests_show(tmp_path: Path) -> None:
    found = catalogue.rows(tree(tmp_path, WHOLE))
    assert catalogue.gaps(found) == []
    assert catalogue.table(found, 14).splitlines()[4] == (
        "| {py:mod}`far <kvattn.masks.far>` | `Far` | far by hand | wide: torch (1e-12) | all 14 of `some` "
        "| bits; definition: bound |"
    )


@pytest.mark.parametrize(
    ("lost", "complaint"),
    [
        ('@pytest.mark.by_hand("masks/far")', "masks/far has no test marked by_hand"),
        (
            '@pytest.mark.peer("masks/far: wide", "torch", "1e-12")',
            "masks/far has no test marked peer, and none says why (no_peer)",
        ),
    ],
)
def test_a_gap_is_noticed(tmp_path: Path, lost: str, complaint: str) -> None:
    assert catalogue.gaps(catalogue.rows(tree(tmp_path, WHOLE.replace(lost, "")))) == [complaint]


def test_a_row_without_laws_is_noticed(tmp_path: Path) -> None:
    (complaint,) = catalogue.gaps(catalogue.rows(tree(tmp_path, WHOLE, zoo='"""Cases of others."""')))
    assert complaint == "masks/far has no law: no generator of the zoo names it, and no test is marked law"
    law = 'import pytest\n@pytest.mark.law("masks/far", "blocks agree", "bits")\ndef test_law(): ...\n'
    assert catalogue.gaps(catalogue.rows(tree(tmp_path, WHOLE + law, zoo='"""Cases of others."""'))) == []


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('by_hand("masks/near")', "test_x is marked for masks/near, which is no file of a group"),
        ('peer("masks/far", "torch")', "must have 3 words"),
    ],
)
def test_a_marker_that_points_nowhere_is_an_error(tmp_path: Path, marker: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        catalogue.rows(tree(tmp_path, f"import pytest\n@pytest.mark.{marker}\ndef test_x(): ...\n"))


def test_whole_models_are_listed() -> None:
    lines = catalogue.models(ROOT).splitlines()[2:]
    assert len({line.split("`")[1].partition(":")[0] for line in lines}) >= 24
    assert all(line.count("|") == 4 for line in lines)
