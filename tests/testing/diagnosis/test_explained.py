"""What was found explains calls that are long enough, and no others."""

from typing import Any

import pytest

from kvattn.testing import check
from kvattn.testing.diagnosis.explained import explained
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.recipe import Sizes
from kvattn.testing.planted.kernels import Unscaled


@pytest.mark.parametrize(
    ("fault_class", "parameters", "sizes", "right"),
    [
        ("lse-merge", {"running": "the output", "tile": 16}, [17, 40], [1, 16]),
        ("lse-merge", {"merge": "nan"}, [], [1, 17, 40]),
        ("tile-tail", {"axis": "keys", "tile": 16, "rest": 1, "wrong_at": [17, 33]}, [17, 49], [1, 16, 18, 32]),
        ("tile-tail", {"axis": "keys", "tile": 8, "rest": "any", "wrong_at": [7, 9]}, [1, 7, 9, 63], [8, 64]),
        ("tile-tail", {"axis": "keys", "tile": 8, "rest": "any", "wrong_at": [9, 15]}, [9, 63], [1, 7, 8, 64]),
        ("tile-tail", {"axis": "keys", "tile": 16, "rest": None, "wrong_at": [24, 31]}, [18, 24, 90], [1, 17]),
        ("tile-tail", {"axis": "queries", "tile": 16, "rest": 1, "wrong_at": [17]}, [], [17, 33]),
        ("scale", {"used": 1.0}, [], [1, 17]),
    ],
)
def test_sizes_that_a_finding_explains(
    fault_class: str, parameters: dict[str, Any], sizes: list[int], right: list[int]
) -> None:
    lab = Lab(planted())
    lab.add(fault_class, parameters, "", reproduce="f(q, k, v)")
    assert [n for n in sorted([*sizes, *right]) if explained(lab, lab.case(Sizes(S=n)))] == sizes


def test_nothing_found_explains_nothing() -> None:
    assert not any(explained(Lab(planted()), Lab(planted()).case(Sizes(S=n))) for n in (1, 17, 64))


def test_another_fault_beside_one_that_is_explained_is_told() -> None:
    def both(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
        return Unscaled(16)(q, k, v, causal=causal) * (1.02 if causal and q.shape[2] == 3 else 1)

    findings = check(both, cases=60).findings
    assert [finding.fault_class for finding in findings] == ["lse-merge", "unclassified"]
    assert "T=3" in findings[1].detail


@pytest.mark.parametrize(
    ("dtype", "size", "right"), [("float16", 9.0, True), ("float16", 1.0, False), ("float64", 9.0, False)]
)
def test_exponentials_without_a_maximum_have_few_digits_in_float16(dtype: str, size: float, right: bool) -> None:
    lab = Lab(planted(), dtype=dtype)
    lab.add("precision", {"stage": "range of exp"}, "", reproduce="f(q, k, v)")
    row = f"np.full(({{B}}, {{Hq}}, {{T}}, {{D}}), {size})"
    assert explained(lab, lab.case(Sizes(), (row, row.replace("Hq", "Hkv").replace("{T}", "{S}")))) == right
