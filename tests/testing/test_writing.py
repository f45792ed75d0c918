"""The written test file runs: it passes for what is right, and fails for what is wrong."""

from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
import subprocess
import sys

import pytest

from kvattn.cli import main
from kvattn.errors import ArgumentError
from kvattn.testing.checking import check
from kvattn.testing.targets import load, target_of
from kvattn.testing.writing import new_file, text_of

LOADED = any(point.value == "kvattn.pytest_plugin" for point in entry_points(group="pytest11"))
MINE = """
from kvattn.testing.planted import Planted

right = Planted()
def mine(q, k, v, *, causal=False, window=None, scale=None):
    return Planted({change})(q, k, v, causal=causal, window=window, scale=scale)
"""


def outcome(folder: Path, change: str) -> tuple[int, str, str]:
    """Write ``mine.py``, have the test written as a user would, and run it."""
    (folder / "mine.py").write_text(MINE.format(change=change))
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    checked = run("kvattn", "check", "mine:mine", "--cases", "8", "--write-test")
    assert "test_mine.py" in checked.stderr, checked.stderr
    named = () if LOADED else ("-p", "kvattn.pytest_plugin")
    ran = run("pytest", "-q", *named, "test_mine.py")
    return ran.returncode, ran.stdout, (folder / "test_mine.py").read_text()


def test_for_what_is_right_it_passes(tmp_path: Path) -> None:
    code, output, text = outcome(tmp_path, "")
    assert code == 0, output
    assert "2 passed" in output
    assert "FEATURES = ('causal', 'window', 'scale')" in text


def test_for_what_is_wrong_it_fails_with_the_name(tmp_path: Path) -> None:
    code, output, _ = outcome(tmp_path, "head_map='h % Hkv'")
    assert code == 1
    assert "gqa-map" in output
    assert "2 failed" in output


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    place = tmp_path / "test_it.py"
    place.write_text("mine")
    with pytest.raises(ArgumentError, match=r"--write-test must name a new file, got .*test_it.py, which exists"):
        new_file(load("kvattn.testing.contract:attend"), str(place))
    assert main(["check", "kvattn.testing.contract:attend", "--write-test", str(place)]) == 2
    assert place.read_text() == "mine"


def test_what_cannot_be_imported_cannot_be_written() -> None:
    target = target_of(lambda q, k, v: v)
    with pytest.raises(ArgumentError, match="target must be importable to be written into a test"):
        text_of(target, check(target, cases=0))


def test_the_installation_is_no_target_to_write_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--write-test"]) == 2
    assert "--write-test needs a target" in capsys.readouterr().err


def test_a_mask_of_numbers_is_left_to_the_check() -> None:
    target = load("kvattn.testing.contract:attend")
    report = check(target, cases=0)
    features = [text_of(x, report).partition("FEATURES = ")[2] for x in (target, replace(target, mask_form="additive"))]
    assert ["'mask'" in line.partition(")")[0] for line in features] == [True, False]
