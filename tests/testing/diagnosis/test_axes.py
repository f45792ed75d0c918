"""Axes that are taken for others."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.axes import VIEWS, read_axes
from kvattn.testing.diagnosis.heads import read_heads
from kvattn.testing.diagnosis.lab import Lab, planted
from kvattn.testing.diagnosis.weights import read_weights
from kvattn.testing.planted import Mutant, Planted
from kvattn.testing.planted.scores import HEADS
from kvattn.testing.targets import target_of
from tests.testing.diagnosis.named import read, silent

MUTANTS = [mutant for mutant in HEADS if "view" in mutant.parameters or "softmax_over" in mutant.parameters]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_wrong_axis_is_named_by_the_readings_that_meet_it_first(mutant: Mutant) -> None:
    found = [read(mutant, reader).findings for reader in (read_heads, read_weights)]
    finding = next(findings[0] for findings in found if findings)
    assert mutant.is_named_by(finding)


def test_what_is_right_and_what_is_wrong_otherwise_is_not_named() -> None:
    assert silent(read_axes)
    for faults in ({"scale": "1 / D"}, {"head_map": "h % Hkv"}, {"head_map": "0"}, {"cap": "s"}):
        assert not read_axes(Lab(planted(**faults)))


def test_a_view_undone_is_no_view() -> None:
    forth, back = VIEWS.values()

    def twice(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (back(np.ascontiguousarray(forth(np.ascontiguousarray(x)))) for x in (q, k, v))
        return Planted(returns_lse=False)(q, k, v)

    assert not read_axes(Lab(target_of(twice)))


def test_heads_that_are_repeated_before_the_view_are_named() -> None:
    forth = next(iter(VIEWS.values()))

    def repeated(q: Any, k: Any, v: Any) -> Any:
        k, v = (forth(np.repeat(x, q.shape[1] // k.shape[1], 1)) for x in (k, v))
        return Planted(returns_lse=False)(q, k, v)

    lab = Lab(target_of(repeated))
    assert read_axes(lab)
    assert lab.findings[0].parameters["of"] == ["k", "v"]
