"""The planted counters without faults count what loops over pairs and rows count."""

from itertools import product

from kvattn.testing.counter_diagnosis.sizes import Sizes, flops, stored
from kvattn.testing.planted_counters import PlantedBytes, PlantedFlops, visible


def test_pairs_are_those_that_a_mask_lets_through() -> None:
    for s, w in product(range(1, 9), (None, 1, 2, 5, 20)):
        for t, causal in product(range(1, s + 1), (False, True)):
            seen = sum(
                ((s - t + i >= j) if causal or w is not None else True) and (w is None or s - t + i - j < w)
                for i in range(t)
                for j in range(s)
            )
            assert visible(t, s, causal, w) == seen


def test_without_faults_they_are_right() -> None:
    sizes = Sizes(batch=2, layers=3, kv_heads=2, group=3, queries=3, keys=11, width=8, value_width=5, window=4)
    asked = sizes.but(causal=True).given()
    plain = ("batch", "layers", "query_heads", "kv_heads", "queries", "width", "value_width", "window")
    count = PlantedFlops()(**{name: asked[name] for name in (*plain, "keys", "causal")})
    assert count == flops(sizes.but(causal=True))
    bytes_ = PlantedBytes()(**{name: asked[name] for name in (*plain, "tokens", "itemsize")})
    assert bytes_ == stored(sizes)
