"""The report of a check of a cache: what it says, and what it does with caches that are none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
import json
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.testing.cache_checking import CacheReport, check_cache, load_cache, replay
from kvattn.testing.conformance import CacheFault, Capabilities, PagedAdapter, Seen, Session
from kvattn.testing.planted_caches import PlantedCache, PlantedFormats, PlantedPages, PlantedScales


def test_the_smallest_script_fails_again() -> None:
    report = check_cache(PlantedPages(3, shares=True), drawn=4)
    finding = report.findings[0]
    assert finding.parameters["page"] == 3
    assert len(finding.reproduce.split(", ")) <= 5
    assert "alias after branch" in finding.detail


def test_a_fault_without_a_name_is_told_by_its_failure() -> None:
    report = check_cache(PlantedCache(zeroes=4), drawn=0)
    assert report.findings[0].fault_class == "unclassified"  # a lost row alone fits eight faults
    assert report.findings[0].parameters["failure"] == "lost row"
    assert "key 4 of sequence 0" in report.findings[0].detail
    assert report.findings[0].reproduce == "start 0 1, append 0 5"


@pytest.mark.parametrize(
    "wrong", [PlantedCache(select_keys_only=True), PlantedCache(rollback_extra=1), PlantedPages(3, shares=True)]
)
def test_a_finding_can_be_done_again(wrong: PlantedCache | PlantedPages) -> None:
    """Mutant: scripts were made smaller until they selected sequences that were not there."""
    steps = check_cache(wrong, drawn=0).findings[0].reproduce
    replay(PagedAdapter(), steps)
    replay(PagedAdapter(), "start 0 1, append 0 3, rollback 0 4, append 0 1")
    with pytest.raises(CacheFault):
        replay(wrong, steps)


@pytest.mark.parametrize(
    "steps",
    ["", "start 0 2, stir 0 1", "start 0 two", "start 0", "append 0 1", "start 0 1, append 0 1, select 0 1"],
)
def test_what_is_no_step_is_not_done_again(steps: str) -> None:
    with pytest.raises(ArgumentError, match="steps must be of caches and sequences that are there, got "):
        replay(PagedAdapter(), steps)


def test_what_is_no_adapter_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"adapter must have start, append, .* got none called start"):
        check_cache(object())  # type: ignore[arg-type]


def test_it_can_be_loaded_by_name() -> None:
    assert load_cache("kvattn.testing.planted_caches:PlantedCache") == PlantedCache()
    assert isinstance(load_cache("kvattn.testing.conformance:PagedAdapter"), PagedAdapter)
    with pytest.raises(ArgumentError, match=r"a class that takes no argument, got .*PlantedRing: .*window"):
        load_cache("kvattn.testing.planted_caches:PlantedRing")
    for other in ("math:sin", "no.such.module:x", "math", "math:"):
        assert load_cache(other) is None


def test_the_report_is_json() -> None:
    report = check_cache(PlantedCache(says=1), drawn=0)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["verdict"] == "fault"
    assert told["findings"][0]["class"] == "byte-count"
    assert isinstance(report, CacheReport)


def test_a_source_that_grows_is_seen() -> None:
    """Mutant of the session: rows behind a source were not looked at."""
    Session(PlantedCache(source=True)).follow("start 2, append 3, append 2")
    with pytest.raises(CacheFault, match="row out of sight: behind the 3 keys of the source comes Name"):
        Session(PlantedCache(source=True, source_grows=True)).follow("start 2, append 3, append 2")


def test_a_format_is_told_beside_another_fault() -> None:
    """Bits say what numbers became, whatever became of the order; sizes might be wrong because of it."""

    class Both(PlantedFormats):
        def select(self, cache: Any, indices: Sequence[int]) -> Any:
            return cache if len(indices) == len(cache[0]) else super().select(cache, indices)

    found = [finding.fault_class for finding in check_cache(Both("float32", ("float16",)), drawn=0).findings]
    assert found[-2:] == ["cache-dtype"] * 2
    assert len(found) > 2


def test_numbers_that_no_format_explains_are_no_named_fault() -> None:
    class Promised(PlantedScales):
        capabilities = Capabilities(store="float32")

    found = check_cache(Promised(), drawn=0).findings
    assert [(one.fault_class, one.parameters["failure"]) for one in found] == [("unclassified", "other numbers")] * 2


def test_a_promise_of_no_format_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"format must be one of .*, got float17"):
        check_cache(PlantedFormats("float17"))


@dataclass
class Sliced:
    """Rows in two lists, cut by a slice whose end may be negative: ``rollback(5)`` of three tokens keeps one."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    guarded: bool = False

    def start(self, batch: int) -> Any:
        return [np.zeros((batch, 2, 0, 64), np.float32)] * 2

    def append(self, cache: Any, k: Any, v: Any) -> Any:
        both = [np.concatenate(pair, 2) for pair in zip(cache, (k, v), strict=True)]
        return both, [Seen(both[0], both[1], length=both[0].shape[2])]

    def rollback(self, cache: Any, tokens: int) -> Any:
        end = cache[0].shape[2] - tokens
        if self.guarded and not 0 <= end <= cache[0].shape[2]:
            raise ValueError(tokens)
        return [x[:, :, :end] for x in cache]

    def select(self, cache: Any, indices: Sequence[int]) -> Any:
        return [x[list(indices)] for x in cache]

    def branch(self, cache: Any) -> Any:
        return list(cache)


def test_a_rollback_of_more_than_there_is_is_seen() -> None:
    """A cache of transformers kept one token of three after ``crop(-5)``."""
    assert check_cache(Sliced(guarded=True), drawn=0).verdict == "pass"
    (finding,) = check_cache(Sliced(), drawn=0).findings
    assert (finding.fault_class, finding.parameters["rollback"]) == ("crop-rollback", "oversize")
    assert finding.reproduce == "start 0 1, append 0 3, rollback 0 4, append 0 1"
    assert (finding.parameters["amount"], finding.parameters["held"], finding.parameters["keeps"]) == (4, 3, 2)
    with pytest.raises(CacheFault, match="resurrected row: 3 keys of sequence 0, head 0 came back for 1 tokens"):
        replay(Sliced(), finding.reproduce)
    assert check_cache(Sliced(Capabilities(untried=frozenset({"oversize"}))), drawn=0).verdict == "pass"


class Oldest(Sliced):
    """A rollback takes back the oldest tokens."""

    def rollback(self, cache: Any, tokens: int) -> Any:
        return [x[:, :, tokens:] for x in cache]


class Endless(Sliced):
    """Tokens beyond what fits push out the oldest."""

    def append(self, cache: Any, k: Any, v: Any) -> Any:
        both = [np.concatenate(pair, 2)[:, :, -9:] for pair in zip(cache, (k, v), strict=True)]
        return both, [Seen(both[0], both[1])]


@pytest.mark.parametrize(
    ("wrong", "fault_class", "failure"),
    [
        (Oldest(guarded=True), "crop-rollback", "resurrected row"),
        (Endless(Capabilities(capacity=9)), "ring-wrap", "silent overflow"),
    ],
)
def test_a_failure_that_is_of_one_class_by_what_it_is_has_its_name(
    wrong: Sliced, fault_class: str, failure: str
) -> None:
    found = check_cache(wrong, drawn=0).findings
    assert (fault_class, failure) in [(one.fault_class, one.parameters.get("failure")) for one in found]
