"""What is legal elsewhere, and what is legal nowhere."""

from typing import Any

import pytest

from kvattn.testing.diagnosis.conventions import LEGAL, whose


@pytest.mark.parametrize(
    ("fault_class", "legal", "illegal"),
    [
        ("causal-align", {"anchor": "top_left", "shift": 0}, {"anchor": "top_left", "shift": 1}),
        ("causal-align", {"anchor": "top_left"}, {"anchor": "top_left", "elsewhere": "bottom_right"}),
        ("window-off-by-one", {"extra": 1}, {"extra": -1}),
        ("empty-row", {"out": "nan"}, {"out": "first value"}),
        ("lse-merge", {"base": 2}, {"content": "negated"}),
        ("mask-polarity", {"true_means": "blocked"}, {"encoding": "length"}),
        ("masked-nan", {"poison": "nan"}, {}),
        ("alibi-slopes", {"slopes": "MPT's"}, {"slopes": "scaled", "factor": -1.0}),
        ("sink", {"in_lse": False}, {"count": 2.0}),
        ("gqa-map", {"supported": False}, {"map": "h % Hkv"}),
    ],
)
def test_a_class_has_legal_and_illegal_readings(
    fault_class: str, legal: dict[str, Any], illegal: dict[str, Any]
) -> None:
    assert whose(fault_class, legal)
    assert not whose(fault_class, illegal)


def test_nobody_declares_a_scale() -> None:
    assert not {"scale", "softcap", "mask-dropped", "stale-state"} & set(LEGAL)
    assert whose("scale", {"rule": "1"}) == ""
