"""The surroundings that every other test relies on."""

import os
from pathlib import Path
import tomllib

from hypothesis import settings
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.complex128])
def test_unwritten_memory_is_nan(dtype: type) -> None:
    assert np.isnan(np.empty((3, 2), dtype)).all()
    assert np.isnan(np.empty_like(np.zeros(5, dtype))).all()


def test_unwritten_integers_are_left_alone() -> None:
    assert np.empty(4, np.int64).dtype == np.int64


def test_a_numpy_warning_is_an_error() -> None:
    with pytest.raises(RuntimeWarning, match="divide by zero"):
        np.log(np.zeros(1))
    with pytest.raises(RuntimeWarning, match="overflow"):
        np.exp(np.full(1, 1e4))


@pytest.mark.skipif(os.environ.get("KVATTN_PROFILE", "ci") != "ci", reason="another profile was asked for")
def test_drawn_cases_are_the_same_in_every_run() -> None:
    profile = settings()
    assert profile.derandomize
    assert profile.database is None
    assert profile.deadline is None


def test_the_version_is_said_once_in_each_place_and_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    namespace: dict[str, object] = {}
    for line in (ROOT / "kvattn" / "__init__.py").read_text(encoding="utf-8").splitlines():
        if line.startswith("__version__ = "):
            namespace["version"] = line.partition(" = ")[2].strip("\"'")
    assert namespace.get("version", project["version"]) == project["version"]


def test_numpy_is_all_that_kvattn_needs_to_run() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == ["numpy>=2.0"]
    assert "<" not in project["requires-python"]
