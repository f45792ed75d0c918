"""Semantics are read in wide numbers where that works; bounds are the finest that explain the answers.

CI draws fewer cases, and asks for fewer keywords, than ``KVATTN_PROFILE=deep``.
"""

from dataclasses import replace
import os
from typing import Any

import numpy as np
import pytest

from kvattn.errors import MissingExtraError
from kvattn.testing import arithmetic as presets
from kvattn.testing import check
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import LOUD, RANDOM, Sizes
from kvattn.testing.diagnosis.settling import CANDIDATES, WORDS, explain, reading_dtype, settle
from kvattn.testing.emulated import Emulated
from kvattn.testing.narrowed import Narrowed
from kvattn.testing.planted import Planted
from kvattn.testing.targets import Target, target_of

CORE = Planted(returns_lse=False)
DEEP = os.environ.get("KVATTN_PROFILE") == "deep"
CASES = 25 if DEEP else 8


def few(function: Any, *features: str) -> Target:
    """A function with these keywords alone; with all of its own in the deep profile."""
    target = target_of(function)
    return target if DEEP else replace(target, features=frozenset(features))


def single(q: Any, k: Any, v: Any) -> Any:
    """float32 inside, whatever comes."""
    return CORE(*(x.astype(np.float32) for x in (q, k, v))).astype(np.float64)


def halves_only(q: Any, k: Any, v: Any) -> Any:
    """Takes float16 and nothing else."""
    if q.dtype != np.float16:
        raise TypeError("float16 expected")
    return Narrowed(CORE, "float16")(q, k, v)


def wide_out(q: Any, k: Any, v: Any) -> Any:
    """float16 inside, float64 out."""
    halves = (x.astype(np.float16).astype(np.float64) for x in (q, k, v))
    return CORE(*halves)


def singles_only(q: Any, k: Any, v: Any) -> Any:
    """Takes float32 and float16."""
    if q.dtype == np.float64:
        raise TypeError("no float64")
    return CORE(q, k, v)


@pytest.mark.parametrize(
    ("function", "dtype", "wanted"),
    [
        (CORE, "float16", "float64"),
        (CORE, "float32", "float32"),
        (single, "float16", "float64"),
        (singles_only, "float16", "float32"),
        (halves_only, "float16", "float16"),
        (wide_out, "float16", "float16"),
        (Narrowed(CORE, "float16"), "float16", "float16"),
        (Narrowed(CORE, "bfloat16"), "float16", "float16"),
        (Emulated(presets.FLOAT16_TENSOR_CORE), "float16", "float16"),
        (Emulated(presets.FLOAT32_BLAS), "float16", "float64"),
    ],
)
def test_it_is_read_in_wide_numbers_where_it_answers_finely(function: Any, dtype: str, wanted: str) -> None:
    lab = Lab(target_of(function), dtype=dtype)
    assert reading_dtype(lab) == wanted
    assert lab.dtype == dtype


def test_float32_inside_is_told_and_bounded_as_such() -> None:
    lab = Lab(target_of(single))
    settle(lab)
    assert lab.arithmetic.compute == "float32"
    assert "float32" in lab.notes[0]


def test_an_error_that_is_none_of_float32_is_not_forgiven() -> None:
    def off(q: Any, k: Any, v: Any) -> Any:
        return CORE(q, k, v) * 1.0001

    lab = Lab(target_of(off))
    settle(lab)
    assert lab.arithmetic.compute == "float64"
    assert lab.coarser == (Arithmetic("float64", tiles=0, merges=1),)
    assert not explain(lab, lab.case(Sizes(2, 6, 2, 5, 7, 26, 26), LOUD, RANDOM))
    assert not lab.notes


def through_lse(q: Any, k: Any, v: Any) -> Any:
    """Weights as exp(s - lse), the lse added up key by key: nothing is divided, and its errors do not cancel."""
    k, v = (np.repeat(x, q.shape[1] // k.shape[1], axis=1) for x in (k, v))
    s = q @ np.swapaxes(k, 2, 3) / np.asarray(q.shape[3] ** 0.5, q.dtype)
    return np.exp(s - np.logaddexp.reduce(s, axis=-1, keepdims=True)) @ v


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_weights_through_a_log_sum_exp_are_right(dtype: str) -> None:
    lab = Lab(target_of(through_lse), dtype=dtype)
    settle(lab)
    assert lab.arithmetic == Arithmetic(dtype)
    lab.arithmetic = lab.coarser[-1]
    for keys in (3, 40, 400):
        assert lab.compare(lab.case(Sizes(1, 2, 1, 3, keys, 26, 26), LOUD, RANDOM)).ratio < 0.5


def test_weights_through_a_log_sum_exp_are_said() -> None:
    found = check(through_lse, seed=1)
    assert found.verdict == "pass", str(found)


def test_answers_that_are_narrower_than_the_question_are_bounded_as_such() -> None:
    lab = Lab(target_of(lambda q, k, v: CORE(q, k, v).astype(np.float16)))
    settle(lab)
    assert lab.arithmetic.store == "float16"
    assert lab.arithmetic in CANDIDATES["float16"]


@pytest.mark.parametrize("name", ["FLOAT16_TENSOR_CORE", "FLOAT16_PURE"])
def test_sixteen_bits_are_bounded_by_the_finest_that_explains_them(name: str) -> None:
    arithmetic = getattr(presets, name)
    lab = Lab(target_of(Emulated(arithmetic)), dtype="float16")
    settle(lab)
    rank = CANDIDATES["float16"].index
    assert rank(lab.arithmetic) <= rank(arithmetic)
    assert bool(lab.notes) == (rank(lab.arithmetic) > 0)
    assert lab.coarser == CANDIDATES["float16"][rank(lab.arithmetic) + 1 :]


def test_what_is_stated_is_not_made_coarser() -> None:
    lab = Lab(target_of(Emulated(presets.FLOAT16_PURE)), dtype="float16")
    settle(lab, (presets.FLOAT16_TENSOR_CORE,))
    assert lab.arithmetic == presets.FLOAT16_TENSOR_CORE
    assert lab.coarser == ()


def test_a_case_is_given_to_the_coarser_ones_before_it_counts() -> None:
    lab = Lab(target_of(Emulated(presets.FLOAT16_PURE)), dtype="float16")
    lab.arithmetic, lab.coarser = Arithmetic("float32", inputs="float16"), CANDIDATES["float16"]
    case = lab.case(Sizes(1, 2, 1, 3, 150, 26, 26), LOUD, RANDOM)
    assert lab.compare(case).ratio > 1
    assert explain(lab, case)
    assert lab.compare(case).ratio <= 1
    assert WORDS[lab.arithmetic] in lab.notes[-1]


def test_a_fault_is_not_explained() -> None:
    lab = Lab(target_of(Planted(scale="1", returns_lse=False)), dtype="float16")
    lab.arithmetic, lab.coarser = CANDIDATES["float16"][0], CANDIDATES["float16"][1:]
    case = lab.case(Sizes(1, 2, 1, 3, 12, 26, 26), LOUD, RANDOM)
    assert not explain(lab, case)
    assert lab.arithmetic == CANDIDATES["float16"][0]
    assert not lab.notes


@pytest.mark.parametrize("name", ["FLOAT16_TENSOR_CORE", "FLOAT16_SOFTMAX", "FLOAT16_PURE"])
def test_sixteen_bits_pass(name: str) -> None:
    report = check(Emulated(getattr(presets, name)), dtype="float16", cases=CASES)
    assert report.findings == ()
    assert report.margin is not None
    assert report.margin.worst < 1


@pytest.mark.parametrize("name", ["BFLOAT16_TENSOR_CORE", "BFLOAT16_SOFTMAX", "BFLOAT16_PURE"])
def test_bfloat16_passes(name: str) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes, of the peers extra")
    report = check(Emulated(getattr(presets, name)), dtype="bfloat16", cases=CASES)
    assert report.findings == ()


def test_a_stated_arithmetic_is_used() -> None:
    right, worse = (
        check(few(Emulated(at), "causal"), dtype="float16", arithmetic=presets.FLOAT16_TENSOR_CORE, cases=CASES)
        for at in (presets.FLOAT16_TENSOR_CORE, presets.FLOAT16_PURE)
    )
    assert (right.verdict, right.arithmetic) == ("pass", "float16 (inside float32)")
    assert worse.verdict == "fault"


def test_what_was_read_wide_is_said() -> None:
    report = check(few(CORE, "causal", "window"), dtype="float16", cases=4)
    assert "What it does was read in float64; float16 was compared in drawn cases" in report.notes
    fault = check(few(Planted(extra_keys=1, returns_lse=False), "causal", "window"), dtype="float16", cases=4)
    assert [finding.fault_class for finding in fault.findings] == ["window-off-by-one"]
    assert "float16" not in fault.findings[0].reproduce


def test_bfloat16_without_ml_dtypes_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvattn.testing.drawn_calls.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"^ml_dtypes must be installed for dtype bfloat16, got no module ml_dtypes$"
    ):
        check(CORE, dtype="bfloat16")


def test_reproductions_in_bfloat16_run(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ml_dtypes", reason="bfloat16 arrays are those of ml_dtypes, of the peers extra")
    function = Narrowed(Planted(extra_keys=1, returns_lse=False), "bfloat16")
    (finding,) = check(few(function, "causal", "window"), dtype="bfloat16", cases=4).findings
    assert finding.fault_class == "window-off-by-one"
    assert "import ml_dtypes" in finding.reproduce
    exec(finding.reproduce, {"f": function})  # noqa: S102 - that it runs is what is tested
    got, _, expected = capsys.readouterr().out.partition("expected")
    assert got.strip() != expected.strip()
