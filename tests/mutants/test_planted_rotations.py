"""Every rotation with a planted fault is detected and named, with its parameters, in float64 and in float32.

In float32 CI runs every second, ``KVATTN_PROFILE=deep`` all.
What is planted stands in `kvattn.testing.planted_rotation`, written apart from `kvattn.positions`.
"""

from collections.abc import Callable
import os
from typing import Any

import numpy as np
import pytest

from kvattn.positions import (
    DynamicNTK,
    LongRope,
    Rotary,
    linear_rotary,
    llama3_rotary,
    ntk_rotary,
    proportional_rotary,
    yarn_rotary,
)
from kvattn.positions.dynamic_ntk import DynamicNTK as Dynamic
from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.formats import FORMATS
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.looking import look
from kvattn.testing.rotary_targets import RotaryTarget

BF16, FP16 = FORMATS["bfloat16"].round, FORMATS["float16"].round

D = 32
LLAMA3 = llama3_rotary(D, base=500000.0)
WIDE_BAND = llama3_rotary(D, high=32.0)
YARN = yarn_rotary(D, factor=16.0, trained=4096)
LINEAR = linear_rotary(D, factor=4.0)
DYNAMIC = DynamicNTK(D, factor=4.0, trained=512)
SHORT, LONG = tuple(1.0 + 0.05 * k for k in range(D // 2)), tuple(1.0 + 1.5 * k for k in range(D // 2))
LONGROPE = LongRope(SHORT, LONG, trained=512, factor=8.0)
PARTIAL = Rotary.of(D // 2)


def fixed(rotary: Rotary) -> Callable[[int, int], Any]:
    """Frequencies whatever the length."""
    return lambda length, width: rotary.frequencies


def of(scheme: Any, early: int = 0) -> Callable[[int, int], Any]:
    """Frequencies of a scheme at the length, or a little off it."""
    return lambda length, width: scheme.rotary_at(length + early).frequencies


def theta(width: int, base: float = 10000.0) -> Any:
    return base ** -(np.arange(0, width, 2) / width)


def bands(factor: float, trained: int, low: float, high: float, base: float, smooth: bool = True) -> Any:
    """Llama-3's three bands with if and else, as released."""
    out = []
    for frequency in theta(D, base):
        wave = 2 * np.pi / frequency
        if wave < trained / high:
            out.append(frequency)
        elif wave > trained / low:
            out.append(frequency / factor)
        else:
            share = (trained / wave - low) / (high - low) if smooth else 0.0
            out.append((1 - share) * frequency / factor + share * frequency)
    return out


def masks(factor: float, trained: int, low: float, high: float, base: float, swaps: bool = False) -> Any:
    """The same with masks over all pairs, as in transformers; the two terms of the passage exchanged if it swaps."""
    plain = theta(D, base)
    wave = 2 * np.pi / plain
    out = np.where(wave > trained / low, plain / factor, plain)
    share = (trained / wave - low) / (high - low)
    share = 1 - share if swaps else share
    medium = ~(wave < trained / high) & ~(wave > trained / low)
    return np.where(medium, (1 - share) * plain / factor + share * plain, out)


WRONG: dict[str, tuple[dict[str, Any], Any, str, dict[str, Any]]] = {
    # name: planted, expected rotation, class, parameters that the finding must have
    "keys adjacent, queries half": (
        {"layout": "adjacent", "only": "k"},
        None,
        "rope-layout",
        {"queries": "half", "keys": "adjacent"},
    ),
    "queries adjacent, keys half": (
        {"layout": "adjacent", "only": "q"},
        Rotary.of(D),
        "rope-layout",
        {"queries": "adjacent", "keys": "half"},
    ),
    "half pairs, adjacent angles": (
        {"angles": "adjacent"},
        None,
        "rope-layout",
        {"pairs": "half", "angles": "adjacent"},
    ),
    "adjacent pairs, half angles": (
        {"layout": "adjacent", "angles": "half"},
        None,
        "rope-layout",
        {"pairs": "adjacent", "angles": "half"},
    ),
    "keys turn backwards": ({"direction": -1, "only": "k"}, None, "rope-layout", {"direction": -1, "of": "k"}),
    "queries turn backwards": ({"direction": -1, "only": "q"}, None, "rope-layout", {"direction": -1, "of": "q"}),
    "both turn backwards": ({"direction": -1}, Rotary.of(D), "rope-layout", {"direction": -1, "of": "q and k"}),
    "keys not turned": ({"skips": "k"}, None, "rope-missing", {"of": "k"}),
    "queries not turned": ({"skips": "q"}, None, "rope-missing", {"of": "q"}),
    "nothing turned": ({"frequencies": lambda n, w: np.zeros(w // 2)}, None, "rope-missing", {"of": "q and k"}),
    "another base": ({"base": 500000.0}, Rotary.of(D), "rope-scaling", {"scheme": "plain", "base": 500000.0}),
    "base of 1000": ({"base": 1000.0}, Rotary.of(D), "rope-scaling", {"scheme": "plain", "base": 1000.0}),
    "keys of another base": (
        {"base": 1000000.0, "only": "k"},
        None,
        "rope-scaling",
        {"scheme": "plain", "base": 1000000.0, "of": "k"},
    ),
    "all features turn": ({"width": D}, PARTIAL, "rope-partial", {"width": D, "start": 0}),
    "the last features turn": ({"width": 16, "start": -16}, PARTIAL, "rope-partial", {"width": 16, "start": 16}),
    "a quarter and not a half": ({"width": 8}, PARTIAL, "rope-partial", {"width": 8, "start": 0}),
    "exponents over D": ({"width": 16, "exponent": D}, PARTIAL, "rope-partial", {"exponent_width": D}),
    "exponents over half the width": ({"exponent": 16}, Rotary.of(D), "rope-scaling", {"exponent_width": 16}),
    "exponents over the turning share": (
        {"frequencies": lambda n, w: np.concatenate([theta(8), np.zeros(12)])},
        proportional_rotary(D, share=0.25),
        "rope-partial",
        {"exponent_width": 8},
    ),
    "keys from 1": ({"offset": 1, "only": "k"}, None, "rope-offset", {"offset": 1.0, "of": "k"}),
    "queries from -2": ({"offset": -2, "only": "q"}, None, "rope-offset", {"offset": -2.0, "of": "q"}),
    "positions restart": ({"reads": "restart"}, None, "rope-offset", {"positions": "restart"}),
    "keys restart": ({"reads": "restart", "only": "k"}, None, "rope-offset", {"positions": "restart", "of": "k"}),
    "one vector for all rows": ({"reads": "first row"}, None, "rope-offset", {"positions": "first row"}),
    "a run from the first": ({"reads": "from first"}, None, "rope-offset", {"positions": "from first"}),
    "linear dropped": ({}, LINEAR, "rope-scaling", {"scheme": "plain"}),
    "linear the wrong way": (
        {"frequencies": lambda n, w: 4 * theta(w)},
        LINEAR,
        "rope-scaling",
        {"scheme": "linear", "factor": 0.25},
    ),
    "ntk for linear": (
        {"frequencies": lambda n, w: theta(w, 10000.0 * 4 ** (w / (w - 2)))},
        LINEAR,
        "rope-scaling",
        {"scheme": "ntk", "alpha": 4.0},
    ),
    "linear with another factor": (
        {"frequencies": lambda n, w: theta(w) / 8},
        LINEAR,
        "rope-scaling",
        {"scheme": "linear", "factor": 8.0},
    ),
    "Llama-3 computed and dropped": ({"base": 500000.0}, LLAMA3, "rope-scaling", {"scheme": "plain"}),
    "Llama-3 as linear": (
        {"frequencies": lambda n, w: theta(w, 500000.0) / 8},
        LLAMA3,
        "rope-scaling",
        {"scheme": "linear", "factor": 8.0},
    ),
    "Llama-3 without the passage": (
        {"frequencies": lambda n, w: bands(8, 8192, 1, 4, 500000.0, smooth=False)},
        LLAMA3,
        "rope-scaling",
        {"scheme": "Llama-3", "ramp": "none"},
    ),
    "Llama-3 with the terms of the passage exchanged": (
        {"frequencies": lambda n, w: masks(8, 8192, 1, 4, 500000.0, swaps=True)},
        LLAMA3,
        "rope-scaling",
        {"scheme": "Llama-3", "smoothing": "exchanged"},
    ),
    "Llama-3 with the terms of a wide passage exchanged": (
        {"frequencies": lambda n, w: masks(8, 8192, 1, 32, 500000.0, swaps=True)},
        WIDE_BAND,
        "rope-scaling",
        {"scheme": "Llama-3", "smoothing": "exchanged"},
    ),
    "Llama-3's low and high exchanged, in branches": (
        {"frequencies": lambda n, w: bands(8, 8192, 32, 1, 500000.0)},
        WIDE_BAND,
        "rope-scaling",
        {"scheme": "Llama-3", "smoothing": "kept"},
    ),
    "Llama-3's low and high exchanged, in masks": (
        {"frequencies": lambda n, w: masks(8, 8192, 32, 1, 500000.0)},
        WIDE_BAND,
        "rope-scaling",
        {"scheme": "Llama-3", "smoothing": "divided"},
    ),
    "Llama-3 of the new length": (
        {"frequencies": lambda n, w: bands(8, 65536, 1, 4, 500000.0)},
        LLAMA3,
        "rope-scaling",
        {"scheme": "Llama-3", "factor": 8.0, "trained": 65536.0},
    ),
    "Llama-3 with 3.2's factor": (
        {"frequencies": lambda n, w: bands(32, 8192, 1, 4, 500000.0)},
        LLAMA3,
        "rope-scaling",
        {"scheme": "Llama-3", "factor": 32.0, "trained": 8192.0},
    ),
    "Llama-3 of another length": (
        {"frequencies": lambda n, w: bands(8, 131072, 1, 4, 500000.0)},
        LLAMA3,
        "rope-scaling",
        {"scheme": "Llama-3", "factor": 8.0, "trained": 131072.0},
    ),
    "YaRN dropped": ({"magnitude": YARN.magnitude}, YARN, "rope-scaling", {"scheme": "plain"}),
    "YaRN reversed": (
        {
            "frequencies": lambda n, w: theta(w) * (1 + 1 / 16) - np.array(YARN.frequencies),
            "magnitude": YARN.magnitude,
        },
        YARN,
        "rope-scaling",
        {"scheme": "YaRN", "ramp": "reversed"},
    ),
    "YaRN with another factor": (
        {"frequencies": fixed(yarn_rotary(D, factor=4.0, trained=4096)), "magnitude": YARN.magnitude},
        YARN,
        "rope-scaling",
        {"scheme": "YaRN", "factor": 4.0},
    ),
    "YaRN not rounded to whole pairs": (
        {"frequencies": fixed(yarn_rotary(D, factor=16.0, trained=4096, truncate=False)), "magnitude": YARN.magnitude},
        YARN,
        "rope-scaling",
        {"scheme": "YaRN", "factor": 16.0},
    ),
    "YaRN's factor on cosine and sine ignored": (
        {"frequencies": fixed(YARN)},
        YARN,
        "rope-scaling",
        {"magnitude": 1.0, "rule": "1"},
    ),
    "YaRN's factor twice": (
        {"frequencies": fixed(YARN), "magnitude": YARN.magnitude**2},
        YARN,
        "rope-scaling",
        {"rule": "expected ** 2"},
    ),
    "YaRN's factor on queries alone": (
        {
            "frequencies": fixed(YARN),
            "magnitude": YARN.magnitude,
            "only": "q",
            "other": PlantedRotation(frequencies=fixed(YARN)),
        },
        YARN,
        "rope-scaling",
        {"rule": "1", "of": "k"},
    ),
    "an explicit factor ignored": (
        {"frequencies": fixed(YARN), "magnitude": YARN.magnitude},
        yarn_rotary(D, factor=16.0, trained=4096, magnitude=1.0),
        "rope-scaling",
        {"magnitude": round(YARN.magnitude, 6), "expected": 1.0},
    ),
    "LongRoPE's lists dropped": (
        {"magnitude": LONGROPE.magnitude_at(1)},
        LONGROPE,
        "rope-scaling",
        {"scheme": "plain"},
    ),
    "LongRoPE always long": (
        {"frequencies": lambda n, w: theta(w) / np.array(LONG), "magnitude": LONGROPE.magnitude_at(1)},
        LONGROPE,
        "rope-dynamic",
        {"frequencies_of_length": 513},
    ),
    "LongRoPE always short": (
        {"frequencies": lambda n, w: theta(w) / np.array(SHORT), "magnitude": LONGROPE.magnitude_at(1)},
        LONGROPE,
        "rope-dynamic",
        {"follows_length": False, "trained": 512},
    ),
    "LongRoPE one token early": (
        {"frequencies": of(LONGROPE, 1), "magnitude": LONGROPE.magnitude_at(1)},
        LONGROPE,
        "rope-dynamic",
        {"last_length_unchanged": 511, "expected": 512},
    ),
    "dynamic NTK computed once": (
        {"frequencies": lambda n, w: DYNAMIC.rotary_at(2048).frequencies},
        DYNAMIC,
        "rope-dynamic",
        {"frequencies_of_length": 2048},
    ),
    "dynamic NTK never": ({}, DYNAMIC, "rope-dynamic", {"follows_length": False}),
    "dynamic NTK one token late": (
        {"frequencies": of(DYNAMIC, -1)},
        DYNAMIC,
        "rope-dynamic",
        {"last_length_unchanged": 513, "expected": 512},
    ),
    "dynamic NTK never scaled back": (
        {"frequencies": of(DYNAMIC), "keeps": True},
        DYNAMIC,
        "rope-dynamic",
        {"reset": False},
    ),
    "dynamic NTK with another factor": (
        {"frequencies": of(Dynamic(D, factor=2.0, trained=512))},
        DYNAMIC,
        "rope-dynamic",
        {"form": "NTK", "factor": 2.0},
    ),
    "positions in bfloat16": (
        {"rounding": {"positions": BF16}},
        None,
        "rope-precision",
        {"rounded": "positions", "format": "bfloat16"},
    ),
    "positions in float16": (
        {"rounding": {"positions": FP16}},
        None,
        "rope-precision",
        {"rounded": "positions", "format": "float16"},
    ),
    "frequencies in bfloat16": (
        {"rounding": {"frequencies": BF16}},
        None,
        "rope-precision",
        {"rounded": "frequencies", "format": "bfloat16"},
    ),
    "frequencies in float16": (
        {"rounding": {"frequencies": FP16}},
        LLAMA3,
        "rope-precision",
        {"rounded": "frequencies", "format": "float16"},
    ),
    "angles in bfloat16": (
        {"rounding": {"angles": BF16}},
        None,
        "rope-precision",
        {"rounded": "angles", "format": "bfloat16"},
    ),
    "positions and frequencies in bfloat16": (
        {"rounding": {"positions": BF16, "frequencies": BF16}},
        None,
        "rope-precision",
        {"rounded": "positions and frequencies", "format": "bfloat16"},
    ),
    "cosine and sine in bfloat16": (
        {"rounding": {"tables": BF16}},
        None,
        "rope-precision",
        {"rounded": "tables", "format": "bfloat16"},
    ),
    "a table of 2048 rows, clamped": ({"table": 2048}, None, "rope-table", {"rows": 2048, "beyond": "clamp"}),
    "a table of 1000 rows, clamped": ({"table": 1000}, Rotary.of(D), "rope-table", {"rows": 1000, "beyond": "clamp"}),
    "a table of 2048 rows that begins again": (
        {"table": 2048, "beyond": "wrap"},
        None,
        "rope-table",
        {"rows": 2048, "beyond": "wrap"},
    ),
    "a table that ends": (
        {"table": 2048, "beyond": "raise"},
        Rotary.of(D),
        "rope-table",
        {"rows": 2048, "beyond": "raises"},
    ),
}

NEEDS_FREQUENCIES = {"frequencies in float16": fixed(LLAMA3)}


def mutant(name: str) -> RotaryTarget:
    faults, expects, _, _ = WRONG[name]
    if name in NEEDS_FREQUENCIES:
        faults = {**faults, "frequencies": NEEDS_FREQUENCIES[name]}
    return RotaryTarget(name, PlantedRotation(**faults), expects=expects, width=D, pair=True)


DEEP = os.environ.get("KVATTN_PROFILE") == "deep"


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float64") for name in WRONG), *((name, "float32") for name in [*WRONG][:: 1 if DEEP else 2])],
)
def test_a_planted_fault_is_named_and_its_line_shows_it(
    name: str, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, fault_class, parameters = WRONG[name]
    bench, _ = look(mutant(name), dtype=dtype, cases=10)
    assert bench.findings, "not detected"
    fault = next(f for f in bench.findings if f.kind == "fault")
    assert fault.fault_class == fault_class, bench.findings
    assert fault.parameters.items() >= parameters.items(), fault.parameters
    assert len(bench.findings) == 1, bench.findings
    assert "rope" in fault.fault_class
    assert fault.detail.endswith(".")
    if dtype == "float64":
        shows(bench.findings[0], mutant(name).function, capsys)


def shows(finding: Finding, function: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The line that reproduces it runs and shows a difference."""
    if finding.parameters.get("beyond") == "raises":
        with pytest.raises(IndexError):
            exec(finding.reproduce, {"f": function})  # noqa: S102 - that it runs is what is tested
        return
    exec(finding.reproduce, {"f": function})  # noqa: S102
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert "reset" in finding.parameters or got != wanted


RIGHT: dict[str, tuple[Any, Any]] = {
    # name: planted, expected
    "the paper's": ({}, None),
    "declared": ({}, Rotary.of(D)),
    "another base": ({"base": 500000.0}, Rotary.of(D, 500000.0)),
    "a large base": ({"base": 1e7}, Rotary.of(D, 1e7)),
    "partial": ({"width": 8}, Rotary.of(8)),
    "the last features": ({"width": 8, "start": -8}, Rotary.of(8, start=-8)),
    "adjacent": ({"layout": "adjacent"}, Rotary.of(D, layout="adjacent")),
    "linear": ({"frequencies": fixed(LINEAR)}, LINEAR),
    "ntk": ({"frequencies": lambda n, w: theta(w, 10000.0 * 3 ** (w / (w - 2)))}, ntk_rotary(D, alpha=3.0)),
    "Llama-3": ({"frequencies": lambda n, w: bands(8, 8192, 1, 4, 500000.0)}, LLAMA3),
    "YaRN": ({"frequencies": fixed(YARN), "magnitude": YARN.magnitude}, YARN),
    "proportional": (
        {"frequencies": fixed(proportional_rotary(D, share=0.25))},
        proportional_rotary(D, share=0.25),
    ),
    "dynamic NTK": ({"frequencies": of(DYNAMIC)}, DYNAMIC),
    "LongRoPE": ({"frequencies": of(LONGROPE), "magnitude": LONGROPE.magnitude_at(1)}, LONGROPE),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_rotation_passes(name: str, dtype: str) -> None:
    faults, expects = RIGHT[name]
    planted = PlantedRotation(**faults)
    for target in (
        RotaryTarget(name, planted, expects=expects, width=D, pair=True),
        RotaryTarget(name, planted.alone, expects=expects, width=D),
    ):
        bench, margin = look(target, dtype=dtype, cases=30)
        assert bench.findings == []
        assert margin is not None
        assert margin.cases == 30
        assert margin.worst < 1


LEGAL: dict[str, tuple[dict[str, Any], Any, str, dict[str, Any]]] = {
    "adjacent pairs": ({"layout": "adjacent"}, None, "rope-layout", {"layout": "adjacent"}),
    "adjacent pairs where half was declared": (
        {"layout": "adjacent"},
        Rotary.of(D),
        "rope-layout",
        {"layout": "adjacent", "expected": "half"},
    ),
    "half pairs where adjacent was declared": (
        {},
        Rotary.of(D, layout="adjacent"),
        "rope-layout",
        {"layout": "half", "expected": "adjacent"},
    ),
    "both from 1": ({"offset": 1}, Rotary.of(D), "rope-offset", {"offset": 1.0, "of": "q and k"}),
    "another base, undeclared": ({"base": 500000.0}, None, "rope-scaling", {"scheme": "plain", "base": 500000.0}),
    "partial, undeclared": ({"width": 8}, None, "rope-partial", {"start": 0, "width": 8}),
    "Llama-3, undeclared": (
        {"frequencies": lambda n, w: bands(8, 8192, 1, 4, 500000.0)},
        None,
        "rope-scaling",
        {"scheme": "Llama-3", "base": 500000.0, "factor": 8.0, "trained": 8192.0, "high": 4.0},
    ),
    "linear, undeclared": ({"frequencies": fixed(LINEAR)}, None, "rope-scaling", {"scheme": "linear", "factor": 4.0}),
    "dynamic NTK, undeclared": (
        {"frequencies": of(DYNAMIC)},
        None,
        "rope-dynamic",
        {"last_length_unchanged": 512, "form": "NTK", "factor": 4.0},
    ),
    "LongRoPE's switch, undeclared": (
        {"frequencies": lambda n, w: theta(w) / (np.array(LONG) if n > 512 else 1)},
        None,
        "rope-dynamic",
        {"last_length_unchanged": 512, "form": "two lists"},
    ),
    "backwards, undeclared": ({"direction": -1}, None, "rope-layout", {"direction": -1}),
    "a table that ends, undeclared": ({"table": 2048, "beyond": "raise"}, None, "rope-table", {"rows": 2048}),
}


@pytest.mark.parametrize("name", LEGAL)
def test_another_legal_choice_is_a_convention_by_name(name: str) -> None:
    faults, expects, fault_class, parameters = LEGAL[name]
    bench, _ = look(RotaryTarget(name, PlantedRotation(**faults), expects=expects, width=D, pair=True), cases=10)
    assert [(f.kind, f.fault_class) for f in bench.findings] == [("convention", fault_class)], bench.findings
    assert bench.findings[0].parameters.items() >= parameters.items()
