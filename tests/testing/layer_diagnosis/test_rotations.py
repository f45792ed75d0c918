"""The rotation behind the scores is read, whatever stands before it."""

import numpy as np
import pytest

from kvattn.positions import Rotary, llama3_rotary
from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.rotations import read_rotation, relative_matrices
from kvattn.testing.planted_layer import PlantedLayer
from kvattn.testing.planted_rotation import PlantedRotation


@pytest.mark.parametrize("normed", [False, True])
def test_the_matrices_are_those_of_the_rotation(normed: bool) -> None:
    layer = PlantedLayer(rotate=PlantedRotation(layout="adjacent"), norm=normed)
    bench = layer_bench(layer, Plan(rotary=Rotary.of(8), norm="before" if normed else None))
    read = relative_matrices(bench)
    rotary = Rotary.of(8, layout="adjacent")
    for distance in range(len(read)):
        wanted = rotary.rotate(np.eye(8), np.full(8, distance)).T
        assert read[distance] == pytest.approx(wanted, abs=1e-9)


def test_wide_heads_and_a_scheme() -> None:
    scheme = llama3_rotary(32, trained=64)
    layer = PlantedLayer(rotate=PlantedRotation(frequencies=lambda n, w: scheme.frequencies))
    bench = layer_bench(layer, Plan(rotary=Rotary.of(32, 500000.0)))
    assert read_rotation(bench)
    (finding,) = bench.findings
    assert finding.parameters["scheme"] == "Llama-3"
    assert finding.parameters["trained"] == 64.0


def test_scores_that_are_no_rotation_are_left_alone() -> None:
    bench = layer_bench(PlantedLayer(cap=lambda s, a: np.tanh(s * a)))
    assert not read_rotation(bench)
    assert bench.findings == []
