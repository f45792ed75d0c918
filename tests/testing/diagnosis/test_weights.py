"""The scale is read from log weights; scores that are no line of q·k are said to be none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.testing.checking import check
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.weights import read_given_scale, read_weights
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of


@pytest.mark.parametrize("rule", ["1", "1 / D", "1 / sqrt(Hkv * D)", "1 / sqrt(T)", "1 / sqrt(D + 1)", "D ** -0.25"])
def test_the_default_scale_is_named(rule: str) -> None:
    lab = Lab(planted(scale=rule))
    read_weights(lab)
    (finding,) = lab.findings
    assert (finding.fault_class, finding.parameters["rule"]) == ("scale", rule)
    assert lab.behaviour.scale == rule


def test_keys_that_are_tiled_alone_are_told_from_values() -> None:
    def tiled(q: Any, k: Any, v: Any) -> Any:
        group = q.shape[1] // k.shape[1]
        return Planted(returns_lse=False)(q, np.tile(k, (1, group, 1, 1)), np.repeat(v, group, 1))

    lab = Lab(target_of(tiled))
    read_weights(lab)
    assert lab.findings[0].parameters == {"map": "h % Hkv", "of": "k", "read": [0, 1] * 4}


def test_normalised_queries_and_keys_are_no_line() -> None:
    def unit(x: Any) -> Any:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    lab = Lab(target_of(lambda q, k, v: Planted(returns_lse=False)(unit(q), unit(k), v)))
    with np.errstate(invalid="ignore"):
        read_weights(lab)
    assert "no linear function of q·k" in lab.findings[0].detail
    assert lab.stopped


def test_a_causal_default_is_seen_without_asking_for_it() -> None:
    lab = Lab(target_of(lambda q, k, v: Planted(returns_lse=False)(q, k, v, causal=True)))
    read_weights(lab)
    (finding,) = lab.findings
    assert finding.fault_class == "mask-dropped"
    assert finding.parameters["argument"] == "causal"


@pytest.mark.parametrize(
    ("used", "formula"),
    [
        ("ignored", lambda s, d: None),
        ("scale / sqrt(D)", lambda s, d: s and s / d**0.5),
        ("1 / scale", lambda s, d: s and 1 / s),
        ("other", lambda s, d: s and s**3),
    ],
)
def test_what_a_given_scale_does_is_named(used: str, formula: Any) -> None:
    def scaled(q: Any, k: Any, v: Any, *, scale: float | None = None) -> Any:
        return Planted(returns_lse=False)(q, k, v, scale=formula(scale, q.shape[3]))

    lab = Lab(target_of(scaled))
    read_given_scale(lab)
    assert lab.findings[0].parameters["used"] == used


def test_a_scale_of_zero_is_a_scale() -> None:
    def falsy(q: Any, k: Any, v: Any, *, scale: float | None = None) -> Any:
        return Planted(returns_lse=False)(q, k, v, scale=scale or None)

    lab = Lab(target_of(falsy))
    read_given_scale(lab)
    assert lab.findings[0].parameters == {"argument": "scale", "given": 0.0, "used": "ignored"}


def test_a_scale_of_the_value_width_is_named_and_no_drawn_case_needs_it() -> None:
    target = target_of(Planted(scale="1 / sqrt(Dv)", returns_lse=False))
    report = check(replace(target, features=frozenset({"causal", "scale"})), cases=8)
    assert [(f.fault_class, f.parameters["rule"]) for f in report.findings] == [("scale", "1 / sqrt(Dv)")]


def test_values_as_wide_as_the_keys_are_drawn_where_no_others_are_taken() -> None:
    def narrow(q: Any, k: Any, v: Any) -> Any:
        if q.shape[3] != v.shape[3]:
            raise ValueError("one width, please")
        return Planted(returns_lse=False)(q, k, v)

    report = check(narrow, cases=8)
    assert report.verdict == "pass"
    assert "Values that are not as wide as the keys are refused: ValueError: one width, please" in report.notes
