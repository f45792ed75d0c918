"""Head maps, sums and batch mates are read from constant values."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.heads import read_heads
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of


@pytest.mark.parametrize("rule", ["h % Hkv", "0", "Hkv - 1", "Hkv - 1 - h // (Hq // Hkv)"])
def test_a_head_map_is_named(rule: str) -> None:
    lab = Lab(planted(head_map=rule))
    read_heads(lab)
    assert lab.findings[0].parameters["map"] == rule
    assert lab.behaviour.value_map == rule


def test_the_contract_is_not_reported() -> None:
    lab = Lab(planted())
    read_heads(lab)
    assert lab.findings == []


def test_softmax_over_the_wrong_axis_is_seen_in_the_sums() -> None:
    def columns(q: Any, k: Any, v: Any) -> Any:
        group = q.shape[1] // k.shape[1]
        e = np.exp(q @ np.repeat(k, group, 1).swapaxes(2, 3) / q.shape[3] ** 0.5)
        return e / e.sum(2, keepdims=True) @ np.repeat(v, group, 1)

    lab = Lab(target_of(columns))
    read_heads(lab)
    assert lab.findings[0].parameters == {"softmax_over": "queries"}
    assert lab.stopped


def test_weights_that_do_not_sum_to_1_for_no_known_reason_are_described() -> None:
    lab = Lab(target_of(lambda q, k, v: 1.1 * Planted(returns_lse=False)(q, k, v)))
    read_heads(lab)
    assert lab.findings[0].parameters["row_sum"] == pytest.approx(1.1)
    assert lab.stopped


def test_values_of_another_sequence_are_seen() -> None:
    lab = Lab(target_of(lambda q, k, v: Planted(returns_lse=False)(q, k, v[::-1])))
    read_heads(lab)
    assert [finding.fault_class for finding in lab.findings] == ["batch-row-state"]
