"""Hypothesis draws the same cases, and shrinks them to the smallest that fail."""

from typing import Any

from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.testing import installation
from kvattn.testing.calls import Call
from kvattn.testing.choices import Recorded
from kvattn.testing.laws import Case, LawError, cost_is_count, decode_is_recompute
from kvattn.testing.strategies import Drawn, calls_for, cases, drawn
from kvattn.testing.targets import target_of
from kvattn.testing.zoo import ZOO

QUICK = settings(max_examples=300, database=None, deadline=None, derandomize=True)


@given(st.data(), st.integers(-5, 5), st.integers(0, 9))
def test_integers_keep_their_bounds(data: st.DataObject, low: int, size: int) -> None:
    assert low <= Drawn(data.draw).integer(low, low + size, "n") <= low + size


@pytest.mark.parametrize("name", ZOO)
def test_every_variant_can_be_drawn(name: str) -> None:
    @settings(max_examples=5)
    @given(cases(name))
    def keeps_its_law(case: object) -> None:
        cost_is_count(case)  # type: ignore[arg-type]

    keeps_its_law()


def test_cases_shrink_to_the_smallest_that_fail() -> None:
    found = find(cases("grouped"), lambda case: case.x.shape[1] >= 3 and len(case.cuts) > 0, settings=QUICK)
    assert found.x.shape == (1, 3, 1)
    assert found.cuts == (0,)
    assert found.variant.page == 256
    assert found.variant.softcap is found.variant.sinks is None
    assert found.variant.query_key == ()


def test_what_never_fails_is_not_found() -> None:
    with pytest.raises(NoSuchExample):
        find(cases("grouped"), lambda case: case.x.ndim != 3, settings=settings(QUICK, max_examples=20))


def test_a_law_that_breaks_is_found_and_shrunk() -> None:
    """Mutant: a case whose cuts lie about the order of tokens."""

    def breaks(case: object) -> bool:
        try:
            decode_is_recompute(case)  # type: ignore[arg-type]
        except LawError:
            return True
        return False

    @st.composite
    def spoiled(draw: st.DrawFn) -> object:
        case = draw(cases("grouped"))
        step = type(case.variant).step

        class Late(type(case.variant)):  # type: ignore[misc]
            def step(self, cache: object, x: object) -> object:
                attended, later = step(self, cache, x)
                return attended._replace(out=attended.out + later.length * 1e-9), later

        names = type(case.variant).__dataclass_fields__
        layer = Late(**{name: getattr(case.variant, name) for name in names})
        return type(case)(layer, case.x, case.cuts, lambda _: layer, None, None, case.depth)

    found = find(spoiled(), breaks, settings=QUICK)
    assert found.x.shape == (1, 2, 1)  # type: ignore[attr-defined]


def test_hypothesis_shrinks_a_planted_fault_and_the_line_shows_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(case: Case) -> None:
        if case.x.shape[1] >= 5:
            raise LawError("five tokens")

    monkeypatch.setattr(installation, "LAWS", {"late": late})
    found = drawn("cross", "late", 50, 0)
    assert found.broken == "LawError: five tokens"
    assert ZOO["cross"](Recorded(found.choices)).x.shape[:2] == (1, 5)
    with pytest.raises(LawError, match="five tokens"):
        exec(found.reproduce)  # noqa: S102 the line is meant to be run


def test_what_holds_is_tried_as_often_as_asked() -> None:
    assert (drawn("grouped", "cost_is_count", 7, 0).tried, drawn("grouped", "cost_is_count", 7, 0).broken) == (7, "")


def kernel(
    q: Any, k: Any, v: Any, *, sinks: Any = None, window: Any = None, causal: bool = False, mask: Any = None
) -> Any:
    """A function of one shape that declares what it takes."""


kernel.head_dims = (64,)  # type: ignore[attr-defined]
kernel.mask_form = "additive"  # type: ignore[attr-defined]
kernel.exclusive = [("mask", "causal")]  # type: ignore[attr-defined]


@settings(max_examples=60)
@given(calls_for(kernel, "float32"))
def test_calls_for_a_function_are_what_it_declares(call: Call) -> None:
    assert (call.q.shape[3], call.v.shape[3], str(call.q.dtype)) == (64, 64, "float32")
    assert call.options.keys() <= {"sinks", "window", "causal", "mask"}
    assert not {"mask", "causal"} <= call.options.keys()
    assert call.options.get("mask", np.zeros(1, np.float32)).dtype == np.float32


def test_calls_for_a_target_or_a_function_are_the_same() -> None:
    wanted = settings(QUICK, max_examples=100)
    first, second = (
        find(calls_for(thing), lambda call: {"window", "sinks"} <= call.options.keys(), settings=wanted)
        for thing in (kernel, target_of(kernel))
    )
    assert repr(first) == repr(second)


def test_what_is_no_attention_has_no_calls() -> None:
    with pytest.raises(ArgumentError, match="target must take q, k, v first"):
        calls_for(lambda x: x)
