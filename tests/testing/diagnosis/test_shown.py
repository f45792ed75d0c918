"""Returned probabilities."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.shown import read_shown
from kvattn.testing.planted import Planted
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import silent

RIGHT = Planted(returns_lse=False)


def shows(kind: str) -> Lab:
    """A function that returns something else for its weights."""

    def function(q: Any, k: Any, v: Any, *, causal: bool = False, return_weights: bool = False) -> Any:
        out, weights = RIGHT(q, k, v, causal=causal, return_weights=True)
        if not return_weights:
            return out
        raw = np.einsum("bhtd,bhsd->bhts", q, np.repeat(k, q.shape[1] // k.shape[1], 1))
        plain = RIGHT(q, k, v, return_weights=True)[1]
        with np.errstate(divide="ignore"):
            given = {
                "the scores": raw / np.sqrt(q.shape[3]),
                "the products q·k": raw,
                "their logarithms": np.log(weights),
                "those of a call without masks": plain,
                "those of head 0": np.broadcast_to(weights[:, :1], weights.shape),
                "the mean over the heads": np.broadcast_to(weights.mean(1, keepdims=True), weights.shape),
            }[kind]
        return out, given

    return Lab(target_of(function))


@pytest.mark.parametrize(
    "kind",
    [
        *("the scores", "the products q·k", "their logarithms"),
        *("those of a call without masks", "those of head 0", "the mean over the heads"),
    ],
)
def test_what_is_returned_for_the_weights_is_named(kind: str) -> None:
    lab = shows(kind)
    read_shown(lab)
    assert lab.findings[0].parameters["returns"] == kind


@pytest.mark.parametrize(
    ("lost", "fault_class"),
    [("causal", "mask-dropped"), ("mask", "mask-dropped"), ("softcap", "softcap"), ("sinks", "sink")],
)
def test_what_is_lost_beside_the_weights_is_named(lost: str, fault_class: str) -> None:
    lab = Lab(target_of(Planted(lost={lost: "return_weights"})))
    read_shown(lab)
    assert lab.findings[0].fault_class == fault_class
    assert lab.findings[0].parameters == {"argument": lost, "with": ["return_weights"]}


def test_the_contract_is_not_reported() -> None:
    assert silent(read_shown)
