"""torch's flex_attention under its adapter."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import MissingExtraError
from kvattn.interop import torch_flex as adapter
from kvattn.testing import check
from kvattn.testing.planted import Planted
from kvattn.testing.targets import load

ONE = np.ones((1, 1, 2, 4))


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    for call in (lambda: adapter.flex_attention(ONE, ONE, ONE), adapter.target):
        with pytest.raises(MissingExtraError, match="torch must be installed for this adapter, got no module torch"):
            call()


@pytest.mark.peer
def test_only_its_nan_is_another_choice() -> None:
    pytest.importorskip("torch", reason="runs torch's flex_attention: kvattn[peers]")
    report = check(load("torch.nn.attention.flex_attention:flex_attention"), cases=30)
    assert report.verdict == "convention", str(report)
    assert {f.fault_class for f in report.findings} == {"masked-nan"}
    assert report.arithmetic == "float64"


@pytest.mark.peer
def test_caps_biases_and_masks_reach_it() -> None:
    pytest.importorskip("torch", reason="runs torch's flex_attention: kvattn[peers]")
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 6)))
    options: Any = {"bias": r.standard_normal((2, 4, 3, 5)), "mask": r.random((2, 4, 3, 5)) < 0.7, "softcap": 1.5}
    out, lse = adapter.flex_attention(q, k, v, **options)
    wanted = Planted()(q, k, v, **options)
    assert out == pytest.approx(wanted[0], abs=1e-12)
    assert lse == pytest.approx(wanted[1], abs=1e-12)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_go_in_and_come_out(dtype: str) -> None:
    pytest.importorskip("torch", reason="runs torch's flex_attention: kvattn[peers]")
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes, of the peers extra")
    r = np.random.default_rng(0)
    q, k, v = (r.standard_normal(shape).astype(dtype) for shape in ((2, 4, 3, 8), (2, 2, 5, 8), (2, 2, 5, 8)))
    bias = r.standard_normal((2, 4, 3, 5)).astype(dtype)
    out, lse = adapter.flex_attention(q, k, v, bias=bias, causal=True)
    assert out.dtype == q.dtype
    wide = Planted()(*(x.astype(np.float64) for x in (q, k, v)), bias=bias.astype(np.float64), causal=True)
    unit = {"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    assert np.abs(out.astype(np.float64) - wide[0]).max() <= 2 * unit
    assert np.abs(lse.astype(np.float64) - wide[1]).max() <= 4 * unit
    report = check(adapter.target(), dtype=dtype, cases=10)
    assert {f.fault_class for f in report.findings} == {"masked-nan"}
    assert report.verdict == "convention"
