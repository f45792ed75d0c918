"""Pairs, direction, offset and magnitude are read; what is no rotation is told as such."""

from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.bench import bench_of
from kvattn.testing.rotary_diagnosis.structure import read_manners, read_structure


def rotation(x: Any, positions: Any) -> Any:
    return PlantedRotation().alone(x, positions)


def one_vector(x: Any, positions: Any) -> Any:
    if positions.ndim != 1:
        raise ValueError("one vector, please")
    return Rotary.of(8).rotate(x, positions)


@pytest.mark.parametrize("function", [rotation, Rotary.of(8).rotate, one_vector])
def test_a_clean_rotation_has_nothing_to_tell(function: Any) -> None:
    bench = bench_of(function, width=8)
    read_manners(bench)
    read_structure(bench)
    assert bench.findings == []
    assert bench.notes == []
    assert bench.known["q"].frequencies == pytest.approx(Rotary.of(8).frequencies)


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (lambda x, positions: rotation(x, positions) + 1, {"linear": False}),
        (lambda x, positions: rotation(x, positions) * np.arange(1, x.shape[1] + 1)[:, None, None], {"of": "q"}),
    ],
)
def test_bad_manners(function: Any, parameters: Any) -> None:
    bench = bench_of(function, width=8)
    read_manners(bench)
    assert bench.stopped
    assert bench.findings[0].parameters.items() >= parameters.items()


def test_an_answer_that_changes_is_stale_state() -> None:
    calls = []

    def drifts(x: Any, positions: Any) -> Any:
        calls.append(1)
        return rotation(x, positions + len(calls))

    bench = bench_of(drifts, width=8)
    read_manners(bench)
    assert "stale-state" in {finding.fault_class for finding in bench.findings}


def test_writing_into_the_input_is_told() -> None:
    def writes(x: Any, positions: Any) -> Any:
        x[:] = rotation(x, positions)
        return x

    bench = bench_of(writes, width=8)
    read_manners(bench)
    assert [(f.kind, f.parameters) for f in bench.findings] == [("convention", {"writes_into": "q"})]


def test_mirrored_pairs_are_other_pairs() -> None:
    order = np.array([0, 1, 2, 3, 7, 6, 5, 4])

    def mirrored(x: Any, positions: Any) -> Any:
        return rotation(x[..., order], positions)[..., order]

    bench = bench_of(mirrored, width=8)
    read_structure(bench)
    assert bench.findings[0].parameters["layout"] == "other"
    assert bench.findings[0].parameters["partners"] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_a_mixing_matrix_is_no_pairing() -> None:
    mix = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    bench = bench_of(lambda x, positions: rotation(x @ mix, positions) @ mix.T, width=8)
    read_structure(bench)
    assert "third one" in bench.findings[0].detail


def test_nan_is_told() -> None:
    bench = bench_of(lambda x, positions: rotation(x, positions) * np.nan, width=8)
    read_structure(bench)
    assert bench.findings[0].parameters == {"out": "nan"}


def test_an_angle_that_no_offset_explains() -> None:
    twist = Rotary((0.7, 0.1, 0.4, 0.2))

    def twisted(x: Any, positions: Any) -> Any:
        return twist.rotate(rotation(x, positions), np.array([1]))

    bench = bench_of(twisted, width=8)
    read_structure(bench)
    assert "as no offset explains" in bench.findings[0].detail
