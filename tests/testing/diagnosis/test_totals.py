"""Sinks and the log-sum-exp: what enters, how often, in which base."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.testing import check
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.totals import read_lse, read_own_sink, read_sinks
from kvattn.testing.formats import FORMATS
from kvattn.testing.planted import Mutant, Planted
from kvattn.testing.planted.sums import SINKS
from kvattn.testing.planted.wrapped import OwnSink
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import named


@pytest.mark.parametrize(("factor", "count"), [(1.0, 2), (0.3, 1), (-1.0, 1), (0.5, 3)])
def test_factor_and_count_of_a_sink_are_fitted(factor: float, count: int) -> None:
    lab = Lab(planted(sink_factor=factor, sink_count=count))
    read_sinks(lab)
    assert lab.findings[0].parameters == {"factor": pytest.approx(factor), "count": pytest.approx(count)}


def gated(base: float) -> Lab:
    def function(q: Any, k: Any, v: Any, *, sinks: Any = None) -> Any:
        out, lse = Planted()(q, k, v)
        return out if sinks is None else out / (1 + np.exp(sinks[:, None] - lse / np.log(base)))[..., None]

    return Lab(target_of(function))


def test_the_sigmoid_form_is_right_with_a_natural_lse_and_named_with_a_base_2_one() -> None:
    lab = gated(np.e)
    read_sinks(lab)
    assert lab.findings == []
    lab = gated(2)
    read_sinks(lab)
    assert lab.findings[0].parameters == {"form": "sigmoid(lse - sink)", "base": 2}


def test_sinks_of_other_heads_are_described() -> None:
    def turned(q: Any, k: Any, v: Any, *, sinks: Any = None) -> Any:
        return Planted(returns_lse=False)(q, k, v, sinks=None if sinks is None else sinks[::-1])

    lab = Lab(target_of(turned))
    read_sinks(lab)
    assert len(lab.findings[0].parameters["read"]) == 6


def test_a_sink_with_a_value_breaks_the_sum() -> None:
    def valued(q: Any, k: Any, v: Any, *, sinks: Any = None) -> Any:
        return Planted(returns_lse=False)(q, k, v, sinks=sinks) + (0 if sinks is None else 0.1)

    lab = Lab(target_of(valued))
    read_sinks(lab)
    assert lab.findings[0].parameters["row_sum"] > 1


def lse_of(change: Any) -> Lab:
    def function(q: Any, k: Any, v: Any) -> Any:
        out, lse = Planted()(q, k, v)
        score = q @ np.repeat(k, q.shape[1] // k.shape[1], 1).swapaxes(2, 3) / q.shape[3] ** 0.5
        return out, change(lse, score.max(-1))

    return Lab(target_of(function))


@pytest.mark.parametrize(
    ("change", "parameters"),
    [
        (lambda lse, top: lse / np.log(2), {"base": 2, "factor": 1.442695}),
        (lambda lse, top: lse - top, {"content": "log of the sum without the maximum"}),
        (lambda lse, top: top, {"content": "the maximum alone"}),
        (lambda lse, top: np.exp(lse), {"content": "the sum, not its logarithm"}),
        (lambda lse, top: -lse, {"content": "negated"}),
    ],
)
def test_the_content_of_the_lse_is_named(change: Any, parameters: dict[str, Any]) -> None:
    lab = lse_of(change)
    read_lse(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters) == ("lse-merge", parameters)


def test_an_lse_of_something_else_is_described() -> None:
    lab = lse_of(lambda lse, top: lse + top**2)
    read_lse(lab)
    assert len(lab.findings[0].parameters["read"]) == 3


def test_an_lse_without_the_sinks_is_named() -> None:
    def function(q: Any, k: Any, v: Any, *, sinks: Any = None) -> Any:
        return Planted()(q, k, v, sinks=sinks)[0], Planted()(q, k, v)[1]

    lab = Lab(target_of(function))
    read_lse(lab)
    assert lab.findings[0].parameters == {"in_lse": False}
    assert not lab.behaviour.sink_in_lse


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in SINKS if mutant.parameters.get("always")], ids=lambda mutant: mutant.name
)
def test_a_sink_that_stands_in_every_call_is_named(mutant: Mutant) -> None:
    assert named(mutant, read_own_sink)


def test_one_in_the_denominator_after_the_maximum_is_another_mistake_than_softmax_one() -> None:
    def late(q: Any, k: Any, v: Any) -> Any:
        group = q.shape[1] // k.shape[1]
        s = np.einsum("bhtd,bhsd->bhts", q, np.repeat(k, group, 1)) / np.sqrt(q.shape[3])
        e = np.exp(s - s.max(-1, keepdims=True))
        return e / (1 + e.sum(-1, keepdims=True)) @ np.repeat(v, group, 1)

    lab = Lab(target_of(late))
    assert read_own_sink(lab)
    assert lab.findings[0].parameters == {"always": True, "logit": "the row's largest score"}


def test_rows_that_sum_to_something_else_have_no_sink() -> None:
    for target in (planted(), target_of(lambda q, k, v: 0.9 * Planted(returns_lse=False)(q, k, v))):
        lab = Lab(target)
        assert not read_own_sink(lab)
        assert lab.findings == []


def test_softmax_one_is_a_convention_where_it_is_declared() -> None:
    for logit, verdict in ((0.0, "convention"), (0.3, "fault")):
        target = replace(target_of(OwnSink(logit)), conventions=frozenset({"sink"}))
        assert check(target, cases=0).verdict == verdict


def padded(tile: int) -> Any:
    def function(q: Any, k: Any, v: Any) -> Any:
        fill = [(0, 0), (0, 0), (0, -k.shape[2] % tile), (0, 0)]
        return Planted()(q, np.pad(k, fill), np.pad(v, fill))

    return function


@pytest.mark.parametrize("tile", [8, 16, 32, 128])
def test_zero_keys_that_fill_a_tile_are_no_sink(tile: int) -> None:
    """At 7 keys one zero key looks like softmax_one, and 25 like a logit of 3.2."""
    lab = Lab(target_of(padded(tile)))
    assert read_own_sink(lab)
    assert lab.findings[0].fault_class == "tile-tail"
    assert lab.findings[0].parameters == {"axis": "keys", "tile": tile, "tail": "zero keys are seen"}


@pytest.mark.parametrize("logit", [0.0, float(np.log(25)), float(np.log(9))])
def test_a_sink_that_weighs_as_much_as_whole_keys_is_still_a_sink(logit: float) -> None:
    lab = Lab(target_of(OwnSink(logit)))
    assert read_own_sink(lab)
    assert lab.findings[0].fault_class == "sink"


def test_few_bits_do_not_make_a_tile_of_a_sink() -> None:
    lab = Lab(target_of(OwnSink(0.0)), dtype="float16")
    assert read_own_sink(lab)
    assert lab.findings[0].fault_class == "sink"


def test_sinks_that_are_scaled_as_scores_are_named_and_leave_nothing_else_to_find() -> None:
    def scaled(q: Any, k: Any, v: Any, *, sinks: Any = None) -> Any:
        return Planted()(q, k, v, sinks=None if sinks is None else sinks / q.shape[3] ** 0.5)

    report = check(scaled, cases=8)
    assert [finding.parameters.get("rule") for finding in report.findings] == ["the scale"]


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_an_lse_in_few_bits_is_named_by_its_format(name: str) -> None:
    lab = lse_of(lambda lse, top: FORMATS[name].round(lse))
    read_lse(lab)
    assert [finding.parameters for finding in lab.findings] == [{"content": f"rounded to {name}"}]
