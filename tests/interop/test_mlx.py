"""MLX's attention under its adapter, on the CPU."""

import numpy as np
import pytest

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.interop import mlx as adapter
from kvattn.testing import check
from kvattn.testing.planted import Planted
from kvattn.testing.targets import load

ONE = np.ones((1, 1, 2, 4))


def test_without_mlx_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    for call in (lambda: adapter.scaled_dot_product_attention(ONE, ONE, ONE), adapter.target):
        with pytest.raises(MissingExtraError, match="mlx must be installed for this adapter, got no module mlx"):
            call()


def test_it_takes_one_mask() -> None:
    with pytest.raises(ArgumentError, match="MLX takes one of causal, bias and mask, got causal and bias"):
        adapter.scaled_dot_product_attention(ONE, ONE, ONE, causal=True, bias=np.ones((2, 2)))


@pytest.mark.peer
def test_its_choices_are_named_as_conventions_and_its_corner_is_ours() -> None:
    pytest.importorskip("mlx.core", reason="runs MLX's attention: kvattn[peers]")
    report = check(load("mlx.core.fast:scaled_dot_product_attention"))
    assert report.verdict == "convention", str(report)
    assert {f.fault_class for f in report.findings} >= {"empty-row", "masked-nan"}
    assert "causal-align" not in {f.fault_class for f in report.findings}
    assert report.margin is not None
    assert report.margin.cases > 40


@pytest.mark.peer
def test_sinks_are_those_of_the_contract() -> None:
    pytest.importorskip("mlx.core", reason="runs MLX's attention: kvattn[peers]")
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    sinks = r.standard_normal(4)
    got = adapter.scaled_dot_product_attention(q, k, v, causal=True, sinks=sinks)
    assert got == pytest.approx(Planted(returns_lse=False)(q, k, v, causal=True, sinks=sinks), abs=1e-5)
    assert adapter.scaled_dot_product_attention(*(x.astype(np.float16) for x in (q, k, v))).dtype == np.float16
