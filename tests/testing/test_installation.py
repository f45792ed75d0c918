"""The installation check finds a broken variant, makes the case small, and prints a line that shows it again.

Every variant is tried under every law on one case here, on 20 under ``KVATTN_PROFILE=deep``; ``kvattn check``, which
``.ci/run`` begins with, tries more.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
import os
import subprocess
import sys
from typing import Any

import pytest

from kvattn.testing import installation
from kvattn.testing.choices import Choices, Recorded
from kvattn.testing.installation import Outcome, replay, verify
from kvattn.testing.laws import LAWS, Case, LawError
from kvattn.testing.zoo import ZOO
from kvattn.testing.zoo.grouped import grouped
from kvattn.typing import Array
from kvattn.variants.dense.grouped import Grouped


@dataclass(frozen=True, eq=False)
class Dropped(Grouped):
    """Planted: a step on a cache that already holds 3 tokens or more scales its output."""

    def step(self, cache: Any, x: Array) -> Any:
        attended, later = super().step(cache, x)
        factor = 1.5 if min(cache.lengths) >= 3 else 1.0
        return attended._replace(out=attended.out * x.dtype.type(factor)), later


@dataclass(frozen=True, eq=False)
class Crashing(Grouped):
    """Planted: dies with whatever error, deep inside."""

    def step(self, cache: Any, x: Array) -> Any:
        if x.shape[1]:
            return getattr(self, "nothing")  # noqa: B009
        return super().step(cache, x)


def planted(kind: type[Grouped]) -> Callable[[Choices], Case]:
    def draw(choices: Choices) -> Case:
        case = grouped(choices)
        layer = kind(**{name: getattr(case.variant, name) for name in Grouped.__dataclass_fields__})
        return replace(case, variant=layer, alone=lambda _: layer, twin=replace(layer, page=case.twin.page))

    return draw


def test_what_is_installed_keeps_every_law() -> None:
    examples = 20 if os.environ.get("KVATTN_PROFILE") == "deep" else 1
    outcomes = list(verify(examples=examples))
    assert [(o.variant, o.law) for o in outcomes] == [(variant, law) for variant in ZOO for law in LAWS]
    assert [o for o in outcomes if o.broken or o.tried != examples or o.choices] == []
    assert all(o.seconds >= 0 for o in outcomes)


def test_progress_is_told_before_each_law() -> None:
    told: list[str] = []
    for count, _ in enumerate(verify(examples=0, tick=told.append), start=1):
        assert len(told) == count
    assert told[0] == "grouped: decode_is_recompute"
    assert len(told) == len(ZOO) * len(LAWS)


@pytest.fixture
def _a_broken_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "ZOO", {"planted": planted(Dropped), "crashing": planted(Crashing)})
    asked = ("decode_is_recompute", "step_is_definition", "cost_is_count")
    monkeypatch.setattr(installation, "LAWS", {law: LAWS[law] for law in asked})


@pytest.mark.usefixtures("_a_broken_zoo")
def test_a_planted_fault_is_found_and_made_small() -> None:
    outcomes = {(o.variant, o.law): o for o in verify(examples=20)}
    found = outcomes["planted", "decode_is_recompute"]
    assert found.broken.startswith("LawError: decode is recompute, cut at (")
    assert found.choices
    case = planted(Dropped)(Recorded(found.choices))
    # three tokens to be behind, one to go wrong, in one sequence; one cut, at the first place that shows it
    assert (case.x.shape, case.cuts) == ((1, 4, 1), (3,))
    assert outcomes["planted", "cost_is_count"].broken == ""
    assert outcomes["planted", "step_is_definition"].broken == ""
    assert outcomes["crashing", "decode_is_recompute"].broken.startswith("AttributeError: ")


@pytest.mark.usefixtures("_a_broken_zoo")
def test_the_line_that_is_printed_shows_the_fault_again() -> None:
    found = next(verify(examples=20))
    assert found.reproduce.startswith("from kvattn.testing.installation import replay; replay('planted', ")
    with pytest.raises(LawError, match=r"^decode is recompute, cut at \(3,\): out"):
        exec(found.reproduce)  # noqa: S102 the line is meant to be run


@pytest.mark.usefixtures("_a_broken_zoo")
def test_a_seed_decides_what_is_tried() -> None:
    def choices(seed: int) -> list[tuple[str, tuple[int, ...], str]]:
        return [(o.law, o.choices, o.broken) for o in verify(examples=3, seed=seed)]

    assert choices(1) == choices(1)


def test_the_line_runs_as_a_program_where_the_law_holds() -> None:
    line = Outcome("cross", "decode_is_recompute", 1, 0.0, "", (0, 1, 2)).reproduce
    assert subprocess.run([sys.executable, "-c", line], check=False).returncode == 0


def test_unknown_names_are_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        replay("nothing", "cost_is_count", [])
    with pytest.raises(KeyError, match="nothing"):
        replay("grouped", "nothing", [])
