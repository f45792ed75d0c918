"""transformers' attention functions under their adapters."""

import numpy as np
import pytest

from kvattn.errors import MissingExtraError
from kvattn.interop import transformers_attention as adapter
from kvattn.testing import check
from kvattn.testing.planted import Planted
from kvattn.testing.targets import load

ONE = np.ones((1, 1, 2, 4))
NAMES = ("EAGER", "EAGER_SOFTCAP", "EAGER_SINKS", "SDPA")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_the_packages_it_says_so(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(MissingExtraError, match=f"{missing} must be installed for this adapter, got no module"):
        adapter.eager(ONE, ONE, ONE)


@pytest.mark.peer
@pytest.mark.parametrize("name", NAMES)
def test_their_choices_are_named_as_conventions(name: str) -> None:
    pytest.importorskip("transformers", reason="runs transformers' attention functions: kvattn[peers]")
    report = check(load(f"kvattn.interop.transformers_attention:{name}"), cases=30)
    assert report.verdict == "convention", str(report)
    assert "masked-nan" in {f.fault_class for f in report.findings}
    assert ("empty-row" in {f.fault_class for f in report.findings}) == (name != "SDPA")


@pytest.mark.peer
def test_each_extra_reaches_its_function() -> None:
    pytest.importorskip("transformers", reason="runs transformers' attention functions: kvattn[peers]")
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    right = Planted(returns_lse=False)
    for function, options in (
        (adapter.eager, {"bias": r.standard_normal((2, 4, 3, 5))}),
        (adapter.eager_softcap, {"softcap": 0.7}),
        (adapter.eager_sinks, {"sinks": r.standard_normal(4)}),
        (adapter.sdpa, {"scale": 0.3}),
    ):
        for more in ({}, {"causal": True}, {"causal": True, "window": 2}):
            got = function(q, k, v, **options, **more)
            assert got == pytest.approx(right(q, k, v, **options, **more), abs=1e-6)


@pytest.mark.peer
def test_bfloat16_goes_in_and_comes_out() -> None:
    for package in ("transformers", "ml_dtypes"):
        pytest.importorskip(package, reason="runs transformers' attention functions in bfloat16: kvattn[peers]")
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape).astype("bfloat16") for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    wide = Planted(returns_lse=False)(*(x.astype(np.float64) for x in (q, k, v)), causal=True)
    for function in (adapter.eager, adapter.sdpa):
        got = function(q, k, v, causal=True)
        assert got.dtype == q.dtype
        assert np.abs(got.astype(np.float64) - wide).max() <= 2.0**-6
