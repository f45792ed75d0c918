"""The whole reading: what is skipped, what is drawn, what is said."""

from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import DynamicNTK, Rotary
from kvattn.testing import check
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_targets import LayerTarget, Weights, layer_target_of
from kvattn.testing.planted_latent import PlantedLatent, declared
from kvattn.testing.planted_layer import PlantedLayer
from kvattn.testing.planted_rotation import PlantedRotation


def test_a_layer_that_always_raises_is_told() -> None:
    def raises(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int) -> Any:
        raise RuntimeError("not today")

    bench, margin = look(layer_target_of(raises))
    assert margin is None
    assert bench.findings[0].detail == "It raises RuntimeError: not today, where sizes were read."


def test_the_report_says_that_the_bound_is_statistical() -> None:
    report = check(PlantedLayer(), cases=3)
    assert "of the float64 statistical bound" in str(report)


def test_eight_bits_are_not_offered() -> None:
    with pytest.raises(ArgumentError, match="dtype must be one of float64, float32, float16, bfloat16, got int8"):
        look(layer_target_of(PlantedLayer()), dtype="int8")


def test_what_has_no_bound_in_16_bits_is_refused_in_16_bits() -> None:
    words = "dtype must be float64 or float32 for a {}, which has no bound in 16 bits, got float16"
    with pytest.raises(ArgumentError, match=words.format("latent layer")):
        look(layer_target_of(PlantedLatent(declared())), dtype="float16")
    with pytest.raises(ArgumentError, match=words.format("layer with a state")):
        look(LayerTarget("mine", print, hidden=4), dtype="float16")


def test_keys_under_a_rotation_that_follows_the_length_are_not_cut() -> None:
    scheme = DynamicNTK(8, factor=2.0, trained=4)
    layer = PlantedLayer(rotate=PlantedRotation(frequencies=lambda n, w: scheme.rotary_at(n).frequencies))
    target = layer_target_of(layer.cached, "mine")
    bench, _ = look(LayerTarget("mine", layer.cached, Plan(rotary=scheme), None, target.features), cases=10)
    assert bench.findings == []
    assert any("Parts were not compared" in note for note in bench.notes)


def fixed(width: int = 8, heads: int = 4, kv_heads: int = 2, hidden: int = 32) -> Weights:
    r = np.random.default_rng(9)
    shapes = ((hidden, heads * width), (hidden, kv_heads * width), (hidden, kv_heads * width), (heads * width, hidden))
    w_q, w_k, w_v, w_o = (r.standard_normal(s) / s[0] ** 0.5 for s in shapes)
    return Weights(w_q, w_k, w_v, w_o, heads, kv_heads)


def own(layer: PlantedLayer, weights: Weights) -> Any:
    given = {n: getattr(weights, n) for n in ("w_q", "w_k", "w_v", "w_o", "heads", "kv_heads")}

    def run(x: Any, *, positions: Any = None, valid: Any = None, cache: Any = None) -> Any:
        return layer.cached(x, **given, positions=positions, valid=valid, cache=cache)

    run.expects = Plan(rotary=Rotary.of(8))  # type: ignore[attr-defined]
    run.weights = weights  # type: ignore[attr-defined]
    return run


def test_a_layer_with_weights_of_its_own_passes() -> None:
    bench, margin = look(layer_target_of(own(PlantedLayer(rotate=PlantedRotation()), fixed())), cases=20)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1


@pytest.mark.parametrize(
    ("layer", "fault_class", "parameters"),
    [
        (PlantedLayer(rotate=PlantedRotation(base=500000.0)), "rope-scaling", {"base": 500000.0}),
        (PlantedLayer(rotate=PlantedRotation(), key_head=lambda h, q, k: h % k), "gqa-map", {"map": "h % Hkv"}),
        (PlantedLayer(rotate=PlantedRotation(), project=lambda joined, w_o: joined), "output-projection", {}),
        (PlantedLayer(rotate=PlantedRotation(), remembers=False), "chunked-prefill", {"sees": "itself"}),
        (PlantedLayer(rotate=PlantedRotation(), dropout=0.5), "dropout-eval", {"p": 0.5}),
        (
            PlantedLayer(rotate=PlantedRotation(), part=lambda before, count, right: right + 1),
            "rope-offset",
            {"positions": "one more"},
        ),
    ],
)
def test_a_layer_with_weights_of_its_own_is_named(layer: PlantedLayer, fault_class: str, parameters: Any) -> None:
    bench, _ = look(layer_target_of(own(layer, fixed())), cases=5)
    (finding,) = bench.findings
    assert finding.fault_class == fault_class
    assert finding.parameters.items() >= parameters.items()


def test_keywords_that_it_cannot_do_without_are_given() -> None:
    def needy(
        x: Any,
        positions: Any,
        valid: Any,
        *,
        w_q: Any,
        w_k: Any,
        w_v: Any,
        w_o: Any,
        heads: int,
        kv_heads: int,
        cache: Any,
    ) -> Any:
        given = {"w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o, "heads": heads, "kv_heads": kv_heads}
        return PlantedLayer(rotate=PlantedRotation()).cached(x, **given, positions=positions, valid=valid, cache=cache)

    needy.expects = Plan(rotary=Rotary.of(8))  # type: ignore[attr-defined]
    bench, margin = look(layer_target_of(needy), cases=20)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1
