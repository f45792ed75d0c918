"""The doctor says what one needs to know about a last-bit difference, as JSON can hold it."""

import json

import numpy as np
import pytest

from kvattn.testing.doctor import examine


def test_it_names_versions_blas_cpu_threads_and_the_probe() -> None:
    found = examine()
    assert found["versions"]["numpy"] == np.__version__
    assert found["blas"]["name"]
    assert found["cpu"]["machine"]
    assert found["threads"]["processors"] >= 1
    assert {"rows", "forced", "float64", "float32"} <= found["probe"].keys()
    json.dumps(found, allow_nan=False)


def test_variables_that_change_the_arithmetic_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "AVX512F")
    assert examine()["environment"]["NPY_DISABLE_CPU_FEATURES"] == "AVX512F"
