"""Every mistake that a check can meet has a class, and it is the one that the read-outs give to the same fault."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.goldens import judge
from kvattn.goldens.mistakes import CLASSES
from kvattn.testing.diagnosis import (
    bends,
    documents,
    heads,
    masks,
    padding,
    positions,
    regions,
    sight,
    slopes,
    totals,
    weights,
)
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.fault_classes import FAULT_CLASSES
from kvattn.testing.recorded import read_recorded
from kvattn.testing.recorded_calls import recorded_calls, recorded_cases


def test_every_mistake_of_a_case_that_a_check_gives_has_a_class() -> None:
    mistakes = {name for case in recorded_calls() for name in recorded_cases()[case].mistakes}
    assert mistakes == CLASSES.keys()
    assert {*CLASSES.values()} <= FAULT_CLASSES.keys()


@pytest.mark.parametrize("name", sorted(recorded_calls()))
def test_a_mistake_is_told_from_what_is_right_and_from_other_classes(name: str) -> None:
    case = recorded_cases()[name]
    for mistake, outputs in case.mistakes.items():
        judgement = judge(case, {**case.expected, **outputs})
        assert judgement.verdict == "fault"
        assert CLASSES[judgement.name] == CLASSES[mistake]


SAME: list[tuple[str, Callable[[Lab], Any], dict[str, Any]]] = [
    ("key/value heads tiled", heads.read_heads, {"head_map": "h % Hkv"}),
    ("a log to base 2", totals.read_lse, {"log_base": 2}),
    ("1/sqrt(D) all the same", weights.read_given_scale, {"ignore": ("scale",)}),
    ("no bias", bends.read_bias, {"ignore": ("bias",)}),
    ("the bias is scaled too", bends.read_bias, {"bias_place": "before scale"}),
    ("the bias is capped too", bends.read_bias, {"bias_place": "before cap"}),
    ("no cap", bends.read_softcap, {"ignore": ("softcap",)}),
    ("capped after the mask", sight.read_together, {"cap_last": True}),
    ("no sink", totals.read_sinks, {"ignore": ("sinks",)}),
    ("the sink counted twice", totals.read_sinks, {"sink_count": 2}),
    ("no mask at all", sight.read_causal, {"ignore": ("causal",)}),
    ("aligned to the top left", sight.read_causal, {"anchor": "top_left"}),
    ("a query does not see its own key", sight.read_causal, {"shift": -1}),
    ("True means hidden", masks.read_mask, {"mask_reads": "blocked"}),
    ("causal alone", sight.read_together, {"lost": {"mask": "causal"}}),
    ("the array alone", sight.read_together, {"lost": {"causal": "mask is not None"}}),
    ("no window", sight.read_window, {"ignore": ("window",)}),
    ("W keys beside self", sight.read_window, {"extra_keys": 1}),
    ("the prefix is causal", regions.read_prefix, {"ignore": ("prefix",)}),
    ("a prefix of one more", regions.read_prefix, {"formulas": {"prefix": "before | (j <= p)"}}),
    ("a causal window", regions.read_ahead, {"formulas": {"ahead": "j - i <= 0"}}),
    ("documents are ignored", documents.read_segments, {"ignore": ("segments",)}),
    ("padding is seen", padding.read_starts, {"ignore": ("starts",)}),
    ("rows taken for positions", positions.read_positions, {"ignore": ("q_positions", "k_positions")}),
    ("no slopes", slopes.read_alibi_slopes, {"ignore": ("alibi_slopes",)}),
]


@pytest.mark.parametrize(("mistake", "read", "ways"), SAME, ids=[mistake for mistake, _, _ in SAME])
def test_a_read_out_gives_the_same_fault_the_same_class(
    mistake: str, read: Callable[[Lab], Any], ways: dict[str, Any]
) -> None:
    lab = Lab(planted(**ways))
    with np.errstate(all="ignore"):
        read(lab)
    assert lab.findings[0].fault_class == CLASSES[mistake], lab.findings


def test_a_check_reports_it_under_its_class() -> None:
    lab = Lab(planted(ignore=("segments",)))
    read_recorded(lab)
    told = {(finding.fault_class, finding.parameters["mistake"]) for finding in lab.findings}
    assert ("varlen", "documents are ignored") in told
    assert {fault_class for fault_class, mistake in told if not mistake} <= {"unclassified"}
