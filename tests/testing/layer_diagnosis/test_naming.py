"""One change, one number, two changes, none: what a name is made of."""

import numpy as np

from kvattn.testing.layer_diagnosis import changes
from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.naming import name
from kvattn.testing.layer_diagnosis.reading import Reading
from kvattn.testing.planted_layer import PlantedLayer


def tries(now: Reading) -> list[changes.Change]:
    return [*changes.bends(now), *changes.heads(now), *changes.projections(now)]


def test_a_right_layer_needs_no_name() -> None:
    bench = layer_bench(PlantedLayer())
    assert name(bench, [bench.drawing()], tries)
    assert bench.findings == []


def test_two_faults_have_two_names() -> None:
    bench = layer_bench(
        PlantedLayer(
            scale=lambda d, h, m: 1.0, project=lambda joined, w_o: joined @ w_o, key_head=lambda h, q, k: h % k
        )
    )
    drawings = [bench.drawing(), bench.drawing(Hq=6, Hkv=3, seed=4)]
    assert name(bench, drawings, tries)
    assert {f.fault_class for f in bench.findings} == {"scale", "gqa-map"}


def test_what_nothing_explains_has_none() -> None:
    bench = layer_bench(PlantedLayer(project=lambda joined, w_o: np.sin(joined) @ w_o))
    assert not name(bench, [bench.drawing()], tries)
    assert bench.findings == []


def test_float32_noise_is_not_explained_by_a_change() -> None:
    def rounded(product: float, scale: float) -> float:
        return float(np.float32(product) * np.float32(scale))

    bench = layer_bench(PlantedLayer(cap=rounded), compute="float32")
    assert name(bench, [bench.drawing(), bench.drawing(Hq=6, Hkv=2, seed=2)], tries, changes.fits)
    assert bench.findings == []
