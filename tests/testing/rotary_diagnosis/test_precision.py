"""What is rounded is named; float32 angles pass with a note; float64 angles without."""

import numpy as np
import pytest

from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.bench import bench_of
from kvattn.testing.rotary_diagnosis.frequencies import read_frequencies
from kvattn.testing.rotary_diagnosis.places import read_reach
from kvattn.testing.rotary_diagnosis.precision import read_precision, settle_arithmetic
from kvattn.testing.rotary_diagnosis.structure import read_structure


def single(value: object) -> np.ndarray:
    return np.asarray(value, np.float32).astype(np.float64)


@pytest.mark.parametrize("stage", ["frequencies", "angles", "tables"])
def test_float32_passes_with_a_note(stage: str) -> None:
    bench = bench_of(PlantedRotation(rounding={stage: single}).alone, width=16)
    read_structure(bench)
    read_reach(bench)
    read_precision(bench)
    read_frequencies(bench)
    settle_arithmetic(bench)
    assert bench.findings == []
    assert bench.compute == "float32"
    assert len(bench.notes) == 1


def test_float64_passes_without() -> None:
    bench = bench_of(PlantedRotation().alone, width=16)
    read_structure(bench)
    read_reach(bench)
    read_precision(bench)
    read_frequencies(bench)
    settle_arithmetic(bench)
    assert (bench.findings, bench.compute, bench.notes) == ([], "float64", [])


def test_the_angle_that_is_farthest_off_is_told() -> None:
    def coarse(value: object) -> np.ndarray:
        return np.asarray(value, np.float16).astype(np.float64)

    bench = bench_of(PlantedRotation(rounding={"frequencies": coarse}).alone, width=16)
    read_structure(bench)
    read_reach(bench)
    read_precision(bench)
    (finding,) = bench.findings
    assert finding.parameters == {"rounded": "frequencies", "format": "float16"}
    assert "at position 40" in finding.detail
