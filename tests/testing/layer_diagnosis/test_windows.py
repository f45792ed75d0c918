"""Windows of later parts are told apart from one another, and a window is filled before it is compared."""

from typing import Any

import pytest

from kvattn.positions import DynamicNTK, Rotary
from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.looking import read_plain
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Reading
from kvattn.testing.layer_diagnosis.windows import LONGEST, continued, filled, windows
from kvattn.testing.planted_layer import PlantedLayer


@pytest.mark.parametrize("window", [None, 2, 4, 7])
def test_changes_are_seen_in_the_case_in_parts_and_told_apart(window: int | None) -> None:
    now = Reading(Plan(rotary=Rotary.of(8), window=window))
    bench = layer_bench(PlantedLayer().cached, now.plan)
    cases = [drawing.build() for drawing in (*continued(bench), bench.drawing(B=3, T=7, cuts=(1, 5)))]
    found = {"plan": b"".join(now.predict(*case).round(9).tobytes() for case in cases)}
    for change in windows(now):
        found[change.words] = b"".join(change.reading.predict(*case).round(9).tobytes() for case in cases)
    assert len(found) > 10
    assert len(set(found.values())) >= len(found) - 3 * (window is not None)  # all keys is as good as more than all


def test_a_window_that_is_longer_than_the_usual_case_is_filled() -> None:
    def wide(extra: int) -> dict[str, Any]:
        return {"sees": lambda i, j: 0 <= i - j < 9 + extra}

    for extra, classes in ((0, []), (1, ["window-off-by-one"]), (99, ["mask-dropped"])):
        bench = layer_bench(PlantedLayer(**wide(extra)), Plan(window=9))
        read_plain(bench)
        assert [finding.fault_class for finding in bench.findings] == classes


def test_what_is_not_filled_is_said() -> None:
    bench = layer_bench(PlantedLayer(), Plan(window=LONGEST + 1))
    assert filled(bench) == continued(bench) == []
    assert bench.notes == ["The window of 129 was not filled: no case has more than 132 tokens"]


def test_keys_under_a_rotation_that_follows_the_length_are_not_cut() -> None:
    scheme = DynamicNTK(8, factor=2.0, trained=16)
    assert continued(layer_bench(PlantedLayer().cached, Plan(rotary=scheme, window=20))) == []
