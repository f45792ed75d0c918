"""Faults that stand in no list are caught, and told by the part that differs."""

import numpy as np
import pytest

from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_targets import layer_target_of
from kvattn.testing.planted_layer import PlantedLayer


@pytest.mark.parametrize(
    ("layer", "part", "words"),
    [
        (PlantedLayer(sees=lambda i, j: j <= i and j != 2), "who sees whom", "row 2 of head 0 has weights [0"),
        (PlantedLayer(cap=lambda s, a: s * a + 0.1 * (s * a) ** 2), "scores", "row 3 of head 0"),
        (PlantedLayer(project=lambda joined, w_o: np.tanh(joined) @ w_o), "values", "a single token comes out wrong"),
    ],
)
def test_the_part_that_differs_is_told(layer: PlantedLayer, part: str, words: str) -> None:
    bench, _ = look(layer_target_of(layer, "mine"), cases=4)
    (finding,) = bench.findings
    assert finding.fault_class == "unclassified"
    assert finding.parameters["part"] == part
    assert words in finding.detail or "row" in finding.detail
