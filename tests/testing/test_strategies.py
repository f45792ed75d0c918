"""Hypothesis draws the same cases, and shrinks them to the smallest that fail."""

from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
import pytest

from kvattn.testing import installation
from kvattn.testing.choices import Recorded
from kvattn.testing.laws import Case, LawError, cost_is_count, decode_is_recompute
from kvattn.testing.strategies import Drawn, cases, drawn
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
