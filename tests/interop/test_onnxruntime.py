"""onnxruntime's two attention operators under their adapters."""

import numpy as np
import pytest

from kvattn.errors import ArgumentError, MissingExtraError
from kvattn.interop import onnxruntime as adapter
from kvattn.testing import check
from kvattn.testing.planted import Planted

ONE = np.ones((1, 1, 2, 8))


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_packages_it_says_so(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(MissingExtraError, match=f"{missing} must be installed for this adapter, got no module"):
        adapter.attention(ONE, ONE, ONE)


def test_what_the_operators_do_not_take_is_refused() -> None:
    with pytest.raises(ArgumentError, match="ONNX takes one of bias and mask, got both"):
        adapter.attention(ONE, ONE, ONE, bias=ONE[..., :2], mask=ONE[..., :2] > 0)
    with pytest.raises(ArgumentError, match="needs T <= S, got T = 2, S = 1"):
        adapter.group_query_attention(ONE, ONE[:, :, :1], ONE[:, :, :1])
    with pytest.raises(ArgumentError, match="takes a scale of 0 for none"):
        adapter.group_query_attention(ONE, ONE, ONE, scale=0.0)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "classes"), [("ATTENTION", {"causal-align", "masked-nan"}), ("GROUP_QUERY_ATTENTION", {"masked-nan"})]
)
def test_their_choices_are_named_as_conventions(name: str, classes: set[str]) -> None:
    pytest.importorskip("onnxruntime", reason="runs onnxruntime's operators: kvattn[peers]")
    report = check(f"kvattn.interop.onnxruntime:{name}")
    assert report.verdict == "convention", str(report)
    assert {f.fault_class for f in report.findings} >= classes
    assert "causal-align" in classes or "causal-align" not in {f.fault_class for f in report.findings}
    assert report.margin is not None
    assert report.margin.cases > 30


@pytest.mark.peer
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("width", [8, 5])
def test_grouped_queries_on_a_cache(causal: bool, width: int) -> None:
    pytest.importorskip("onnxruntime", reason="runs onnxruntime's operators: kvattn[peers]")
    r = np.random.default_rng(0)
    q, k = r.standard_normal((2, 4, 3, width)), r.standard_normal((2, 2, 5, width))
    v, sinks = r.standard_normal((2, 2, 5, width + 1)), r.standard_normal(4)
    got = adapter.group_query_attention(q, k, v, causal=causal, sinks=sinks)
    wanted = Planted(returns_lse=False)(q, k, v, causal=causal, sinks=sinks)
    assert got == pytest.approx(wanted, abs=1e-5)
