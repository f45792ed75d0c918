"""Scripts do only what is declared, and reach the boundaries."""

import pytest

from kvattn.testing.cache_checking import _run
from kvattn.testing.cache_diagnosis.habits import PAGES
from kvattn.testing.cache_diagnosis.scripts import (
    Step,
    borders,
    lengths_of,
    negative,
    oversize,
    script,
    scripts_of,
    smaller,
    undeclared,
)
from kvattn.testing.conformance import Capabilities, PagedAdapter, Part

PLAIN = Capabilities()


def test_the_text_is_the_script() -> None:
    steps = script("start 0 2, append 0 5, select 0 1 0")
    assert steps[2] == Step("select", (0, 1, 0))
    assert script(", ".join(map(str, steps))) == steps


def test_lengths_stand_at_the_boundaries() -> None:
    assert {5, 6, 7} <= set(lengths_of(Capabilities(parts=(Part(window=6),))))
    assert lengths_of(Capabilities(capacity=5))[-2:] == [4, 5]


@pytest.mark.parametrize(
    ("can", "absent"),
    [
        (Capabilities(rollback=0), "rollback"),
        (Capabilities(select=False, resize=False), "select"),
        (Capabilities(branch=False), "branch"),
        (Capabilities(untried=frozenset({"rollback"})), "rollback"),
        (Capabilities(untried=frozenset({"select"})), "select"),
    ],
)
def test_what_is_not_declared_is_not_asked(can: Capabilities, absent: str) -> None:
    verbs = {step.verb for steps in scripts_of(can) for step in steps}
    assert absent not in verbs
    assert absent in {step.verb for steps in scripts_of(PLAIN) for step in steps}


def test_one_token_at_a_time_where_several_are_too_many() -> None:
    for steps in scripts_of(Capabilities(many=False)):
        held: dict[int, int] = {}
        for verb, (line, *rest) in steps:
            if verb == "append":
                assert rest[0] <= 1 or not held.get(line)
                held[line] = held.get(line, 0) + rest[0]


def test_a_capacity_is_passed_only_to_see_it_refused() -> None:
    over = 0
    for steps in scripts_of(Capabilities(capacity=9), drawn=80):
        held: dict[int, int] = {}
        for verb, (line, *rest) in steps:
            if verb == "append":
                held[line] = held.get(line, 0) + rest[0]
                over += held[line] > 9
            elif verb == "rollback":
                held[line] -= rest[0]
            elif verb == "branch":
                held[rest[0]] = held[line]
    assert over == 2


def test_all_of_them_hold_for_what_is_right() -> None:
    assert all(_run(PagedAdapter(3), steps) is None for steps in scripts_of(PLAIN, seed=7))


def test_smaller_scripts_are_smaller() -> None:
    steps = script("start 0 2, append 0 5, rollback 0 2")
    for fewer in smaller(steps):
        assert len(fewer) < len(steps) or sum(sum(s.numbers) for s in fewer) < sum(sum(s.numbers) for s in steps)


def test_more_than_there_is_is_taken_back_unless_that_is_known_to_be_wrong() -> None:
    assert [steps[2] for steps in oversize(PLAIN)] == [Step("rollback", (0, 4)), Step("rollback", (0, 5))]
    assert not list(oversize(Capabilities(untried=frozenset({"oversize"}))))
    assert not list(oversize(Capabilities(rollback=2)))


def test_other_odd_rollbacks_are_tried_unless_they_are_known_to_be_wrong() -> None:
    assert [steps[2] for steps in negative(PLAIN)] == [Step("rollback", (0, -1)), Step("rollback", (0, -2))]
    assert not list(negative(Capabilities(untried=frozenset({"negative"}))))
    window = Capabilities(parts=(Part(window=6),), rollback=1)
    assert [(steps[1].numbers[1], steps[2].numbers[1]) for steps in undeclared(window)] == [(3, 2), (9, 2), (13, 2)]
    assert not list(undeclared(PLAIN))
    assert not list(undeclared(Capabilities(rollback=0, untried=frozenset({"rollback"}))))
    assert all(steps[1].numbers[1] <= 5 for steps in undeclared(Capabilities(rollback=0, capacity=5)))


def test_every_length_that_may_be_a_border_is_rolled_back_to() -> None:
    left = [steps[1].numbers[1] - steps[2].numbers[1] for steps in borders(PLAIN)]
    assert left == [*PAGES]
    assert not list(borders(Capabilities(rollback=0)))
    assert not list(borders(Capabilities(untried=frozenset({"rollback"}))))
