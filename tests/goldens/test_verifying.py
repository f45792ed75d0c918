"""Verification recomputes what is stored, and names what is wrong."""

from collections.abc import Callable, Mapping
import hashlib
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
import pytest

from kvattn.errors import DamagedError
from kvattn.goldens.manifest import array_from_json, array_to_json, digest, written
from kvattn.goldens.reading import RECORDED
from kvattn.goldens.verifying import Verified, damaged, verify

CASE = "dense/lse/base-2"


@pytest.fixture
def forge(tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """A folder in which one case was changed, digests and checksums with it, as a forger would."""

    def forged(change: Callable[[dict[str, Any]], None]) -> Path:
        folder = Path(shutil.copytree(RECORDED, tmp_path / "v1"))
        path = folder / "dense" / "lse.json"
        before = path.read_bytes()
        manifest = json.loads(before)
        case = next(case for case in manifest["cases"] if case["name"] == CASE)
        change(case)
        for part in ("inputs", "expected"):
            case[f"{part}Sha256"] = digest(case[part])
        path.write_bytes(written(manifest))
        total = folder / "SHA256SUMS"
        now, was = (hashlib.sha256(content).hexdigest() for content in (path.read_bytes(), before))
        total.write_text(total.read_text(encoding="utf-8").replace(was, now), encoding="utf-8")
        return folder

    return forged


def nudge(arrays: dict[str, Any], name: str) -> None:
    """The last number moves by one unit in the last place."""
    array = np.array(array_from_json(arrays[name]))
    array.flat[-1] = np.nextafter(array.flat[-1], np.inf)
    arrays[name] = {**arrays[name], **array_to_json(array)}


def test_what_is_recorded_verifies() -> None:
    told: list[str] = []
    found = verify(part="dense/lse", tick=told.append)
    assert found.wrong == ()
    assert found.values > 6 * 96
    assert len(told) == 6
    assert found.files > 20
    damaged(found)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda case: nudge(case["expected"], "lse"), f"{CASE}: expected/lse is not what its formula gives"),
        (
            lambda case: nudge(case["mistakes"]["a natural log"], "lse"),
            f"{CASE}: mistakes/a natural log/lse is not what its formula gives",
        ),
        (lambda case: case["mistakes"].pop("a natural log"), f"{CASE} has other mistakes than its recipe"),
        (lambda case: nudge(case["inputs"], "v"), f"{CASE}: expected/out is not what its formula gives"),
        (lambda case: case["parameters"].clear(), f"{CASE}: expected/lse is not what its formula gives"),
        (lambda case: case["inputs"].pop("v"), f"{CASE}: expected cannot be computed again: 'v'"),
        (lambda case: case.update(name="dense/lse/base-3"), "dense/lse/base-3 has no recipe here"),
    ],
    ids=["output", "mistake", "mistakes", "input", "parameter", "no input", "name"],
)
def test_a_forged_value_is_noticed(forge: Any, change: Callable[[Mapping[str, Any]], None], wrong: str) -> None:
    found = verify(forge(change), part="dense/lse/base")
    assert wrong in found.wrong
    with pytest.raises(DamagedError, match="every recorded value must be what its formula gives, got dense/lse/base-"):
        damaged(found)


def test_one_sentence_for_many() -> None:
    with pytest.raises(DamagedError, match=r"got a and 2 more$"):
        damaged(Verified(1, 1, 1, 70, ("a", "b", "c")))
