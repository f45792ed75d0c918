"""Orders of heads are told apart, and one without a name is read out, head by head."""

from collections.abc import Callable

import numpy as np
import pytest

from kvattn.positions import Rotary
from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.head_orders import WORDS, orders, read_orders
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import HEAD_ORDERS, Reading
from kvattn.testing.planted_layer import PlantedLayer
from kvattn.testing.planted_rotation import PlantedRotation


def test_named_orders_are_orders_and_told_apart() -> None:
    for hq, hkv in ((4, 2), (6, 2), (6, 3), (12, 3)):
        for name, rule in HEAD_ORDERS.items():
            assert sorted(rule(h, hq, hkv) for h in range(hq)) == list(range(hq)), name
    now = Reading(Plan(rotary=Rotary.of(8)))
    weights, case = Drawing(Hq=12, Hkv=3, M=50).build()
    found = [change.reading.predict(weights, case) for change in orders(now)]
    assert len(found) == 2 * (len(HEAD_ORDERS) - 1) - 1
    for n, one in enumerate(found):
        for two in (*found[:n], now.predict(weights, case)):
            assert np.abs(one - two).max() > 1e-3


READ: dict[tuple[str, ...], dict[str, Callable[[int, int, int], int]]] = {
    ("o_heads",): {"joined_place": lambda h, hq, hkv: (2, 0, 3, 1)[h]},
    ("q_heads",): {"query_place": lambda h, hq, hkv: (2, 0, 3, 1)[h]},
    ("key_map",): {"key_head": lambda h, hq, hkv: (1, 0, 0, 1)[h]},
    ("value_map",): {"value_head": lambda h, hq, hkv: (0, 1, 1, 0)[h]},
    ("key_map", "value_map"): dict.fromkeys(("key_head", "value_head"), lambda h, hq, hkv: (1, 0, 1, 1)[h]),
}


@pytest.mark.parametrize("names", WORDS)
def test_heads_are_read_out(names: tuple[str, ...]) -> None:
    layer = PlantedLayer(rotate=PlantedRotation(), **READ[names])  # type: ignore[arg-type]
    bench = layer_bench(layer, Plan(rotary=Rotary.of(8)))
    assert read_orders(bench, [bench.drawing(), bench.drawing(seed=1)])
    (rule,) = {*READ[names].values()}
    (finding,) = bench.findings
    (read,) = finding.parameters["heads"]
    assert read == {"Hq": 4, "Hkv": 2, "order": [rule(h, 4, 2) for h in range(4)]}
    assert {getattr(bench.reading, name) for name in names} == {((4, 2, tuple(read["order"])),)}
    assert bench.stopped  # what it does with other numbers of heads is not known


def test_what_mixes_heads_is_no_order() -> None:
    for layer in (
        PlantedLayer(project=lambda joined, w_o: (joined + np.roll(joined, 8, -1)) / 2 @ w_o),
        PlantedLayer(rows=(0, 2, 3, 1)),
        PlantedLayer(scale=lambda d, heads, hidden: 1.0),
    ):
        bench = layer_bench(layer)
        assert not read_orders(bench, [bench.drawing()])
        assert bench.findings == []
        assert not bench.stopped


def test_an_order_that_two_calls_do_not_share_is_no_order() -> None:
    asked = iter([*range(99)])
    layer = PlantedLayer(joined_place=lambda h, hq, hkv: (h + next(asked) // 4) % hq)
    bench = layer_bench(layer)
    assert not read_orders(bench, [bench.drawing(), bench.drawing(seed=1)])
