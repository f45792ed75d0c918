"""Positions come back from angles; tables that end are found by halves."""

from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.testing.rotary_diagnosis.bench import bench_of
from kvattn.testing.rotary_diagnosis.model import Model
from kvattn.testing.rotary_diagnosis.places import far_positions, implied, read_places, read_reach, read_table
from kvattn.testing.rotary_diagnosis.structure import read_structure


def test_positions_come_back_from_angles() -> None:
    known = Model.of(Rotary.of(32), 32)
    places = np.array([[0, 1, 77], [4095, 300, 5]])
    assert np.array_equal(implied(known, known.angles(places), 8192), places)
    assert implied(known, known.angles(np.array([[0.5]])), 8192).tolist() == [[-1]]


@pytest.mark.parametrize("rows", [37, 64, 1000, 4095])
@pytest.mark.parametrize("beyond", ["clamp", "wrap", "raise"])
def test_the_end_of_a_table_is_found_to_the_row(rows: int, beyond: str) -> None:
    bench = bench_of(PlantedRotation(table=rows, beyond=beyond).alone, width=16)  # type: ignore[arg-type]
    read_structure(bench)
    read_reach(bench)
    if not bench.findings:
        read_table(bench)
    (finding,) = bench.findings
    assert finding.parameters == {"rows": rows, "beyond": {"raise": "raises"}.get(beyond, beyond)}


def test_a_table_as_long_as_the_context_is_long_enough() -> None:
    bench = bench_of(PlantedRotation(table=4096, beyond="raise").alone, width=16)
    read_structure(bench)
    read_reach(bench)
    read_table(bench)
    assert bench.findings == []


def test_one_row_for_all_is_not_asked_of_a_function_that_takes_one_vector() -> None:
    bench = bench_of(lambda x, positions: Rotary.of(8).rotate(x, positions) if positions.ndim == 1 else None, width=8)
    read_structure(bench)
    read_places(bench)
    assert bench.findings == []


def test_far_positions_stand_round_powers_of_two() -> None:
    assert {2047, 2048, 2049, 4095} <= {*far_positions(4096)}
    assert max(far_positions(1000)) == 999


def test_positions_that_are_lost_in_decoding_alone_are_named() -> None:
    def decodes(x: Any, positions: Any) -> Any:
        return Rotary.of(8).rotate(x, (positions if x.shape[2] > 1 else 0 * positions)[:, None])

    bench = bench_of(decodes, width=8)
    read_structure(bench)
    read_places(bench)
    (finding,) = bench.findings
    assert (finding.fault_class, finding.parameters["positions"]) == ("rope-offset", "restart")
    assert "in calls of one token" in finding.detail
