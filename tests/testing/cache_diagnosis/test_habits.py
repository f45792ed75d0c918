"""The model without a habit is right; every habit shows; no two suspects are the same."""

import os

import pytest

from kvattn.testing.cache_checking import _run
from kvattn.testing.cache_diagnosis.habits import Habit, Model, suspects
from kvattn.testing.cache_diagnosis.observing import alike, observe, showing
from kvattn.testing.cache_diagnosis.scripts import scripts_of
from kvattn.testing.conformance import Capabilities, PagedAdapter, Part

ABILITIES = [
    Capabilities(),
    Capabilities(parts=(Part(window=4),)),
    Capabilities(capacity=9),
    Capabilities(parts=(Part(source=True), Part())),
]

PLAIN = list(suspects(ABILITIES[0]))
DEEP = os.environ.get("KVATTN_PROFILE") == "deep"


@pytest.mark.parametrize("can", ABILITIES, ids=["plain", "window", "capacity", "source"])
def test_the_model_is_right(can: Capabilities) -> None:
    for steps in scripts_of(can):
        assert _run(Model(can, Habit()), steps) is None, ", ".join(map(str, steps))


def test_the_model_shows_what_pages_show() -> None:
    can = Capabilities()
    assert all(alike(observe(Model(can, Habit()), s), observe(PagedAdapter(3), s)) for s in scripts_of(can, drawn=10))


@pytest.mark.parametrize("can", ABILITIES, ids=["plain", "window", "capacity", "source"])
def test_every_habit_shows_in_some_script(can: Capabilities) -> None:
    asked = [one for one in suspects(can) if can is ABILITIES[0] or DEEP or one not in PLAIN]
    every = list(scripts_of(can, drawn=0))
    right = [observe(Model(can, Habit()), steps) for steps in every]
    for one in asked:
        if one.parameters.get("page", 0) not in {0, 2, 7}:
            continue  # the others show in the same way
        pairs = zip(every, right, strict=True)
        assert any(not alike(showing(Model(can, one.habit), steps), wanted) for steps, wanted in pairs), one.words


def test_names_are_unique() -> None:
    for can in ABILITIES:
        names = [(one.fault_class, str(one.parameters)) for one in suspects(can)]
        assert len(set(names)) == len(names)
