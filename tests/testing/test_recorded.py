"""Recorded cases in a check: what they alone find, what the read-outs explain, and what a slow target is spared."""

from collections.abc import Callable
import time
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check, checking
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.planted import Planted
from kvattn.testing.recorded import Given, read_recorded, spread
from kvattn.testing.recorded_calls import recorded_calls, recorded_cases
from kvattn.testing.targets import target_of

Arrays = Any
RIGHT = Planted()


def wrong_at_one_width(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
    out, lse = RIGHT(q, k, v)
    return out * (1.01 if q.shape[2:] == (2, 15) else 1), lse


def slopes_without_a_sign(
    q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, alibi_slopes: Arrays = None
) -> Arrays:
    return RIGHT(q, k, v, causal=causal, alibi_slopes=None if alibi_slopes is None else np.abs(alibi_slopes))


def plain(ways: dict[str, Any]) -> Callable[..., Any]:
    """The planted attention with the keywords of the plain contract."""
    function = Planted(**ways)

    def attend(
        q: Arrays,
        k: Arrays,
        v: Arrays,
        *,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        sinks: Arrays = None,
        bias: Arrays = None,
        mask: Arrays = None,
    ) -> Arrays:
        more = {"scale": scale, "softcap": softcap, "sinks": sinks, "bias": bias, "mask": mask}
        return function(q, k, v, causal=causal, window=window, **more)

    return attend


def sinks_that_always_count(q: Arrays, k: Arrays, v: Arrays, *, sinks: Arrays = None) -> Arrays:
    return RIGHT(q, k, v, sinks=None if sinks is None else np.maximum(sinks, -5))


ALONE: list[tuple[Callable[..., Any], str]] = [
    (wrong_at_one_width, "dense/grouped/width-15"),
    (slopes_without_a_sign, "dense/slopes/negative"),
    (sinks_that_always_count, "dense/sinks/feeble"),
]


@pytest.mark.parametrize(("function", "name"), ALONE, ids=lambda x: getattr(x, "__name__", ""))
def test_what_no_drawn_case_has_is_found_and_shown(
    function: Callable[..., Any], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check(function, cases=8)
    (finding,) = report.findings
    assert (finding.fault_class, finding.kind) == ("unclassified", "fault")
    assert finding.parameters["golden"] == name
    assert finding.detail.startswith(f"Recorded case {name}: ")
    assert recorded_cases()[name].comment in finding.detail
    assert report.recorded is not None
    assert report.recorded.failed == (name, *finding.parameters["others"])
    exec(finding.reproduce, {"f": function})  # noqa: S102 - that it runs is what is tested
    got, _, expected = capsys.readouterr().out.partition("expected")
    assert got.strip() != expected.strip()


def test_a_known_mistake_is_named_with_where_it_happened() -> None:
    def capped_last(q: Arrays, k: Arrays, v: Arrays, *, softcap: float | None = None, mask: Arrays = None) -> Arrays:
        if softcap != 1.5 or mask is None:
            return RIGHT(q, k, v, softcap=softcap, mask=mask)
        k, v = (np.repeat(x, q.shape[1] // k.shape[1], 1) for x in (k, v))
        scores = np.where(mask, q @ k.swapaxes(2, 3) * q.shape[3] ** -0.5, -np.inf)
        weights = np.exp(softcap * np.tanh(scores / softcap))
        return weights @ v / weights.sum(-1, keepdims=True), np.log(weights.sum(-1))

    lab = Lab(target_of(capped_last))
    assert read_recorded(lab).failed == ("dense/softcap/mask",)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters["mistake"]) == ("softcap", "capped after the mask")
    assert finding.parameters["flags"] == ["OnnxSoftcapAfterMask"]
    assert "See OnnxSoftcapAfterMask: https://github.com/onnx/onnx/pull/7867." in finding.detail


@pytest.mark.parametrize(
    "ways",
    [
        {},
        {"anchor": "top_left", "empty": "nan", "guard_values": False},
        {"extra_keys": 1, "log_base": 2},
        {"empty": "mean"},
    ],
    ids=str,
)
def test_what_the_read_outs_have_found_is_not_told_again(ways: dict[str, Any]) -> None:
    report = check(plain(ways), cases=1)
    assert (report.verdict == "pass") == (not ways)
    assert report.recorded is not None
    assert report.recorded.cases > 90
    assert report.recorded.failed == ()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fewer_bits_are_judged_by_their_own_bounds(dtype: str) -> None:
    report = check(plain({}), cases=1, dtype=dtype)
    assert report.findings == ()
    assert report.recorded is not None
    assert report.recorded.cases > 110


def test_a_fault_of_the_same_keywords_makes_it_a_note() -> None:
    def off(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, bias: Arrays = None) -> Arrays:
        out, lse = RIGHT(q, k, v, causal=causal, bias=bias)
        return out * (1.01 if causal and bias is not None else 1), lse

    report = check(off, cases=8)
    assert all("golden" not in finding.parameters for finding in report.findings)
    assert report.recorded is not None
    assert report.recorded.failed == ("dense/bias/causal",)
    assert "Recorded cases that what was found may explain: dense/bias/causal" in report.notes
    assert "1 not as they should be" in str(report)
    assert report.as_dict()["recorded"]["failed"] == ["dense/bias/causal"]


def test_a_slow_target_gets_as_many_as_are_drawn() -> None:
    def slow(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
        return RIGHT(q, k, v, causal=causal)

    everything = read_recorded(Lab(target_of(slow)))
    slow.slow = True  # type: ignore[attr-defined]
    report = check(slow, cases=5)
    few = report.recorded
    assert few is not None
    assert (few.cases, len(few.left), everything.left) == (5, everything.cases - 5, ())
    told = f"Calls are slow: 5 of {everything.cases} recorded cases were given, some of each set of keywords; --cases "
    assert f"{told}{everything.cases} gives all" in report.notes
    assert report.as_dict()["slow"]
    assert report.as_dict()["recorded"]["leftOut"] == [*few.left]
    assert read_recorded(Lab(target_of(slow)), everything.cases) == everything


def test_what_a_target_says_of_its_speed_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "SLOW", 0.0)  # nothing is as fast

    def attend(q: Arrays, k: Arrays, v: Arrays, *, scale: float | None = None) -> Arrays:
        return RIGHT(q, k, v, scale=scale)

    assert check(attend, cases=0).slow
    attend.slow = False  # type: ignore[attr-defined]
    assert not check(attend, cases=0).slow


def test_the_speed_is_that_of_the_target_and_not_that_of_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    read: Any = checking._STEPS[0]
    waits = []

    def idle(lab: Lab) -> None:
        waits.append(0.8)
        time.sleep(waits[-1])
        read[2](lab)

    monkeypatch.setattr(checking, "SLOW", 0.01)
    monkeypatch.setattr(checking, "_STEPS", ((*read[:2], idle), *checking._STEPS[1:]))
    assert not check(plain({}), cases=0).slow
    assert waits


def test_a_slow_target_gets_some_of_each_set_of_keywords() -> None:
    recipes = [*recorded_calls().values()]
    sets = {tuple(name for name, _ in recipe.options) for recipe in recipes}
    few = spread(recipes, len(sets))
    assert {tuple(name for name, _ in recipe.options) for recipe in few} == sets
    assert few == [recipe for recipe in recipes if recipe in few]
    mistakes = {name for recipe in recipes for name in recorded_cases()[recipe.name].mistakes}
    shown = {name for recipe in few for name in recorded_cases()[recipe.name].mistakes}
    assert len(shown) > len(mistakes) / 2
    assert spread(recipes, len(recipes)) == spread(recipes, 10**6) == recipes


def test_values_may_have_to_be_as_wide_as_keys() -> None:
    def same(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
        if v.shape[3] != q.shape[3]:
            raise ValueError("as wide as the keys")
        out, lse = RIGHT(q, k, v)
        return out * (1.01 if q.shape[3] == 17 else 1), lse

    report = check(same, cases=4)
    assert report.recorded is not None
    assert report.recorded.cases > 40
    assert report.recorded.failed == ("dense/grouped/width-17",)


def test_a_refusal_is_a_note() -> None:
    def positive(q: Arrays, k: Arrays, v: Arrays, *, scale: float | None = None) -> Arrays:
        if scale is not None and scale < 0:
            raise ValueError("no such scale")
        return RIGHT(q, k, v, scale=scale)

    lab = Lab(target_of(positive))
    assert read_recorded(lab).failed == ()
    assert lab.findings == []
    assert lab.notes == ["Recorded cases that it refuses: dense/scale/negative (ValueError: no such scale)"]


def test_without_drawn_cases_there_are_no_recorded_ones() -> None:
    assert check(plain({}), cases=0).recorded is None


def test_all_that_the_contract_has_are_given() -> None:
    assert read_recorded(Lab(planted())) == Given(len(recorded_calls()), ())
