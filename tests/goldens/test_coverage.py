"""What the goldens cover: every row of the catalogue that computes attention, every incident, and in how many bytes."""

from collections import Counter
from collections.abc import Iterable
from functools import cache
import importlib.util
from pathlib import Path
import sys
from typing import Any
import zlib

from kvattn.goldens.reading import RECORDED, every_case
from kvattn.goldens.recipes import every

ROOT = Path(__file__).parents[2]
CASES = list(every_case(RECORDED))

ELSEWHERE = {
    "masks/ahead": "refuses steps that a mask does not allow; it computes nothing",
    "positions/distance_table": "a table that positions/shaw, t5_buckets and others look up, which have cases",
    "positions/relative_projection": "the bias of variants/dense/relative_projection, which has cases",
    "variants/compressed/latent_projections": "the matrices of variants/compressed/latent, which has cases",
    "variants/compressed/latent_rows": "the rows of variants/compressed/latent, which has cases",
    "variants/dense/around": "the projections around every layer: variants/dense/projections has cases",
    "variants/dense/before_rotation": "when keys are turned: positions/dynamic_ntk and longrope have its cases",
    "variants/dense/placed": "one softmax over several ways of placing: self_extend and dual_chunk have its cases",
    "variants/dense/weighed": "a layer around another function than the softmax, each of which has cases",
    "variants/sparse/lightning_indexer": "the scores by which variants/sparse/indexed chooses, which has cases",
}
"""Rows without a case of their own, and why."""

COVERED = ("variants", "masks", "mods", "positions")
"""Groups of which every row needs a case or a reason."""


@cache
def catalogue_rows() -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location(
        "catalogue_of_goldens", ROOT / "docs" / "_extensions" / "catalogue.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["catalogue_of_goldens"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    return tuple(module.rows(ROOT))


def uncovered(rows: Iterable[str], covered: set[str]) -> list[str]:
    wanted = [row for row in rows if row.partition("/")[0] in COVERED]
    return [row for row in wanted if row not in covered and row not in ELSEWHERE]


def test_every_row_has_a_case_or_a_reason() -> None:
    rows, covered = catalogue_rows(), {case.row for case in CASES}
    assert uncovered(rows, covered) == []
    assert covered <= set(rows)
    assert not covered & ELSEWHERE.keys()
    assert set(rows) >= ELSEWHERE.keys()


def test_a_row_without_a_case_is_noticed() -> None:
    rows, covered = catalogue_rows(), {case.row for case in CASES}
    assert uncovered(rows, covered - {"masks/window"}) == ["masks/window"]
    assert uncovered([*rows, "masks/new"], covered) == ["masks/new"]


def test_every_recipe_is_recorded() -> None:
    assert {recipe.name for recipe in every()} == {case.name for case in CASES}


def test_there_are_enough_of_every_kind() -> None:
    assert len(CASES) >= 300
    results = Counter(case.result for case in CASES)
    assert min(results[word] for word in ("valid", "acceptable", "invalid")) >= 9
    assert sum(bool(case.mistakes) for case in CASES) > len(CASES) / 2
    known = [case for case in CASES if any(flag.bug_type == "KNOWN_BUG" for flag in case.flags)]
    assert len(known) >= 100


def test_the_data_leave_the_wheel_small() -> None:
    """A wheel is deflated file by file and must stay under 5 MB; the code takes well under 1 MB of that."""
    size = sum(len(zlib.compress(path.read_bytes())) for path in RECORDED.rglob("*") if path.is_file())
    code = sum(len(zlib.compress(path.read_bytes())) for path in (ROOT / "kvattn").rglob("*.py"))
    assert size + code < 4_000_000


def test_every_file_is_in_the_wheel() -> None:
    """Hatch takes what git knows: no data may be ignored."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    names = {path.name for path in RECORDED.rglob("*") if path.is_file()}
    assert not names & set(ignored)
    assert not any(word in {"*.json", "v1/", "*.xml"} for word in ignored)


def test_every_file_of_recipes_has_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "reference" / "goldens" / "recipes").glob("*.md")}
    names = {path.stem for path in (ROOT / "kvattn" / "goldens" / "recipes").glob("[a-z]*.py")}
    assert pages - names <= {"index", "attention"}
    assert names <= pages
