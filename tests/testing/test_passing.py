"""A test fails with the report of the check, and only for what is not known."""

from dataclasses import replace
from typing import Any

import pytest

from kvattn.testing.calls import DisagreementError
from kvattn.testing.passing import must_pass
from kvattn.testing.planted import Planted
from kvattn.testing.targets import Target, target_of


def planted(**faults: Any) -> Target:
    """Attention with three keywords."""
    return replace(target_of(Planted(**faults)), features=frozenset({"causal", "window", "softcap"}))


def test_what_passes_returns_its_report() -> None:
    assert must_pass(planted(), cases=4).verdict == "pass"


def test_a_fault_fails_with_its_name() -> None:
    with pytest.raises(DisagreementError, match=r"fault: window-off-by-one\n.*W \+ 1 keys"):
        must_pass(planted(extra_keys=1), cases=4)


def test_a_known_fault_does_not_fail_until_it_is_mended() -> None:
    assert must_pass(planted(extra_keys=1), known=("window-off-by-one",), cases=4).verdict == "fault"
    with pytest.raises(DisagreementError, match="is known for window-off-by-one, and that was not found any more"):
        must_pass(planted(), known=("window-off-by-one",), cases=4)


def test_one_known_fault_does_not_hide_another() -> None:
    with pytest.raises(DisagreementError, match="fault: softcap"):
        must_pass(planted(extra_keys=1, cap="c * tanh(s)"), known=("window-off-by-one",), cases=4)
