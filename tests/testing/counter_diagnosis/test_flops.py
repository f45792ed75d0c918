"""What is read of a counter of FLOPs says what it counts at any other sizes."""

import random

import pytest

from kvattn.testing.counter_diagnosis.bench import CounterBench
from kvattn.testing.counter_diagnosis.flops import read_flops
from kvattn.testing.counter_diagnosis.looking import draw
from kvattn.testing.counter_targets import counter_target_of
from kvattn.testing.planted_counters import PlantedFlops, visible


@pytest.mark.parametrize(
    "planted",
    [
        PlantedFlops(unit=1, softmax=5, row=3),
        PlantedFlops(heads=lambda _, kv: kv, widths=lambda d, _, e: (d, e)),
        PlantedFlops(
            pairs=lambda t, s, causal, w: visible(t, s, causal, w) if not causal or w else t * (s - t) + t * t // 2,
            value_pairs=lambda t, s, causal, w: visible(t, s, causal, w and w + 1),
        ),
    ],
)
def test_the_reading_predicts(planted: PlantedFlops) -> None:
    bench, generator = CounterBench(counter_target_of(planted)), random.Random(1)
    read = read_flops(bench)
    assert read is not None
    compared = 0
    for _ in range(25):
        sizes = draw(bench, generator)
        wanted = read.at(sizes)
        if wanted is not None:
            assert bench.count(sizes) == wanted
            compared += 1
    assert compared > 10


def test_after_a_fault_of_all_pairs_a_mask_is_still_read() -> None:
    bench = CounterBench(counter_target_of(PlantedFlops(pairs=lambda t, *_: t * t)))
    _ = read_flops(bench)
    assert [f.parameters for f in bench.findings] == [{"keys": "T"}, {"causal": "all pairs"}, {"window": "ignored"}]


def test_a_mask_that_nothing_explains_behind_such_a_fault_is_a_note() -> None:
    def pairs(t: int, s: int, causal: bool, w: int | None) -> int:
        return t * t + (3 * t if causal else 0)

    bench = CounterBench(counter_target_of(PlantedFlops(pairs=pairs)))
    _ = read_flops(bench)
    assert [f.parameters for f in bench.findings if "keys" in f.parameters] == [{"keys": "T"}]
    assert any("With causal" in note or "causal was not read" in note for note in bench.notes)
