"""State, changed inputs, memory layout and batch mates are told apart; their lines run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kvattn.testing.checking import check
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.manners import read_manners
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of

CORE = Planted(returns_lse=False)


def changes_its_input(q: Any, k: Any, v: Any) -> Any:
    k *= 2
    return CORE(q, k, v)


def keeps_the_first_k() -> Callable[..., Any]:
    kept: dict[Any, Any] = {}

    def function(q: Any, k: Any, v: Any) -> Any:
        return CORE(q, kept.setdefault((q.shape, k.shape), k), v)

    return function


def keeps_a_sum() -> Callable[..., Any]:
    calls: list[float] = []

    def function(q: Any, k: Any, v: Any) -> Any:
        calls.append(float(q.sum()))
        return CORE(q, k, v) + sum(calls)

    return function


def returns_its_buffer() -> Callable[..., Any]:
    buffers: dict[Any, Any] = {}

    def function(q: Any, k: Any, v: Any) -> Any:
        out = CORE(q, k, v)
        buffer = buffers.setdefault(out.shape, np.zeros_like(out))
        buffer[:] = out
        return buffer

    return function


def reads_memory_in_order(q: Any, k: Any, v: Any) -> Any:
    return CORE(np.frombuffer(q.tobytes("A"), q.dtype).reshape(q.shape), k, v)


def one_maximum_for_all(q: Any, k: Any, v: Any) -> Any:
    group = q.shape[1] // k.shape[1]
    s = q @ np.repeat(k, group, 1).swapaxes(2, 3) / q.shape[3] ** 0.5
    e = np.exp(s - s.max())
    return e / e.sum(-1, keepdims=True) @ np.repeat(v, group, 1)


@pytest.mark.parametrize(
    ("make", "fault_class", "parameters"),
    [
        (lambda: changes_its_input, "stale-state", {"property": "inputs", "changed": ["k"]}),
        (keeps_the_first_k, "stale-state", {"property": "arguments", "kept": "k"}),
        (keeps_a_sum, "stale-state", {"property": "calls"}),
        (returns_its_buffer, "stale-state", {"property": "output", "overwritten": True}),
        (lambda: reads_memory_in_order, "unclassified", {"property": "memory layout", "of": "q"}),
        (lambda: one_maximum_for_all, "batch-row-state", {"property": "batch mates", "edit": "q[1] *= 3000"}),
    ],
)
def test_bad_manners_are_named_and_shown(
    make: Callable[[], Callable[..., Any]],
    fault_class: str,
    parameters: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lab = Lab(target_of(make()))
    read_manners(lab)
    finding = lab.findings[0]
    assert finding.fault_class == fault_class
    assert {name: finding.parameters[name] for name in parameters} == parameters
    line = finding.reproduce
    if lab.target.setup:
        line = line.replace(f"{lab.target.setup}; ", "")
    for function, differs in ((make(), True), (CORE, False)):
        with np.errstate(all="ignore"):
            exec(line, {"f": function})  # noqa: S102 - that it runs is what is tested
        got, _, expected = capsys.readouterr().out.partition("expected")
        assert (got.strip() != expected.strip()) is differs


def test_the_contract_is_not_reported() -> None:
    lab = Lab(planted())
    read_manners(lab)
    assert lab.findings == []
    assert lab.notes == []


def test_an_output_of_nan_is_not_called_random_nor_kept() -> None:
    def nothing(q: Any, k: Any, v: Any) -> Any:
        return CORE(q, k, v) * np.nan

    lab = Lab(target_of(nothing))
    read_manners(lab)
    assert not lab.findings
    found = check(nothing, cases=0).findings
    assert [finding.fault_class for finding in found] == ["unclassified"], found
    assert "NaN" in found[0].detail
