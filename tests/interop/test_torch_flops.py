"""torch's counters of FLOPs under their adapters."""

import pytest

from kvattn.errors import MissingExtraError
from kvattn.interop import torch_flops as adapter
from kvattn.testing import check
from kvattn.testing.counter_diagnosis.sizes import Sizes, flops

SIZES = Sizes(batch=2, kv_heads=2, group=3, queries=5, keys=9, width=8, value_width=8)


def test_without_torch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    for target in (adapter.FORMULA, adapter.COUNTED):
        with pytest.raises(MissingExtraError, match="torch must be installed for this adapter, got no module torch"):
            target(SIZES.given())


@pytest.mark.peer
def test_the_formula_counts_all_pairs() -> None:
    pytest.importorskip("torch", reason="runs torch's formula: kvattn[peers]")
    assert adapter.FORMULA(SIZES.given()) == flops(SIZES)
    report = check("kvattn.interop.torch_flops:FORMULA", cases=10)
    assert [(f.kind, f.parameters) for f in report.findings] == [("convention", {"causal": "all pairs"})], str(report)
    assert report.margin is not None


@pytest.mark.peer
def test_what_is_counted_on_a_cpu_is_named_nothing_or_all_pairs() -> None:
    """0 in torch 2.13, whose tiled kernel for CPUs has no formula; a later torch may have one."""
    pytest.importorskip("torch", reason="runs torch's counter: kvattn[peers]")
    count = adapter.COUNTED(SIZES.given())
    assert count in {0, flops(SIZES)}
    report = check(adapter.COUNTED, cases=4)
    wanted = {"counts": 0} if count == 0 else {"causal": "all pairs"}
    assert [f.parameters for f in report.findings] == [wanted], str(report)
