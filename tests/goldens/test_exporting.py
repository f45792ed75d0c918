"""Exports for other languages: the same bytes every time, read back by other readers, and by Node.js."""

import hashlib
import json
from pathlib import Path
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

from kvattn import goldens
from kvattn.errors import ArgumentError
from kvattn.goldens.exporting import FORMS, SAFETENSORS, export
from kvattn.goldens.formats import FORMATS
from kvattn.goldens.manifest import array_from_json

NAMES = ["dense/grouped/plain", "dense/lse/base-2", "dense/few-bits/bfloat16", "dense/few-bits/float4-e2m1fn"]
SCRIPT = Path(__file__).parent / "check_export.mjs"


def arrays_of(name: str) -> dict[str, Any]:
    case = goldens.load(name)
    found = {f"{name}/inputs/{key}": array for key, array in case.inputs.items()}
    found |= {f"{name}/expected/{key}": array for key, array in case.expected.items()}
    for kind in ("alternatives", "mistakes"):
        for other, outputs in getattr(case, kind).items():
            found |= {f"{name}/{kind}/{other}/{key}": array for key, array in outputs.items()}
    return found


def sums_hold(folder: Path) -> bool:
    lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("  ") for line in lines]
    return all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == total for total, name in pairs)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_cases_give_the_same_bytes(tmp_path: Path, form: str) -> None:
    first = [path.read_bytes() for path in export(tmp_path / "a", form, NAMES)]
    assert first == [path.read_bytes() for path in export(tmp_path / "b", form, NAMES)]
    assert sums_hold(tmp_path / "a")


def test_json_holds_everything(tmp_path: Path) -> None:
    export(tmp_path, "json", NAMES)
    index = json.loads((tmp_path / "goldens.json").read_bytes())
    assert [case["name"] for case in index["cases"]] == NAMES
    assert index["notes"]["LseBase"]["bugType"] == "KNOWN_BUG"
    for case in index["cases"]:
        for name, array in arrays_of(case["name"]).items():
            *place, key = name.removeprefix(f"{case['name']}/").split("/")
            part = case
            for step in place:
                part = part[step]
            assert array_from_json(part[key]).tobytes() == array.tobytes()


def test_npz_holds_the_arrays(tmp_path: Path) -> None:
    export(tmp_path, "npz", NAMES)
    wanted = {key: array for name in NAMES for key, array in arrays_of(name).items()}
    with np.load(tmp_path / "goldens.npz") as found:
        assert set(found) == wanted.keys()
        assert all(found[key].tobytes() == array.tobytes() for key, array in wanted.items())
    index = json.loads((tmp_path / "goldens.json").read_bytes())
    bits = index["cases"][2]["inputs"]["q"]
    assert bits == {"tensor": f"{NAMES[2]}/inputs/q", "dtype": "bfloat16", "shape": [1, 4, 3, 6]}


def test_safetensors_holds_the_arrays(tmp_path: Path) -> None:
    """Read by the words of the format; the safetensors package reads it in tests/peers."""
    export(tmp_path, "safetensors", NAMES)
    content = (tmp_path / "goldens.safetensors").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0
    del header["__metadata__"]
    wanted = {key: array for name in NAMES for key, array in arrays_of(name).items()}
    assert header.keys() == wanted.keys()
    end = 0
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        assert first == end
        assert first % wanted[name].itemsize == 0
        end = last
        assert content[8 + size + first : 8 + size + last] == wanted[name].tobytes()
        assert entry["shape"] == list(wanted[name].shape)
    assert end == len(content) - 8 - size
    assert header[f"{NAMES[2]}/inputs/q"]["dtype"] == "BF16"
    assert SAFETENSORS.keys() >= FORMATS.keys()


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="form must be one of json, safetensors, npz, got 'csv'"):
        export(tmp_path, "csv", NAMES)
    with pytest.raises(ArgumentError, match="names must be of recorded cases, got 'dense/grouped/plan'"):
        export(tmp_path, "json", ["dense/grouped/plan"])
    assert not list(tmp_path.iterdir())


NODE = shutil.which("node")


def ran(folder: Path) -> "subprocess.CompletedProcess[str]":
    assert NODE is not None
    return subprocess.run([NODE, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: another language reads the exports with it")
@pytest.mark.parametrize("form", ["json", "safetensors"])
def test_another_language_reads_checks_and_recomputes(tmp_path: Path, form: str) -> None:
    export(tmp_path, form, [case.name for case in goldens.cases(family="dense")])
    done = ran(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    read, recomputed = (int(word) for word in done.stdout.split() if word.isdigit())
    assert read == len(goldens.cases(family="dense"))
    assert recomputed > 100


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed: another language reads the exports with it")
def test_the_other_language_notices_damage(tmp_path: Path) -> None:
    export(tmp_path, "json", NAMES)
    path = tmp_path / "goldens.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("Four query heads", "Five query heads"), encoding="utf-8")
    done = ran(tmp_path)
    assert done.returncode == 1
    assert "goldens.json is not what SHA256SUMS promises" in done.stdout
    index = json.loads(text)
    index["cases"][0]["expected"]["out"]["values"][0] += 1e-9
    changed = json.dumps(index)
    path.write_text(changed, encoding="utf-8")
    total = hashlib.sha256(changed.encode()).hexdigest()
    (tmp_path / "SHA256SUMS").write_text(f"{total}  goldens.json\n", encoding="utf-8")
    done = ran(tmp_path)
    assert done.returncode == 1
    assert "dense/grouped/plain: expected has another digest" in done.stdout
    assert "dense/grouped/plain: out is -0.30891331869" in done.stdout
