"""Sequences keep apart, equal calls agree, sizes are found: asked of any layer."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.manners import read_manners, settle
from kvattn.testing.planted_layer import PlantedLayer


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_is_measured(p: float) -> None:
    bench = layer_bench(PlantedLayer(dropout=p))
    read_manners(bench)
    assert bench.findings[0].parameters == {"p": p, "of": "weights"}


def test_dropped_outputs_are_measured_too() -> None:
    r, core = np.random.default_rng(0), PlantedLayer()

    def layer(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int, kv_heads: int) -> Any:
        out = core(x, w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, heads=heads, kv_heads=kv_heads)
        return out * (r.random(out.shape) >= 0.2) / 0.8

    bench = layer_bench(layer)
    read_manners(bench)
    assert bench.findings[0].parameters == {"p": 0.2, "of": "outputs"}


def test_noise_is_not_called_dropout() -> None:
    r = np.random.default_rng(0)

    def noisy(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int, kv_heads: int) -> Any:
        out = PlantedLayer()(x, w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, heads=heads, kv_heads=kv_heads)
        return out + r.standard_normal(out.shape)

    bench = layer_bench(noisy)
    read_manners(bench)
    assert bench.findings[0].parameters == {"random": True}


def test_a_sequence_that_depends_on_the_batch_is_told() -> None:
    def mixed(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int, kv_heads: int) -> Any:
        out = PlantedLayer()(x, w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, heads=heads, kv_heads=kv_heads)
        return out - out.mean(0)

    bench = layer_bench(mixed)
    read_manners(bench)
    assert bench.findings[0].fault_class == "batch-row-state"


def test_a_layer_without_grouped_heads_is_told_so() -> None:
    def plain(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int, kv_heads: int) -> Any:
        if heads != kv_heads:
            raise ValueError("as many key heads as query heads, please")
        return PlantedLayer()(x, w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, heads=heads)

    bench = layer_bench(plain)
    settle(bench)
    assert not bench.grouped
    assert [(f.kind, f.parameters["supported"]) for f in bench.findings] == [("convention", False)]
