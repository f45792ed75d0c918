"""One change, one number, two changes, none: what a name is made of."""

import numpy as np

from kvattn.positions import llama3_rotary
from kvattn.testing.layer_diagnosis import changes
from kvattn.testing.layer_diagnosis.bench import layer_bench
from kvattn.testing.layer_diagnosis.looking import read_plain
from kvattn.testing.layer_diagnosis.naming import name
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Reading
from kvattn.testing.planted_layer import PlantedLayer
from kvattn.testing.planted_rotation import PlantedRotation


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


def test_a_small_fault_is_not_taken_for_coarse_arithmetic() -> None:
    plan = Plan(rotary=llama3_rotary(64))
    plain = 500000.0 ** -(np.arange(32) / 32)
    shares = np.clip((8192 * plain / (2 * np.pi) - 1) / 3, 0, 1)
    middle = (shares > 0) & (shares < 1)
    theta = plain * np.where(middle, 1 - shares + shares / 8, shares + (1 - shares) / 8)  # the terms exchanged
    bench = layer_bench(PlantedLayer(rotate=PlantedRotation(width=64, frequencies=lambda n, w: theta)), plan)
    read_plain(bench)
    (finding,) = bench.findings
    assert (finding.fault_class, finding.parameters["smoothing"]) == ("rope-scaling", "exchanged")
    assert finding.detail.startswith("Frequencies are of no scheme that has a name: the two terms of the smoothing")
    assert (bench.compute, bench.notes) == ("float64", [])
