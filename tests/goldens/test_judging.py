"""Outputs are judged: as expected, another convention, a mistake with a name, or a fault without one."""

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.goldens import cases, judge, load


def test_every_case_passes_its_own_outputs_and_names_its_mistakes() -> None:
    for case in cases():
        if case.result == "invalid":
            continue
        assert judge(case, case.expected)[:2] == ("pass", ""), case.name
        for kind, verdict in (("alternatives", "convention"), ("mistakes", "fault")):
            for name, outputs in getattr(case, kind).items():
                first = next(word for word in case.expected if word in outputs)
                found = judge(case, {**case.expected, **outputs})
                assert found.verdict == verdict, (case.name, name, first)
                assert found.name in getattr(case, kind)


def test_rounding_is_forgiven_and_more_is_not() -> None:
    case = load("dense/grouped/plain")
    assert judge(case, {"out": case.expected["out"] + case.bounds["out"] / 2}).verdict == "pass"
    found = judge(case, {"out": case.expected["out"] + 3e-9, "lse": case.expected["lse"]})
    assert found[:2] == ("fault", "")
    assert found.detail.startswith("dense/grouped/plain: out is up to 3e-09 from what is expected, where 9")
    assert judge(case, {"out": case.expected["out"] + 3e-9}, within=1e-8).verdict == "pass"


def test_a_wide_allowance_prefers_what_is_expected() -> None:
    case = load("dense/softcap/mask")
    assert judge(case, case.mistakes["capped after the mask"], within=100.0).verdict == "pass"


def test_what_is_not_a_number_is_compared() -> None:
    case = load("dense/empty-row/one")
    assert judge(case, case.alternatives["NaN"])[:2] == ("convention", "NaN")
    poisoned = np.full_like(case.expected["out"], np.nan)
    assert judge(case, {"out": poisoned})[:2] == ("fault", "")
    assert (
        judge(case, {"lse": np.where(np.isinf(case.expected["lse"]), np.inf, case.expected["lse"])}).verdict == "fault"
    )


def test_another_shape_is_a_fault() -> None:
    case = load("dense/grouped/plain")
    assert judge(case, {"out": case.expected["out"].swapaxes(1, 2)}).verdict == "fault"


def test_an_invalid_call_that_was_answered_is_a_fault() -> None:
    (case, *_) = cases(result="invalid")
    assert judge(case, {})[:2] == ("fault", "not refused")


@pytest.mark.parametrize(("found", "words"), [({}, "got nothing"), ({"logits": 0.0}, "got logits")])
def test_outputs_must_be_those_of_the_case(found: dict[str, float], words: str) -> None:
    with pytest.raises(ArgumentError, match=f"found must hold some of out, lse, {words}"):
        judge(load("dense/grouped/plain"), found)


def test_each_element_may_have_its_own_room() -> None:
    case = load("dense/softcap/mask")
    out, room = case.expected["out"].copy(), np.full(case.expected["out"].shape, 1e-9)
    out[0, 1, 2, 3] += 1e-4
    assert judge(case, {"out": out}, within={"out": room}).detail.endswith(
        "0.0001 from what is expected, where 1e-09 is allowed"
    )
    room[0, 1, 2, 3] = 2e-4
    assert judge(case, {"out": out}, within={"out": room}).verdict == "pass"
    assert judge(case, {"out": out[::-1, ::-1]}, within={"out": room}).verdict == "fault"
    mistaken = case.mistakes["capped after the mask"]
    assert judge(case, mistaken, within={"out": room, "lse": 1e-9}).name == "capped after the mask"
    with pytest.raises(ArgumentError, match="within must hold lse, got out"):
        judge(case, case.expected, within={"out": room})
    with pytest.raises(ArgumentError, match=r"within of out must have its shape \(1, 4, 3, 7\), got \(7,\)"):
        judge(case, {"out": out}, within={"out": np.ones(7)})


def test_an_infinite_room_lets_no_nan_in() -> None:
    case = load("dense/grouped/plain")
    assert judge(case, {"out": np.full_like(case.expected["out"], np.nan)}, within={"out": np.inf}).verdict == "fault"
