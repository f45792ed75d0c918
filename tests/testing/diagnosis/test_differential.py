"""Drawn cases mix options, stand at boundaries, and are the same for the same seed."""

from collections import Counter
from typing import Any

import numpy as np

from kvattn.testing import check
from kvattn.testing.diagnosis.differential import draw, read_drawn
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.keywords import KEYWORDS, fed, whole
from kvattn.testing.narrowed import Narrowed
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of


def test_drawn_cases_mix_options_and_stand_at_boundaries() -> None:
    cases = list(draw(Lab(planted()), 600))
    assert cases == list(draw(Lab(planted()), 600))
    assert cases != list(draw(Lab(planted(), seed=1), 600))
    assert all(len(case.options) >= 2 for case in cases)
    pairs = Counter((a, b) for case in cases for a, _ in case.options for b, _ in case.options if a < b)
    together = {(a, b) for a in KEYWORDS for b in KEYWORDS if a < b and whole(fed([a, b], KEYWORDS))}
    assert set(pairs) == together
    assert {case.sizes.S - tile for case in cases for tile in (16, 32, 64, 128)} >= {-1, 0, 1}
    assert any(case.sizes.T < case.sizes.S for case in cases)
    assert all(case.sizes.T <= case.sizes.S for case in cases)
    for case in cases:
        names = [name for name, _ in case.options]
        assert whole(names)


def test_what_is_set_aside_is_not_drawn() -> None:
    lab = Lab(planted())
    lab.set_aside("bias", "softcap")
    lab.apart.add(frozenset({"mask", "sinks"}))
    for case in draw(lab, 60):
        names = {name for name, _ in case.options}
        assert not names & {"bias", "softcap"}
        assert not names >= {"mask", "sinks"}


def test_a_fault_is_not_told_twice_in_other_words() -> None:
    lab = Lab(planted(shift=1))
    read_drawn(lab, 40)
    assert len({str(finding.parameters) for finding in lab.findings}) == len(lab.findings)
    assert any(finding.parameters.get("shift") == 1 for finding in lab.findings)


def test_a_wrong_lse_is_not_described_by_weights_that_are_right() -> None:
    def off(q: Any, k: Any, v: Any, *, causal: bool = False) -> Any:
        out, lse = Planted()(q, k, v, causal=causal)
        return out, lse + (0.1 if q.shape[2] == 1 and q.shape[0] == 2 else 0.0)

    lab = Lab(target_of(off))
    read_drawn(lab, 40)
    (finding,) = lab.findings
    assert finding.detail.startswith("lse[")
    assert "log_weight_off_by" not in finding.parameters


def test_a_slot_that_is_right_in_pages_of_a_power_of_two_alone_is_found() -> None:
    right = Planted()

    def by_bits(q: Any, k: Any, v: Any, *, lengths: Any = None, block_table: Any = None) -> Any:
        if block_table is not None:
            page = k.shape[2]
            s = np.arange(block_table.shape[1] * page)
            k, v = (x[block_table[:, s // page], :, (s & (page - 1))[None]].swapaxes(1, 2) for x in (k, v))
        return right(q, k, v, lengths=lengths)

    lab = Lab(target_of(by_bits))
    read_drawn(lab, 40)
    (finding,) = lab.findings
    assert finding.fault_class == "paged-table"
    assert finding.parameters["page"] in {3, 7}
    assert f"lengths, {finding.parameters['page']})" in finding.reproduce


def test_a_case_that_is_wrong_once_is_named_and_does_not_stop_the_check() -> None:
    calls = []

    def hiccup(q: Any, k: Any, v: Any) -> Any:
        calls.append(1)
        out, _ = Planted()(q, k, v)
        return out + (len(calls) == 3)

    lab = Lab(target_of(hiccup))
    margin = read_drawn(lab, 6)
    assert margin.worst > 1
    assert [(finding.fault_class, finding.parameters["property"]) for finding in lab.findings] == [
        ("stale-state", "calls")
    ]
    assert "the same call again is not" in lab.findings[0].detail


def test_what_is_as_near_as_what_is_known_explains_nothing() -> None:
    """A log-sum-exp off by a fortieth, in float16, was once read as the scale 1 / sqrt(Hq), of 9 heads of width 8."""

    def off(q: Any, k: Any, v: Any) -> Any:
        out, lse = Planted()(q, k, v)
        return out, lse * 1.025

    report = check(Narrowed(off, "float16"), dtype="float16", cases=8)
    assert report.verdict == "fault"
    assert "scale" not in {finding.fault_class for finding in report.findings}
