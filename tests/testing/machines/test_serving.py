"""The machine over all, and over each kind of cache alone; steps are counted, so that none is only said to be done."""

from collections import Counter
import os
from typing import Any

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
import pytest

from kvattn.caches import Paged
from kvattn.errors import KvattnError
from kvattn.testing.machines import ServingMachine
from kvattn.testing.machines.marked import Entry, Line, marked, schema_of
from kvattn.testing.machines.storages import EVERYTHING, PAGED, STORAGES, Sizes, Storage
from kvattn.testing.machines.values import Kind, Value, declined, one_sentence

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"

STEPS = 20_000
"""Steps over all that the deep profile must do."""

VERBS = {"start", "append", "truncate", "branch", "select", "save", "remember", "reuse", "refuse", "drop", "end"}
"""What is done to every kind of cache; the others are done where a cache has them."""


def counted(**names: Any) -> tuple[type[ServingMachine], Counter[tuple[str, str]]]:
    """A machine of its own, and what it has done."""
    done: Counter[tuple[str, str]] = Counter()
    return type("Machine", (ServingMachine,), {"done": done, **names}), done


def told(done: Counter[tuple[str, str]]) -> str:
    """What was done, by verb."""
    by_verb: Counter[str] = Counter()
    for (verb, _), count in done.items():
        by_verb[verb] += count
    return ", ".join(f"{verb} {count}" for verb, count in by_verb.most_common())


@pytest.mark.law("caches/paged", "one machine over all storages: none lost, none resurrected, none of another", "bits")
def test_all_at_once() -> None:
    machine, done = counted()
    run_state_machine_as_test(machine, settings=settings() if DEEP else settings(stateful_step_count=25))
    steps = sum(count for (verb, _), count in done.items() if verb != "end")
    print(f"\n{steps} steps over all: {told(done)}")
    kinds = {name for _, name in done}
    assert len(kinds) > len(STORAGES) // 2
    if DEEP:
        assert steps >= STEPS
        lacking = [(verb, s.name) for verb in VERBS for s in STORAGES if not done[verb, s.name]]
        assert not lacking, f"never done: {lacking}"


@pytest.mark.law("caches/paged", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/contiguous", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/tiered", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/ring", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/chunked_local", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/sink_window", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/coded", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/kivi_cache", "every verb of serving: nothing lost, resurrected or another's", "bound")
@pytest.mark.law("caches/summaries", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/static", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/snapshots", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/layered", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/shared_layers", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.law("caches/pool", "every verb of serving: nothing lost, resurrected or another's", "bits")
@pytest.mark.parametrize("storage", STORAGES, ids=lambda storage: storage.name)
def test_each_kind_alone(storage: Storage) -> None:
    machine, done = counted(storages=(storage,))
    some = settings() if DEEP else settings(max_examples=6, stateful_step_count=20)
    run_state_machine_as_test(machine, settings=some)
    assert done["end", storage.name], "no run came to its end"
    assert sum(done.values()) > (5_000 if DEEP else 60), told(done)


def test_a_value_with_another_line_is_rejected() -> None:
    entry = Entry(token=1, position=0, owner=5, place=0)
    cache = Paged.start(schema_of(float), page=4).append([x[None] for x in marked([entry])])
    machine, kind = ServingMachine(), Kind(PAGED, Sizes())
    machine.check(Value(kind, cache, (Line((entry,), (0, 1)),)))
    for line, words in (
        (Line(), "resurrected"),
        (Line((entry, entry._replace(place=1, position=1)), (0, 1, 2)), "lost"),
        (Line((entry._replace(owner=6),), (0, 1)), "foreign"),
        (Line((entry._replace(owner=6),), (0, 1), frozenset({5})), "resurrected"),
        (Line((entry._replace(turned=1),), (0, 1)), "not re-rotated"),
        (Line((entry._replace(token=0),), (0, 1)), "not those of the keys"),
        (Line((entry,), (0, 2)), "the next positions"),
        (Line((entry._replace(position=1),), (0, 1)), "positions of sequence 0"),
    ):
        with pytest.raises(AssertionError, match=words):
            machine.check(Value(kind, cache, (line,)))


def test_what_is_not_refused_in_one_sentence_is_reported() -> None:
    def two() -> None:
        raise KvattnError("This. And that.")

    with pytest.raises(AssertionError, match="an action must be refused, but it was taken"):
        declined(lambda: None, "an action")
    with pytest.raises(AssertionError, match="an action must be refused in one sentence, got This"):
        declined(two, "an action")
    assert one_sentence(KvattnError("x must be 1, got [0, 1, ..."))


def test_the_kinds_are_all_there_and_have_names_of_their_own() -> None:
    assert len({storage.name for storage in STORAGES}) == len(STORAGES) == 15
    assert EVERYTHING.returns(None, Sizes(), 3)
