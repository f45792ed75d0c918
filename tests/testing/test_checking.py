"""No false alarm on correct attention in several styles; faults that stand in no list; the report.

CI draws fewer cases, from one seed, and asks for the keywords that most functions take; ``KVATTN_PROFILE=deep`` draws
more, from two, and asks for all.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
import json
import math
import os
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.testing import check, checking
from kvattn.testing.checking import Report
from kvattn.testing.keywords import PLAIN
from kvattn.testing.planted import Planted
from kvattn.testing.targets import Target, target_of

Arrays = Any
DEEP = os.environ.get("KVATTN_PROFILE") == "deep"


def asked(function: Callable[..., Any]) -> Target:
    """A function with the keywords that this profile asks for."""
    target = target_of(function)
    return target if DEEP else replace(target, features=target.features & {*PLAIN})


@cache
def checked(function: Callable[..., Any]) -> Report:
    """The report of a check as a user runs it."""
    return check(function)


def visible(q: Arrays, k: Arrays, causal: bool, window: int | None, mask: Arrays) -> Arrays:
    T, S = q.shape[2], k.shape[2]
    i, j = np.arange(T)[:, None] + S - T, np.arange(S)
    keep = np.ones((*q.shape[:3], S), bool)
    if causal:
        keep &= j <= i
    if window is not None:
        keep &= i - j < window
    if mask is not None:
        keep &= mask
    return keep


def by_loops(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, window: int | None = None) -> Arrays:
    """Python floats and loops."""
    B, Hq, T, D = q.shape
    S, group = k.shape[2], Hq // k.shape[1]
    out, lse = np.zeros((B, Hq, T, v.shape[3])), np.full((B, Hq, T), -np.inf)
    for b, h, t in np.ndindex(B, Hq, T):
        at = S - T + t
        seen = [j for j in range(S) if (not causal or j <= at) and (window is None or at - j < window)]
        scores = [sum(map(float, q[b, h, t] * k[b, h // group, j])) / math.sqrt(D) for j in seen]
        if not seen:
            continue
        top = max(scores)
        total = sum(math.exp(s - top) for s in scores)
        for s, j in zip(scores, seen, strict=True):
            out[b, h, t] += math.exp(s - top) / total * v[b, h // group, j]
        lse[b, h, t] = top + math.log(total)
    return out, lse


def online(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, mask: Arrays = None) -> Arrays:
    """Tiles of three keys, running maximum and sum."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    top, total = np.full(q.shape[:3], -np.inf), np.zeros(q.shape[:3])
    out = np.zeros((*q.shape[:3], v.shape[3]))
    keep = visible(q, k, causal, None, mask)
    for j in range(0, k.shape[2], 3):
        seen = keep[..., j : j + 3]
        s = np.where(seen, np.einsum("bhtd,bhsd->bhts", q, k[:, :, j : j + 3]) / np.sqrt(q.shape[3]), -np.inf)
        new = np.maximum(top, s.max(-1))
        shift = np.where(np.isneginf(new), 0, new)
        e, fade = np.exp(s - shift[..., None]), np.exp(top - shift)
        total = total * fade + e.sum(-1)
        out = out * fade[..., None] + (e[..., None] * np.where(seen[..., None], v[:, :, None, j : j + 3], 0)).sum(-2)
        top = new
    return out / np.where(total == 0, 1, total)[..., None], top + np.log(total)


def base_two_inside(
    q: Arrays,
    k: Arrays,
    v: Arrays,
    *,
    causal: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Arrays = None,
    bias: Arrays = None,
    mask: Arrays = None,
) -> Arrays:
    """The root of the scale on both sides, exp2 and log2 inside, probabilities from the lse."""
    B, Hq, T, D = q.shape
    group = Hq // k.shape[1]
    root, fold = q.dtype.type(D**-0.25), q.dtype.type(1 / math.log(2))
    s = np.einsum("bkgtd,bksd->bkgts", (q * root).reshape(B, -1, group, T, D), k * root).reshape(B, Hq, T, -1)
    if softcap is not None:
        s = np.tanh(s / softcap) * softcap
    if bias is not None:
        s = s + bias
    keep = visible(q, k, causal, window, mask)
    s = np.where(keep, s * fold, -np.inf)
    sink = np.full((Hq, 1, 1), -np.inf) if sinks is None else sinks[:, None, None] * fold
    top = np.maximum(s.max(-1, keepdims=True), sink)
    shift = np.where(np.isneginf(top), 0, top)
    lse = top + np.log2(np.exp2(s - shift).sum(-1, keepdims=True) + np.exp2(sink - shift))
    p = np.where(keep, np.exp2(s - np.where(np.isneginf(lse), 0, lse)), 0)
    values = np.where(keep[..., None], np.repeat(v, group, 1)[:, :, None], 0)
    return (p[..., None] * values).sum(-2).astype(q.dtype), (lse[..., 0] * math.log(2)).astype(q.dtype)


def single_inside(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, mask: Arrays = None) -> Arrays:
    """float32 inside, whatever comes in, and the input's dtype out."""
    narrow = (x.astype(np.float32) for x in (q, k, v))
    return base_two_inside(*narrow, causal=causal, mask=mask)[0].astype(q.dtype)


CORRECT: list[Callable[..., Any]] = [by_loops, online, base_two_inside, Planted()]


@pytest.mark.parametrize("function", CORRECT, ids=lambda f: getattr(f, "__name__", "planted"))
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_correct_attention_passes(function: Callable[..., Any], dtype: str) -> None:
    for seed in (0, 1) if DEEP else (0,):
        report = check(asked(function), seed=seed, dtype=dtype, cases=30 if DEEP else 10)
        assert report.findings == ()
        assert report.verdict == "pass"
        assert report.margin is not None
        assert report.margin.worst < 1


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_float32_inside_is_a_convention_where_the_inputs_are_wider(dtype: str) -> None:
    report = check(single_inside, dtype=dtype, cases=30 if DEEP else 10)
    named = [(f.fault_class, f.kind, f.parameters["format"]) for f in report.findings]
    assert named == ([("precision", "convention", "float32")] if dtype == "float64" else [])
    assert report.margin is not None
    assert report.margin.worst < 1


def test_a_function_without_grouped_heads_is_told_so_and_checked_without() -> None:
    def plain(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
        if q.shape[1] != k.shape[1]:
            raise ValueError("as many key heads as query heads, please")
        return Planted(returns_lse=False)(q, k, v)

    report = check(plain, cases=8)
    assert report.verdict == "convention"
    assert [(f.fault_class, f.parameters["supported"]) for f in report.findings] == [("gqa-map", False)]
    assert report.margin is not None
    with pytest.raises(ValueError, match="please"):
        exec(report.findings[0].reproduce, {"f": plain})  # noqa: S102 - that it runs is what is tested


def core(q: Arrays, k: Arrays, v: Arrays, **options: Any) -> Arrays:
    return Planted(returns_lse=False)(q, k, v, **options)


def drops_a_key_past_a_tile(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
    keep = visible(q, k, causal, None, None)
    keep[..., -1] &= k.shape[2] % 16 != 1 or k.shape[2] == 1
    return core(q, k, v, mask=keep)


def scales_up_when_long(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
    return core(q, k, v, scale=q.shape[3] ** -0.5 * (1 if k.shape[2] < 60 else 1.02))


def cap_lost_beside_causal(
    q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, softcap: float | None = None
) -> Arrays:
    return core(q, k, v, causal=causal, softcap=None if causal else softcap)


def wrong_at_decode_with_bias(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, bias: Arrays = None) -> Arrays:
    return core(q, k, v, causal=causal, bias=bias) * (1.01 if causal and bias is not None and q.shape[2] == 1 else 1)


def a_little_in_the_denominator(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
    return core(q, k, v) / (1 + 1e-6)


def tiled_only_when_batched(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
    batched_decode = q.shape[0] == 2 and q.shape[2] == 1
    return Planted(head_map="h % Hkv" if batched_decode else "h // (Hq // Hkv)", returns_lse=False)(q, k, v)


OUTSIDE: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
    (drops_a_key_past_a_tile, "tile-tail", {"axis": "keys", "tile": 16, "rest": 1}),
    (scales_up_when_long, "unclassified", {"options": []}),
    (cap_lost_beside_causal, "softcap", {"argument": "softcap", "with": ["causal"]}),
    (wrong_at_decode_with_bias, "unclassified", {"options": ["bias", "causal"]}),
    (a_little_in_the_denominator, "unclassified", {"options": []}),
    (tiled_only_when_batched, "gqa-map", {"map": "h % Hkv"}),
]


@pytest.mark.parametrize(("function", "fault_class", "parameters"), OUTSIDE, ids=lambda x: getattr(x, "__name__", ""))
def test_a_fault_in_no_list_is_caught_by_drawn_cases_and_made_small(
    function: Callable[..., Any], fault_class: str, parameters: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report = checked(function)
    assert report.verdict == "fault"
    finding = report.findings[0]
    assert finding.fault_class == fault_class
    assert {name: finding.parameters[name] for name in parameters} == parameters
    exec(finding.reproduce, {"f": function})  # noqa: S102 - that it runs is what is tested
    got, _, expected = capsys.readouterr().out.partition("expected")
    assert got.strip() != expected.strip()


def test_a_smallest_case_has_the_smallest_sizes() -> None:
    detail = checked(wrong_at_decode_with_bias).findings[0].detail
    assert "B=1, Hq=1, Hkv=1, T=1, S=1, D=1" in detail


def test_the_same_seed_gives_the_same_report() -> None:
    def wrong(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
        return Planted(shift=1, returns_lse=False)(q, k, v, causal=causal)

    assert check(wrong, seed=3, cases=6).as_dict() == check(wrong, seed=3, cases=6).as_dict()


def test_a_report_fits_on_a_screen_and_its_json_has_no_bare_nan() -> None:
    target = Planted(head_map="h % Hkv", scale="1", anchor="top_left", extra_keys=1, empty="nan", log_base=2)
    report = check(asked(target), cases=8)
    assert len(str(report).splitlines()) <= 40
    text = json.dumps(report.as_dict(), allow_nan=False)
    assert json.loads(text)["schemaVersion"] == 1


def test_what_the_contract_does_not_know_is_left_alone_and_mentioned() -> None:
    def dropped(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, dropout: float = 0.0) -> Arrays:
        assert dropout == 0.0
        return core(q, k, v, causal=causal)

    report = check(dropped, cases=10)
    assert report.verdict == "pass"
    assert report.untested == ("dropout",)
    assert "left at their defaults: dropout" in str(report)


def test_a_function_that_raises_is_a_fault_and_not_a_crash() -> None:
    def broken(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
        raise RuntimeError("out of luck")

    report = check(broken)
    assert report.verdict == "fault"
    assert "out of luck" in report.findings[0].detail


def test_an_option_that_raises_does_not_hide_the_rest() -> None:
    def half(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, softcap: float | None = None) -> Arrays:
        if softcap is not None:
            raise NotImplementedError("no cap yet")
        return Planted(shift=1, returns_lse=False)(q, k, v, causal=causal)

    found = check(half, cases=8).findings
    assert [f.fault_class for f in found] == ["causal-align", "unclassified"]
    assert "no cap yet" in found[1].detail


def test_another_layout_is_said_by_its_shape() -> None:
    def turned(q: Arrays, k: Arrays, v: Arrays) -> Arrays:
        return core(q, k, v).swapaxes(1, 2)

    assert check(turned).findings[0].detail == "Out has shape (3, 4, 6, 10), expected (3, 6, 4, 10), on a plain call."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of float64, float32, float16, bfloat16, got int8"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"seed": True}, "seed must be an integer >= 0, got True"),
        ({"cases": 1.5}, "cases must be an integer >= 0, got 1.5"),
    ],
)
def test_bad_arguments_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check(Planted(), **words)


def test_a_refusal_is_told_once_with_the_keywords_of_the_call() -> None:
    def plain_only(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
        if causal:
            raise RuntimeError("no triangle")
        return core(q, k, v)

    details = [finding.detail for finding in check(plain_only, cases=0).findings]
    assert details == ["It raises RuntimeError: no triangle with causal."]


def test_where_calls_are_slow_fewer_are_made_and_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = check(core_of_causal)
    monkeypatch.setattr(checking, "SLOW", 0.0)
    slow = check(core_of_causal)
    assert slow.margin is not None
    assert usual.margin is not None
    assert (usual.margin.cases, slow.margin.cases) == (checking.CASES, checking.FEW)
    assert slow.calls < usual.calls - 100
    assert any(note.startswith("Calls are slow: 24 cases were drawn, not 80") for note in slow.notes)
    assert check(core_of_causal, cases=30).margin.cases == 30  # type: ignore[union-attr]


def core_of_causal(q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False) -> Arrays:
    return core(q, k, v, causal=causal)


@pytest.mark.parametrize(
    ("ways", "fault_class", "parameters", "detail"),
    [
        (
            {"extra_keys": 1},
            "window-off-by-one",
            {"extra": 1, "with": ["sinks"]},
            "Beside sinks a window shows W + 1 keys, expected W.",
        ),
        (
            {"shift": -1},
            "causal-align",
            {"shift": -1, "with": ["sinks"]},
            "Beside sinks queries stand at t - 1, expected t.",
        ),
    ],
)
def test_what_is_off_by_one_beside_another_keyword_has_its_name(
    ways: dict[str, Any], fault_class: str, parameters: dict[str, Any], detail: str
) -> None:
    beside = Planted(**ways)

    def attend(
        q: Arrays, k: Arrays, v: Arrays, *, causal: bool = False, window: int | None = None, sinks: Arrays = None
    ) -> Arrays:
        return (core if sinks is None else beside)(q, k, v, causal=causal, window=window, sinks=sinks)

    attend.conventions = {"window-off-by-one"}  # type: ignore[attr-defined]
    first = next(f for f in check(attend, cases=0).findings if f.fault_class == fault_class)
    assert (first.parameters, first.detail, first.kind) == (parameters, detail, "fault")
