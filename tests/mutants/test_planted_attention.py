"""Faults planted in one NumPy attention: each is named, fitted and reproduced by the line that the finding prints.

CI runs the first of each class and every fifth of all, half of them in float32, and one through the command;
``KVATTN_PROFILE=deep`` runs all in float64 and in float32, and ten through the command.
"""

import contextlib
from dataclasses import replace
import io
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from kvattn.testing import Finding, check
from kvattn.testing.keywords import PLAIN
from kvattn.testing.planted import Planted
from kvattn.testing.targets import Target, target_of

CASES: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    # causal anchored at the wrong corner, or one off
    ({"anchor": "top_left"}, "causal-align", {"anchor": "top_left", "shift": 0}),
    ({"shift": 1}, "causal-align", {"anchor": "bottom_right", "shift": 1}),
    ({"shift": -1}, "causal-align", {"anchor": "bottom_right", "shift": -1}),
    ({"anchor": "top_left", "shift": -1}, "causal-align", {"anchor": "top_left", "shift": -1}),
    # window
    ({"extra_keys": 1}, "window-off-by-one", {"extra": 1, "visible_keys": "W + 1"}),
    ({"extra_keys": -1}, "window-off-by-one", {"extra": -1, "visible_keys": "W - 1"}),
    ({"extra_keys": 2}, "window-off-by-one", {"extra": 2}),
    # head map
    ({"head_map": "h % Hkv"}, "gqa-map", {"map": "h % Hkv", "read": [0, 1] * 4}),
    ({"head_map": "min(h // Hkv, Hkv - 1)"}, "gqa-map", {"map": "h // Hkv", "read": [0, 0, 1, 1, 1, 1, 1, 1]}),
    ({"head_map": "0"}, "gqa-map", {"map": "0"}),
    ({"head_map": "(h + 1) // (Hq // Hkv) % Hkv"}, "gqa-map", {"map": "other", "read": [0, 0, 0, 1, 1, 1, 1, 0]}),
    # scale
    ({"scale": "1"}, "scale", {"rule": "1"}),
    ({"scale": "2 / sqrt(D)"}, "scale", {"rule": "2 / sqrt(D)"}),
    ({"scale": "1 / D"}, "scale", {"rule": "1 / D"}),
    ({"scale": "1 / sqrt(Hq * D)"}, "scale", {"rule": "1 / sqrt(Hq * D)"}),
    ({"scale": "1 / sqrt(S)"}, "scale", {"rule": "1 / sqrt(S)"}),
    ({"scale": "sqrt(D)"}, "scale", {"rule": "sqrt(D)"}),
    ({"scale": "0"}, "scale", {"rule": "0"}),
    ({"scale": "1.37 / sqrt(D)"}, "scale", {"rule": "other", "factor": 1.37}),
    # softcap
    ({"cap_last": True}, "softcap", {"place": "after the mask", "with": ["causal"]}),
    ({"cap": "a * c * tanh(x / c)"}, "softcap", {"formula": "a * c * tanh(x / c)"}),
    ({"cap": "s * tanh(s / c)"}, "softcap", {"formula": "s * tanh(s / c)"}),
    ({"cap": "c * tanh(s)"}, "softcap", {"formula": "c * tanh(s)"}),
    ({"cap": "c * s / (c + s * s)"}, "softcap", {"formula": "other"}),
    # mask
    ({"mask_reads": "blocked"}, "mask-polarity", {"true_means": "blocked"}),
    ({"mask_reads": "added"}, "mask-polarity", {"encoding": "added", "true": 1.0}),
    ({"mask_reads": "length"}, "mask-polarity", {"encoding": "length"}),
    # ignored arguments
    ({"ignore": ("causal",)}, "mask-dropped", {"argument": "causal"}),
    ({"ignore": ("window",)}, "mask-dropped", {"argument": "window"}),
    ({"ignore": ("mask",)}, "mask-dropped", {"argument": "mask"}),
    ({"ignore": ("bias",)}, "mask-dropped", {"argument": "bias"}),
    ({"ignore": ("scale",)}, "scale", {"argument": "scale", "used": "ignored"}),
    ({"ignore": ("softcap",)}, "softcap", {"formula": "s", "applied": "not at all"}),
    ({"ignore": ("sinks",)}, "sink", {"count": 0}),
    # masked values
    ({"guard_values": False}, "masked-nan", {"poison": "nan", "of": ["v"]}),
    # rows that see nothing
    ({"empty": "nan"}, "empty-row", {"out": "nan"}),
    ({"empty": "mean"}, "empty-row", {"out": "mean of v"}),
    # log-sum-exp
    ({"log_base": 2}, "lse-merge", {"base": 2, "factor": 1.442695}),
    ({"log_base": 10}, "lse-merge", {"base": 10, "factor": 0.434294}),
    # sinks and bias
    ({"sink_count": 2}, "sink", {"factor": 1.0, "count": 2.0}),
    ({"sink_factor": 0.25}, "sink", {"factor": 0.25, "count": 1.0}),
    ({"bias_factor": -1.0}, "scale", {"argument": "bias", "factor": -1.0}),
    ({"bias_factor": 0.5}, "scale", {"argument": "bias", "factor": 0.5}),
]

TEN = {
    "causal anchored at the wrong corner": ("anchor='top_left'", "causal-align"),
    "window off by one": ("extra_keys=1", "window-off-by-one"),
    "head map tiled": ("head_map='h % Hkv'", "gqa-map"),
    "scale missing": ("scale='1'", "scale"),
    "softcap after mask": ("cap_last=True", "softcap"),
    "mask polarity": ("mask_reads='blocked'", "mask-polarity"),
    "ignored argument": ("ignore=('window',)", "mask-dropped"),
    "masked values leaking": ("guard_values=False", "masked-nan"),
    "empty-row convention": ("empty='nan'", "empty-row"),
    "log-sum-exp base": ("log_base=2", "lse-merge"),
}


def printed(line: str, function: object) -> tuple[Any, Any]:
    """Run a reproduction and return what it got and what it says was expected."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), np.errstate(all="ignore"):
        exec(line, {"f": function})  # noqa: S102 - that it runs is what is tested
    got, _, expected = out.getvalue().partition("expected")
    names = {"nan": np.nan, "inf": np.inf, "np": np}
    return eval(got, names), eval(expected, names)  # noqa: S307 - printed a moment ago


def shows(line: str, function: object) -> bool:
    """Whether a reproduction shows a difference."""
    got, expected = printed(line, function)
    return not np.allclose(got, expected, rtol=0, atol=2e-4)


DEEP = os.environ.get("KVATTN_PROFILE") == "deep"


def chosen() -> list[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """What this profile runs, with the element type before it."""
    if DEEP:
        return [(dtype, *case) for dtype in ("float64", "float32") for case in CASES]
    first = {case[1]: case for case in reversed(CASES)}
    some = [case for n, case in enumerate(CASES) if n % 5 == 0 or first[case[1]] is case]
    return [(("float64", "float32")[n % 2], *case) for n, case in enumerate(some)]


def plain(target: Planted) -> Target:
    """The planted attention with the keywords that most functions take; the zoo has the others."""
    return replace(target_of(target), features=frozenset(PLAIN))


@pytest.mark.parametrize(("dtype", "faults", "fault_class", "parameters"), chosen(), ids=lambda x: str(x)[:60])
def test_each_planted_fault_is_named_once_with_its_parameters(
    faults: dict[str, Any], fault_class: str, parameters: dict[str, Any], dtype: str
) -> None:
    target = Planted(**faults)
    report = check(plain(target), dtype=dtype, cases=12 if DEEP else 6)
    assert report.verdict == "fault"
    assert [finding.fault_class for finding in report.findings] == [fault_class]
    finding = report.findings[0]
    assert finding.kind == "fault"
    read = {name: finding.parameters[name] for name in parameters}
    for name, value in parameters.items():
        assert read[name] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value)
    assert shows(finding.reproduce, target)
    assert not shows(finding.reproduce, Planted())


def test_faults_planted_together_are_all_named() -> None:
    target = Planted(head_map="h % Hkv", scale="1", anchor="top_left", extra_keys=1, log_base=2, sink_count=2)
    findings = check(plain(target), cases=6).findings
    classes = {"gqa-map", "scale", "causal-align", "window-off-by-one", "lse-merge", "sink"}
    assert {finding.fault_class for finding in findings} == classes
    assert len(findings) == len(classes)
    assert all(shows(finding.reproduce, target) for finding in findings)


@pytest.mark.parametrize("name", [*TEN][: 10 if DEEP else 1])
def test_the_command_exits_with_1_and_names_the_fault(name: str, tmp_path: Path) -> None:
    planted, fault_class = TEN[name]
    defaults, given = (", ".join(f"{name}={name if given else None}" for name in PLAIN) for given in (False, True))
    (tmp_path / "mine.py").write_text(
        f"from kvattn.testing.planted import Planted\n"
        f"def f(q, k, v, *, {defaults}):\n    return Planted({planted})(q, k, v, {given})\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "kvattn", "check", "mine:f", "--json", "--cases", "6"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": root, "PATH": ""},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["verdict"] == "fault"
    assert [finding["class"] for finding in found["findings"]] == [fault_class]
    line = found["findings"][0]["reproduce"]
    again = subprocess.run(
        [sys.executable, "-c", line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": root, "PATH": ""},
    )
    assert "expected" in again.stdout


def test_a_reader_can_tell_a_planted_fault_from_none() -> None:
    """The correct one passes, so that what is found above is the plant."""
    assert check(plain(Planted()), cases=12).findings == ()
    assert check(plain(Planted(returns_lse=False)), dtype="float32", cases=12).findings == ()


def test_findings_are_values() -> None:
    finding = Finding("scale", "fault", {"rule": "1"}, "Not scaled.", "f()")
    with pytest.raises(AttributeError):
        finding.kind = "convention"  # type: ignore[misc]
