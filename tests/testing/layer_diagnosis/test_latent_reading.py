"""The reading of a latent layer is latent attention; each field changes it; the bound holds for float32."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from kvattn.testing.latent_by_hand import latent_by_hand
from kvattn.testing.layer_diagnosis.latent_reading import CALLS, HEADS, SCALES, LatentReading
from kvattn.testing.layer_diagnosis.reading import Case
from kvattn.testing.planted_latent import PlantedLatent, declared

LATENT = declared()
WEIGHTS = LATENT.projections


def case(**more: Any) -> Case:
    return Case(np.random.default_rng(1).standard_normal((2, 6, WEIGHTS.hidden)), **more)


@pytest.mark.parametrize("cuts", [(), (2, 3)])
def test_as_planned_it_equals_loops(cuts: tuple[int, ...]) -> None:
    x = case(cuts=cuts)
    got = LatentReading(LATENT).predict(WEIGHTS, x)
    for b in range(2):
        wanted, _ = latent_by_hand(WEIGHTS, x.x[b].tolist(), range(6), lambda h, t, s: s <= t, rotation=LATENT.rotation)
        assert got[b] == pytest.approx(np.array(wanted), abs=1e-12)


CHANGED: dict[str, Any] = {
    "scale": ("1 / sqrt(r)", "every call"),
    "factor": (0.5, "later calls"),
    "scores": ("latent", "later calls"),
    "key_heads": ("h + 1", "later calls"),
    "value_heads": ("features first", "every call"),
    "turned": ("q", "every call"),
    "norm": ("none", "later calls"),
    "made": ("no weights", "the first call"),
    "kept": ("none", "the first call"),
    "places": "rows",
    "part_places": "one more",
    "part_given": False,
    "part_sight": "itself",
    "pads": "visible",
}


@pytest.mark.parametrize("name", CHANGED)
def test_every_field_matters(name: str) -> None:
    valid = np.array([[True] * 6, [False] * 2 + [True] * 4]) if name == "pads" else None
    at = np.cumsum(np.ones((2, 6), np.int64), 1) * 2 if name in {"places", "part_given"} else None
    now = LatentReading(LATENT, part_places="restart" if name == "part_given" else "go on")
    x = case(cuts=(2, 4), valid=valid, positions=at)
    other = replace(now, **{name: CHANGED[name]})
    assert np.abs(other.predict(WEIGHTS, x) - now.predict(WEIGHTS, x))[:, 2:].max() > 1e-3


def test_every_field_is_tried() -> None:
    assert {field.name for field in fields(LatentReading)} - {"layer"} == {*CHANGED}


def test_scales_and_heads_differ_from_the_right_ones_and_from_each_other() -> None:
    values = [round(scale(WEIGHTS, 0.9), 9) for scale in SCALES.values()]
    assert len({*values, 0.9}) == len(values) + 1
    columns = {tuple(rule(4, 5).ravel().tolist()) for rule in HEADS.values()}
    assert len(columns | {tuple(range(20))}) == len(HEADS) + 1


def test_calls_are_told_apart() -> None:
    calls = [(0, 1), (0, 3), (2, 1), (2, 3)]
    answers = {name: tuple(rule(*call) for call in calls) for name, rule in CALLS.items()}
    assert len({*answers.values()}) == len(CALLS)
    assert answers["later calls of one token"] == (False, False, True, False)


@pytest.mark.parametrize("latent", [LATENT, declared(2, (3, 2, 5, 6, 4), scale=0.9, low_rank=5)])
def test_the_bound_holds_for_float32_and_fails_for_a_fault(latent: Any) -> None:
    w = latent.projections
    names = ("kv_down", "kv_norm", "key_rope", "key_up", "value_up", "query", "output", "query_down", "query_norm")
    narrow = {name: None if getattr(w, name) is None else getattr(w, name).astype(np.float32) for name in names}
    single = replace(latent, projections=type(w)(**narrow, heads=w.heads))
    w = single.projections
    for seed in range(6):
        x = np.random.default_rng(seed).standard_normal((2, 9, w.hidden)).astype(np.float32)
        reading, drawn = LatentReading(single), Case(x.astype(np.float64), cuts=(3,))
        limit = reading.bound(w, drawn, 2.0**-24)
        first, cache = PlantedLatent(single)(x[:, :3])
        second, _ = PlantedLatent(single)(x[:, 3:], cache=cache)
        off = np.abs(np.concatenate([first, second], 1) - reading.predict(w, drawn)).max()
        assert 0 < off < limit < 0.05
        wrong = replace(reading, kept=("no weights", "the first call")).predict(w, drawn)
        assert np.abs(wrong - reading.predict(w, drawn)).max() > 3 * limit
