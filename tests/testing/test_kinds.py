"""The kind of a target is told by its signature, from a callable and from a name."""

import json
from pathlib import Path
from typing import Any

import pytest

from kvattn.cli import main
from kvattn.errors import ArgumentError
from kvattn.positions import Rotary
from kvattn.testing import check, kinds
from kvattn.testing.layer_targets import LayerTarget
from kvattn.testing.planted import Planted
from kvattn.testing.planted_layer import PlantedLayer
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_targets import RotaryTarget
from kvattn.testing.targets import Target

MODULE = """
from kvattn.positions import Rotary
from kvattn.testing.planted_layer import PlantedLayer
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_targets import RotaryTarget

def attend(q, k, v): return v
def flops(*, query_heads, queries, keys, width, causal=False): return 4 * query_heads * queries * keys * width
def rotate(x, positions): return PlantedRotation(base=500000.0).alone(x, positions)
def layer(x, *, w_q, w_k, w_v, w_o, heads, kv_heads):
    return PlantedLayer()(x, w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, heads=heads, kv_heads=kv_heads)
declared = RotaryTarget("declared", rotate, Rotary.of(8), width=8)
def other(a): return a
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "kinds_for_a_test.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "kinds_for_a_test"


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        (Planted(), Target),
        (PlantedRotation(), RotaryTarget),
        (PlantedRotation().alone, RotaryTarget),
        (Rotary.of(8).rotate, RotaryTarget),
        (PlantedLayer(), LayerTarget),
        (PlantedLayer().cached, LayerTarget),
    ],
)
def test_kinds_are_told_apart(thing: Any, kind: type) -> None:
    assert type(kinds.target_for(thing)) is kind


def test_names_lead_to_every_kind(module: str) -> None:
    found = {
        name: type(kinds.load(f"{module}:{name}")).__name__
        for name in ("attend", "rotate", "layer", "declared", "flops")
    }
    assert found == {
        "attend": "Target",
        "rotate": "RotaryTarget",
        "layer": "LayerTarget",
        "declared": "RotaryTarget",
        "flops": "CounterTarget",
    }
    with pytest.raises(ArgumentError, match=r"target must be of a known kind, got \(a\)"):
        kinds.load(f"{module}:other")


def test_a_check_of_a_name_prints_a_line_that_runs(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = check(f"{module}:rotate", cases=4)
    assert report.verdict == "convention"
    exec(report.findings[0].reproduce)  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted
    assert check(f"{module}:declared", cases=4).verdict == "fault"


def test_a_report_of_a_layer_has_the_form_of_every_report(module: str) -> None:
    report = check(f"{module}:layer", cases=4)
    assert report.verdict == "pass"
    assert report.features == ("heads", "kv_heads", "w_k", "w_o", "w_q", "w_v")
    assert report.as_dict()["drawn"]["cases"] == 4
    assert str(report).startswith("kinds_for_a_test:layer: pass\n")


def test_a_test_file_is_written_for_attention_alone(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:rotate", "--write-test"]) == 2
    assert (
        "--write-test needs attention, f(q, k, v, …), got a rotation, a layer or a counter" in capsys.readouterr().err
    )


def test_the_command_takes_a_layer(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:layer", "--cases", "3"]) == 0
    assert capsys.readouterr().out.startswith("kinds_for_a_test:layer: pass\n")


def test_the_command_takes_a_counter(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{module}:flops", "--cases", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["findings"][0]["class"] == "flop-count"
    assert report["findings"][0]["reproduce"].startswith("from kinds_for_a_test import flops as f; print(f(")
    assert main(["check", f"{module}:flops", "--write-test"]) == 2
