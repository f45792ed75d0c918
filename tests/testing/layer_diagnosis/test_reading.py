"""A reading without differences is kvattn's own layer and the planted one, and each change of it changes something."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Causal, Window
from kvattn.positions import Alibi, Rotary, yarn_rotary
from kvattn.testing.layer_diagnosis.drawing import Drawing
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Case, LaidOut, Reading, bound
from kvattn.testing.planted_layer import PlantedLayer, press
from kvattn.testing.planted_rotation import PlantedRotation
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import HeadRmsNorm

PLANS = {
    "plain": Plan(),
    "turned": Plan(rotary=Rotary.of(6, layout="adjacent")),
    "YaRN": Plan(rotary=yarn_rotary(8, factor=4.0, trained=16)),
    "window": Plan(rotary=Rotary.of(8), window=3),
    "normed": Plan(rotary=Rotary.of(8), norm="before", eps=1e-4),
    "normed after": Plan(rotary=Rotary.of(8), norm="after"),
    "ALiBi": Plan(alibi=True),
    "everything": Plan(rotary=Rotary.of(4), scale=0.2, softcap=2.0, causal=False),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_kvattns_own_layer(name: str) -> None:
    plan = PLANS[name]
    weights, case = Drawing(B=2, T=6, Hq=6, Hkv=3, M=20, norms=True).build()
    matrices = (weights.w_q, weights.w_k, weights.w_v, weights.w_o)
    norm = HeadRmsNorm(query=weights.q_norm, key=weights.k_norm, eps=plan.eps)
    turns = [] if plan.rotary is None else [plan.rotary]
    between: list[Any] = {"before": [norm, *turns], "after": [*turns, norm], None: turns}[plan.norm]
    layer = Grouped(
        Projections(*matrices, heads=6, kv_heads=3),
        Window(plan.window) if plan.window else Causal() if plan.causal else None,
        query_key=tuple(between),
        mods=(Alibi.of(6),) if plan.alibi else (),
        scale=plan.scale,
        softcap=plan.softcap,
    )
    wanted = layer.definition(case.x, np.arange(6)).out
    assert Reading(plan).predict(weights, case) == pytest.approx(wanted, abs=1e-12)


def test_a_plan_in_parts_is_the_planted_layer_in_parts() -> None:
    plan = Plan(rotary=Rotary.of(8))
    weights, case = Drawing(B=3, T=8, positions="gaps").build()
    parts = case._replace(cuts=(3, 4))
    whole, cut = (Reading(plan).predict(weights, each) for each in (case, parts))
    assert cut == pytest.approx(whole, abs=1e-12)
    given: dict[str, Any] = {"w_q": weights.w_q, "w_k": weights.w_k, "w_v": weights.w_v, "w_o": weights.w_o}
    out = PlantedLayer(rotate=PlantedRotation())(case.x, **given, heads=4, kv_heads=2, positions=case.positions)
    assert whole == pytest.approx(out, abs=1e-12)


CHANGED: dict[str, Any] = {
    "uses": ("w_k", "w_q", "w_v"),
    "q_columns": "features first",
    "k_columns": "features first",
    "v_columns": "tokens first",
    "o_rows": "features first",
    "q_heads": "reversed",
    "o_heads": ((4, 2, (0, 3, 2, 1)),),
    "key_map": "h % Hkv",
    "value_map": "0",
    "output": "transposed",
    "scale": "1",
    "factor": 1.1,
    "turned": "q",
    "q_rotary": Rotary.of(4),
    "k_rotary": LaidOut(Rotary.of(8)),
    "q_offset": 1,
    "k_offset": -1,
    "q_places": "after the call",
    "table": 2,
    "places": "first row",
    "rounded": ("frequencies", "bfloat16"),
    "norm": "after",
    "norm_kind": "layer",
    "norm_axis": "all",
    "norm_weight": "1 + w",
    "eps": 0.1,
    "normed": "k",
    "slopes": "from h = 0",
    "slope_factor": 0.5,
    "sight": "strict",
    "window_extra": 1,
    "softcap": "none",
    "pads": "visible",
    "part_places": "restart",
    "part_given": False,
    "part_sight": "row numbers",
    "part_window": 2,
    "part_window_of": "one token",
    "shares": "never",
}


@pytest.mark.parametrize("name", CHANGED)
def test_every_field_matters(name: str) -> None:
    plan = Plan(rotary=Rotary.of(8), norm="before", window=3, softcap=1.5)
    plan = replace(plan, alibi=True) if name.startswith("slope") else plan
    valid = "left" if name == "pads" else ""
    cuts = (4,) if name.startswith("part") else ()
    positions = "" if valid or name == "q_places" else "gaps"
    heads = 4 if name == "uses" else 2
    drawing = Drawing(B=2, T=8, Hkv=heads, M=32, norms=True, positions=positions, valid=valid, cuts=cuts)
    drawing = replace(drawing, shares=name == "shares")
    weights, case = drawing.build()
    first: dict[str, Any] = {"part_given": {"part_places": "restart"}, "part_window_of": {"part_window": 2}}
    now = Reading(plan, **first.get(name, {}))
    other = replace(now, **{name: CHANGED[name]})
    assert np.abs(other.predict(weights, case) - now.predict(weights, case)).max() > 1e-6


def test_every_field_is_tried() -> None:
    assert {field.name for field in fields(Reading)} - {"plan", "pad_places", "shared"} == {*CHANGED}


def test_positions_under_padding_matter_where_parts_disagree() -> None:
    plan = Plan(rotary=Rotary.of(8))
    weights, case = Drawing(B=3, T=8, valid="left", cuts=(5,)).build()
    out = {rule: Reading(plan, pad_places=rule).predict(weights, case)[case.valid] for rule in ("counted", "rows")}
    assert out["rows"] == pytest.approx(out["counted"], abs=1e-12)  # a rotation sees differences alone
    for rule in ("rows, then counted", "counted, then rows"):
        other = Reading(plan, pad_places=rule).predict(weights, case)[case.valid]
        assert np.abs(other - out["counted"]).max() > 1e-3


def test_slopes_are_the_papers() -> None:
    assert Reading(Plan(alibi=True))._slopes(12).tolist() == pytest.approx(press(12))


@pytest.mark.parametrize("name", PLANS)
def test_the_bound_holds_for_float32_and_fails_for_less(name: str) -> None:
    plan = PLANS[name]
    for seed in range(8):
        weights, case = Drawing(B=2, T=9, M=26, norms=True, small=True, seed=seed).build()
        right = Reading(plan).predict(weights, case)
        planted = PlantedLayer(
            rotate=None if plan.rotary is None else _rotation(plan.rotary),
            norm=plan.norm is not None,
            normalise=lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(plan.eps)) * w,
            norm_before=plan.norm == "before",
            slopes=press if plan.alibi else None,
            sees=lambda i, j: (j <= i or not plan.causal) and (plan.window is None or i - j < plan.window),
            scale=lambda d, h, m: d**-0.5 if plan.scale is None else plan.scale,
            cap=lambda s, a: s * a if plan.softcap is None else plan.softcap * np.tanh(s * a / plan.softcap),
        )
        narrow = {n: getattr(weights, n).astype(np.float32) for n in ("w_q", "w_k", "w_v", "w_o", "q_norm", "k_norm")}
        x = case.x.astype(np.float32)
        single = replace(weights, **{n: v.astype(np.float64) for n, v in narrow.items()})
        exact = Reading(plan).predict(single, Case(x.astype(np.float64)))
        out = planted(x, **narrow, heads=4, kv_heads=2)
        limit = bound(Reading(plan), single, Case(x.astype(np.float64)), 2.0**-24)
        assert 0 < np.abs(out - exact).max() < limit
        assert limit < 0.05
        assert np.abs(right - exact).max() > bound(Reading(plan), weights, case, 2.0**-53)


def _rotation(rotary: Rotary) -> PlantedRotation:
    return PlantedRotation(
        width=rotary.width,
        frequencies=lambda n, w: rotary.frequencies,
        layout=rotary.layout,
        magnitude=rotary.magnitude,
    )
