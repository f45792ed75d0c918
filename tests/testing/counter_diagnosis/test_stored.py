"""What is read of a counter of bytes says what it counts at any other sizes."""

import random

import pytest

from kvattn.testing.counter_diagnosis.bench import CounterBench, bench_of
from kvattn.testing.counter_diagnosis.looking import draw
from kvattn.testing.counter_diagnosis.stored import read_stored
from kvattn.testing.counter_targets import counter_target_of
from kvattn.testing.planted_counters import PlantedBytes


@pytest.mark.parametrize(
    "planted",
    [
        PlantedBytes(heads=lambda q, _: q, size=lambda _: 2, beside=8),
        PlantedBytes(rows=lambda t, s, w: s if w is None else min(s, w + max(t, 1)), numbers=lambda d, *_: d),
        PlantedBytes(pages=lambda rows, _: -(-rows // 16) * 16),
    ],
)
def test_the_reading_predicts(planted: PlantedBytes) -> None:
    bench, generator = CounterBench(counter_target_of(planted)), random.Random(1)
    read = read_stored(bench)
    assert read is not None
    compared = 0
    for _ in range(25):
        sizes = draw(bench, generator)
        wanted = read.at(sizes)
        if wanted is not None:
            assert bench.count(sizes) == wanted
            compared += 1
    assert compared > 10


def test_its_own_size_of_a_number_is_used_from_then_on() -> None:
    bench = bench_of(lambda *, tokens, kv_heads, width, batch: 2 * batch * tokens * kv_heads * width * 4)
    bench = CounterBench(bench.target)
    assert read_stored(bench) is not None
    assert [(f.kind, f.parameters) for f in bench.findings] == [("convention", {"itemsize": 4})]
    sizes = bench.sizes(keys=3, width=8)
    assert bench.count(sizes) == bench.expected(sizes)


def test_windows_in_whole_pages_are_a_choice() -> None:
    planted = PlantedBytes(rows=lambda t, s, w: s if w is None else -(-min(s, w + max(t, 1) - 1) // 16) * 16)
    bench = CounterBench(counter_target_of(planted))
    _ = read_stored(bench)
    assert ("convention", {"page": 16}) in [(f.kind, f.parameters) for f in bench.findings]
