"""The bench: what it runs, what it reads, how it makes a case small."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.raised import Misshapen, Refused
from kvattn.testing.diagnosis.recipe import FLAT, LOUD, ONE_HOT, RANDOM, Recipe, Sizes
from kvattn.testing.targets import target_of


def test_a_target_gets_copies() -> None:
    def greedy(q: Any, k: Any, v: Any) -> Any:
        q[:] = 0
        return v

    built = Recipe(Sizes()).build()
    Lab(target_of(greedy)).run(built)
    assert built.q.any()


def test_what_the_target_raises_and_wrong_shapes_are_refusals() -> None:
    def raises(q: Any, k: Any, v: Any) -> Any:
        raise KeyError("no")

    with pytest.raises(Refused, match="KeyError: 'no'"):
        Lab(target_of(raises)).see(Recipe(Sizes()))
    with pytest.raises(Misshapen, match=r"out has shape \(4, 4\), expected \(1, 1, 4, 4\)"):
        Lab(target_of(lambda q, k, v: v[0, 0])).see(Recipe(Sizes()))
    with pytest.raises(Misshapen, match=r"lse has shape \(1, 4, 1\), expected \(1, 1, 4\)"):
        Lab(target_of(lambda q, k, v: (v, v[:, 0, :, :1]))).see(Recipe(Sizes()))


def test_keywords_that_exclude_each_other_are_not_drawn_together() -> None:
    target = replace(planted(), exclusive=frozenset({frozenset({"mask", "causal"})}))
    lab = Lab(target)
    assert lab.can("mask")
    assert not lab.can("mask", "causal")
    lab.apart.add(frozenset({"bias", "sinks"}))
    assert not lab.can("sinks", "bias")


@pytest.mark.parametrize(("faults", "fine"), [({}, True), ({"scale": "1"}, False), ({"log_base": 2}, False)])
def test_a_comparison_finds_what_is_off(faults: Any, fine: bool) -> None:
    case = Recipe(Sizes(2, 4, 2, 3, 5, 8, 8), LOUD, RANDOM, options=(("causal", "True"),))
    assert (Lab(planted(**faults)).compare(case).ratio <= 1) is fine


def test_nan_against_a_number_is_infinitely_far() -> None:
    lab = Lab(target_of(lambda q, k, v: np.full_like(q, np.nan)))
    assert lab.compare(Recipe(Sizes())).ratio == np.inf


def test_a_finding_is_small_and_told_once() -> None:
    lab = Lab(planted(shift=1))
    case = lab.case(Sizes(3, 8, 2, 5, 7, 16, 16), FLAT, ONE_HOT, causal="True")
    for _ in range(2):
        lab.add("causal-align", {"shift": 1}, "Moved.", case)
    (finding,) = lab.findings
    assert "q = np.zeros((1, 1, 2, 2))" in finding.reproduce


def test_a_declared_convention_is_no_fault() -> None:
    lab = Lab(replace(planted(anchor="top_left"), conventions=frozenset({"causal-align"})))
    lab.add("causal-align", {"anchor": "top_left"}, "Top-left.", reproduce="f()")
    lab.add("scale", {}, "Not scaled.", reproduce="f()")
    assert [finding.kind for finding in lab.findings] == ["convention", "fault"]


class _Mute(Exception):  # noqa: N818 - stands for what a target may raise
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError(), "ValueError: without a message"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError("x" * 500), f"ValueError: {'x' * 148}"),
        (_Mute(), "_Mute: its message cannot be read"),
    ],
)
def test_what_is_raised_is_said_on_one_line(error: Exception, told: str) -> None:
    def raises(q: Any, k: Any, v: Any) -> Any:
        raise error

    with pytest.raises(Refused) as caught:
        Lab(target_of(raises)).run(Recipe(Sizes()).build())
    assert str(caught.value) == told
