"""The last length with the first frequencies is found to the token."""

from typing import Any

import pytest

from kvattn.positions import DynamicNTK
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.bench import bench_of
from kvattn.testing.rotary_diagnosis.lengths import read_lengths
from kvattn.testing.rotary_diagnosis.places import read_reach
from kvattn.testing.rotary_diagnosis.structure import read_structure


@pytest.mark.parametrize("trained", [50, 128, 2047, 2048])
@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_dynamic_ntk_is_read_without_being_declared(trained: int, factor: float) -> None:
    scheme: Any = DynamicNTK(16, factor=factor, trained=trained)
    bench = bench_of(PlantedRotation(frequencies=lambda n, w: scheme.rotary_at(n).frequencies).alone, width=16)
    read_structure(bench)
    read_reach(bench)
    read_lengths(bench)
    (finding,) = bench.findings
    assert finding.kind == "convention"
    assert finding.parameters == {"last_length_unchanged": trained, "form": "NTK", "factor": factor}


def test_a_rotation_that_follows_no_length_says_nothing() -> None:
    bench = bench_of(PlantedRotation().alone, width=16)
    read_structure(bench)
    read_reach(bench)
    read_lengths(bench)
    assert bench.findings == []
