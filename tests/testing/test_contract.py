"""kvattn's own attention follows the contract that it checks others by."""

from hypothesis import given
import numpy as np

from kvattn.testing.calls import Call
from kvattn.testing.checking import check
from kvattn.testing.contract import attend
from kvattn.testing.strategies import calls


@given(calls())
def test_it_agrees_with_every_call(call: Call) -> None:
    call.must_agree(tuple(call.run(attend)))


def test_a_check_passes() -> None:
    report = check(attend, cases=20)
    assert report.verdict == "pass", str(report)
    assert report.features == ("bias", "causal", "mask", "scale", "sinks", "softcap", "window")


def test_float32_stays_float32() -> None:
    x = np.ones((1, 1, 2, 2), np.float32)
    assert attend(x, x, x).out.dtype == np.float32
    assert attend(*(array.astype(np.float16) for array in (x, x, x))).out.dtype == np.float64
