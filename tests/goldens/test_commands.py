"""``kvattn golden``: what it prints, what programs read, and how it leaves."""

import hashlib
import json
from pathlib import Path
import shutil

import pytest

from kvattn.cli import main
from kvattn.goldens import cases, reading, verifying


def test_list_names_cases_and_counts_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["golden", "list", "--family", "dense/lse"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["dense/lse/base-2", "LseBase"]
    assert lines[-1] == "6 cases, 6 of them of known bugs"


def test_list_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["golden", "list", "--flag", "OnnxTile", "--flag", "LseBase", "--row", "variants", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schemaVersion"] == 1
    assert {flag for case in data["cases"] for flag in case["flags"]} >= {"OnnxTile", "LseBase"}
    assert {case["row"].partition("/")[0] for case in data["cases"]} == {"variants"}


def test_verify_says_what_it_did(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verifying.verify
    monkeypatch.setattr(verifying, "verify", lambda tick: whole(tick=tick, part="dense/lse"))
    assert main(["golden", "verify"]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith("files have the checksums of SHA256SUMS")
    assert second == f"{len(cases())} cases have the digests that stand beside their arrays"
    assert "computed again from the stored inputs in decimal intervals of 70 digits" in third
    assert main(["golden", "verify", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"


def test_a_wrong_value_is_exit_code_4(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = verifying.Verified(1, 1, 1, 70, ("dense/x/y: expected/out is not what its formula gives",))
    monkeypatch.setattr(verifying, "verify", lambda tick: wrong)
    assert main(["golden", "verify"]) == 4
    assert capsys.readouterr().out.splitlines()[-1].startswith("damaged: dense/x/y: expected/out is not")


@pytest.mark.parametrize("words", [["list"], ["verify"], ["export", "--format", "json", "--into", "out"]])
def test_a_damaged_file_is_one_sentence_and_exit_code_4(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(reading.RECORDED, tmp_path / "v1"))
    path = folder / "dense" / "lse.json"
    path.write_bytes(path.read_bytes().replace(b"The log-sum-exp to base 2.", b"The log-sum-exp to base 3."))
    monkeypatch.setattr(reading, "RECORDED", folder)
    monkeypatch.setattr(verifying.verify, "__defaults__", (folder, lambda _: None, "dense/lse"))
    monkeypatch.chdir(tmp_path)
    assert main(["golden", *words]) == 4
    caught = capsys.readouterr()
    total = hashlib.sha256(path.read_bytes()).hexdigest()
    assert caught.err.startswith("kvattn: error: dense/lse.json of the goldens must have SHA-256 ")
    assert f"got {total[:12]}" in caught.err
    assert caught.err.count("\n") == 1
    assert not caught.out


@pytest.mark.parametrize("form", ["json", "safetensors", "npz"])
def test_export_writes_what_was_chosen(form: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["golden", "export", "--format", form, "--into", str(tmp_path / "out"), "--family", "dense/merge"]
    assert main(words) == 0
    chosen = len(cases(family="dense/merge"))
    assert capsys.readouterr().out.startswith(f"{chosen} cases in goldens.json, ")
    index = json.loads((tmp_path / "out" / "goldens.json").read_bytes())
    assert len(index["cases"]) == chosen
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == chosen


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["golden"], 2),
        (["golden", "lits"], 2),
        (["golden", "list", "--family", "dens"], 2),
        (["golden", "export", "--format", "csv", "--into", "x"], 2),
        (["golden", "export", "--format", "json"], 2),
    ],
    ids=["nothing", "misspelt", "unknown family", "unknown format", "no folder"],
)
def test_usage_errors(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    assert not capsys.readouterr().out
