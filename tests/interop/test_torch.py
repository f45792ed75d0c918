"""torch's attention under its adapter: exit 0, its anchor a convention."""

import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.interop.torch import scaled_dot_product_attention, target
from kvattn.testing import check
from kvattn.testing.planted import Planted
from kvattn.testing.targets import load

NAME = "torch.nn.functional:scaled_dot_product_attention"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture(scope="module")
def report() -> Any:
    pytest.importorskip("torch")
    return check(NAME)


@pytest.mark.peer
def test_torch_passes_with_its_top_left_anchor_named_as_a_convention(report: Any) -> None:
    assert report.verdict == "convention"
    found = {finding.fault_class: finding for finding in report.findings}
    assert found["causal-align"].parameters["anchor"] == "top_left"
    assert {finding.kind for finding in report.findings} == {"convention"}
    assert report.margin.cases > 40
    assert report.margin.worst < 1


@pytest.mark.peer
def test_its_reproductions_run(report: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for finding in report.findings:
        exec(finding.reproduce)  # noqa: S102 - that it runs is what is tested
        got, _, expected = capsys.readouterr().out.partition("expected")
        assert got.strip() != expected.strip()


@pytest.mark.peer
@needs_torch
def test_the_function_itself_finds_its_adapter() -> None:
    import torch

    assert check(torch.nn.functional.scaled_dot_product_attention, cases=5).verdict == "convention"


@pytest.mark.peer
@needs_torch
def test_the_command_exits_with_0() -> None:
    words = [sys.executable, "-m", "kvattn", "check", NAME]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-left" in done.stdout


@pytest.mark.peer
@needs_torch
def test_the_adapter_gives_what_the_planted_attention_gives() -> None:
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    mask, bias = r.random((2, 4, 3, 5)) < 0.7, r.standard_normal((2, 4, 3, 5))
    mine = Planted(returns_lse=False, anchor="top_left")
    for options in ({}, {"causal": True}, {"mask": mask}, {"bias": bias}, {"scale": 0.3}):
        got = scaled_dot_product_attention(q, k, v, **options)
        assert got == pytest.approx(mine(q, k, v, **options), abs=1e-12)
    assert scaled_dot_product_attention(q[:, :, ::-1], k, v).shape == q.shape


def test_torch_takes_one_mask() -> None:
    one = np.ones((1, 1, 2, 2))
    with pytest.raises(ArgumentError, match="torch takes one of causal, bias and mask, got causal and bias"):
        scaled_dot_product_attention(one, one, one, causal=True, bias=one)


def test_without_torch_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvattn.interop.torch.find_spec", lambda name: None)
    one = np.ones((1, 1, 2, 2))
    for call in (lambda: load(NAME), target, lambda: scaled_dot_product_attention(one, one, one)):
        with pytest.raises(MissingExtraError, match="torch must be installed for this adapter"):
            call()


@pytest.mark.peer
@needs_torch
@pytest.mark.parametrize("name", ["MATH", "FLASH"])
def test_each_kernel_for_cpus_makes_the_same_choices(name: str) -> None:
    report = check(f"kvattn.interop.torch:{name}", cases=30)
    assert report.verdict == "convention", str(report)
    assert {f.fault_class for f in report.findings} == {"causal-align", "masked-nan"}
    assert report.arithmetic == "float64"


@pytest.mark.peer
@needs_torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_go_in_and_come_out(dtype: str) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes, of the peers extra")
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape).astype(dtype) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    got = scaled_dot_product_attention(q, k, v)
    assert got.dtype == q.dtype
    wide = Planted(returns_lse=False)(*(x.astype(np.float64) for x in (q, k, v)))
    assert np.abs(got.astype(np.float64) - wide).max() <= {"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    report = check(target(), dtype=dtype, cases=20)
    assert report.verdict == "convention"
    assert report.margin is not None
    assert report.margin.worst < 1
