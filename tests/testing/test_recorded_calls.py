"""Recorded cases say the same in the contract's words: the contract's own attention gives what they expect."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.goldens import judge, load
from kvattn.testing.calls import Call
from kvattn.testing.recorded_calls import given, recorded_calls, recorded_cases

NOT = {
    *("dense/array/inverted", "dense/grouped/heads-tiled", "dense/sinks/outside-lse", "dense/window/distance-2"),
    *("dense/causal/more-queries", "dense/causal/more-queries-top-left", "dense/causal/one-query-top-left"),
    *("dense/causal/fewer-queries-top-left", "dense/window/fewer-queries-top-left", "dense/document/none"),
    *("dense/grouped/no-key", "dense/grouped/no-query", "dense/padding/empty-sequence", "dense/prefix/window"),
    *("dense/lse/base-2", "dense/lse/base-2-causal", "dense/lse/base-2-sinks", "dense/slopes/both-ways"),
}
"""Cases that the contract has no words for, or says nothing about; those that must be refused besides."""


def test_every_case_is_a_call_but_those_that_are_known() -> None:
    others = {name for name, case in recorded_cases().items() if case.result != "invalid"} - recorded_calls().keys()
    assert others == NOT


def test_the_contract_gives_what_each_case_expects() -> None:
    for name, recipe in recorded_calls().items():
        call, case = Call(recipe), recorded_cases()[name]
        out, lse = call.expected()
        assert judge(case, {"out": out, "lse": lse}).verdict == "pass", name
        near = call.bounds()
        within = {"out": near.worst, "lse": near.lse_worst}
        assert judge(case, {"out": out, "lse": lse}, within=within).verdict == "pass", name
        assert call.q.shape[2:] == (recipe.sizes.T, recipe.sizes.D)
        assert {word for word, _ in recipe.options} == call.options.keys()


def test_its_code_builds_it() -> None:
    for name in ("dense/softcap/mask", "dense/causal/chunked-prefill", "dense/few-bits/float8-e4m3fn"):
        recipe = replace(recorded_calls()[name], dtype="float32", mask_form="additive")
        names: dict[str, Any] = {}
        exec(recipe.code(), names)  # noqa: S102 - that it runs is what is tested
        built = recipe.build()
        for word, array in zip("qkv", built[:3], strict=True):
            assert np.array_equal(names[word], array)
            assert array.dtype == np.float32
        assert names["options"].keys() == built.options.keys()
        assert recipe.call() == "f(q, k, v, **options)"


def test_bit_patterns_are_numbers() -> None:
    case = load("dense/few-bits/float8-e4m3fn")
    assert case.inputs["q"].dtype == np.uint8
    assert np.array_equal(given(case).q, case.decoded("q"))


def test_positions_that_a_call_has_without_them_are_left_out() -> None:
    words = given(load("dense/causal/chunked-prefill")).options
    assert list(words) == ["lengths", "causal"]
    assert "q_positions" in given(load("dense/causal/positions-with-gaps")).options


@pytest.mark.parametrize(("form", "hidden"), [("additive", -np.inf), ("zero-one", 0)])
def test_a_mask_is_written_as_the_target_takes_it(form: str, hidden: float) -> None:
    case = load("dense/softcap/mask")
    mask = given(case, mask_form=form).options["mask"]
    assert np.array_equal(mask == hidden, ~np.broadcast_to(case.inputs["mask"], (1, 4, 3, 5)))
    assert mask.dtype != bool


def test_values_are_cut_and_filled_up() -> None:
    case = load("dense/grouped/plain")
    assert np.array_equal(given(case, value_width=6).v, case.inputs["v"][..., :6])
    wide = given(case, value_width=9).v
    assert np.array_equal(wide[..., :7], case.inputs["v"])
    assert not wide[..., 7:].any()


def test_what_is_no_call_is_refused() -> None:
    with pytest.raises(ArgumentError, match="case must be a call of the contract, got dense/lse/base-2"):
        given(load("dense/lse/base-2"))
    with pytest.raises(ArgumentError, match="v must have numbers of float32, got others"):
        given(load("dense/range/large-values"), "float32")
    with pytest.raises(ArgumentError, match="mask_form must be one of boolean, additive, zero-one, got 'words'"):
        given(load("dense/grouped/plain"), mask_form="words")


def test_the_plainest_comes_first_and_rare_sizes_last() -> None:
    recipes = list(recorded_calls().values())
    assert recipes[0].name == "dense/grouped/plain"
    common = recipes[0].sizes
    rare = [n for n, recipe in enumerate(recipes) if recipe.sizes != common]
    assert rare[0] > 60
    assert all(recipe.sizes != common for recipe in recipes[rare[0] :])
