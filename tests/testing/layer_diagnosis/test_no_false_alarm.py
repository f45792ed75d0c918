"""kvattn's own layers pass: by definition with positions, and step by step with their cache.

In float32 CI runs every third, ``KVATTN_PROFILE=deep`` all.
"""

from collections.abc import Callable
import os
from typing import Any

import numpy as np
import pytest

from kvattn.masks import Causal, Window
from kvattn.positions import (
    Alibi,
    DynamicNTK,
    LongRope,
    Rotary,
    linear_rotary,
    llama3_rotary,
    ntk_rotary,
    proportional_rotary,
    yarn_rotary,
)
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_targets import LayerTarget, layer_target_of
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.query_key_norm import HeadRmsNorm

PLANS = {
    "plain": Plan(),
    "half": Plan(rotary=Rotary.of(8)),
    "adjacent": Plan(rotary=Rotary.of(8, layout="adjacent")),
    "partial": Plan(rotary=Rotary.of(4)),
    "the last features": Plan(rotary=Rotary.of(4, start=-4)),
    "linear": Plan(rotary=linear_rotary(8, factor=4.0)),
    "NTK": Plan(rotary=ntk_rotary(8, alpha=4.0)),
    "Llama-3": Plan(rotary=llama3_rotary(8, trained=64)),
    "YaRN": Plan(rotary=yarn_rotary(8, factor=8.0, trained=64)),
    "proportional": Plan(rotary=proportional_rotary(8, share=0.5)),
    "dynamic NTK": Plan(rotary=DynamicNTK(8, factor=2.0, trained=64)),
    "LongRoPE": Plan(rotary=LongRope((1.0, 1.1, 1.2, 1.3), (2.0, 3.0, 4.0, 5.0), trained=64, factor=4.0)),
    "window": Plan(rotary=Rotary.of(8), window=3),
    "normed before": Plan(rotary=Rotary.of(8), norm="before", eps=1e-5),
    "normed after": Plan(rotary=Rotary.of(8), norm="after"),
    "ALiBi": Plan(alibi=True),
    "all keys": Plan(rotary=Rotary.of(8), causal=False),
    "scale and softcap": Plan(scale=0.3, softcap=2.0),
}


def grouped(plan: Plan, length: int) -> Callable[..., Grouped]:
    def build(w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int, kv_heads: int, q_norm: Any, k_norm: Any) -> Grouped:
        rotary = plan.rotary_at(length)
        turns: list[Any] = [] if rotary is None else [rotary]
        norm = HeadRmsNorm(query=q_norm, key=k_norm, eps=plan.eps)
        return Grouped(
            Projections(w_q, w_k, w_v, w_o, heads=heads, kv_heads=kv_heads),
            Window(plan.window) if plan.window else Causal() if plan.causal else None,
            query_key={"before": (norm, *turns), "after": (*turns, norm), None: tuple(turns)}[plan.norm],
            mods=(Alibi.of(heads),) if plan.alibi else (),
            scale=plan.scale,
            softcap=plan.softcap,
        )

    return build


def by_definition(plan: Plan) -> Callable[..., Any]:
    def layer(
        x: Any,
        *,
        w_q: Any,
        w_k: Any,
        w_v: Any,
        w_o: Any,
        heads: int,
        kv_heads: int,
        q_norm: Any = None,
        k_norm: Any = None,
        positions: Any = None,
    ) -> Any:
        at = np.arange(x.shape[1]) if positions is None else positions
        build = grouped(plan, int(np.max(at)) + 1)
        return build(w_q, w_k, w_v, w_o, heads, kv_heads, q_norm, k_norm).definition(x, at).out

    return layer


def by_steps(plan: Plan) -> Callable[..., Any]:
    def layer(
        x: Any,
        *,
        w_q: Any,
        w_k: Any,
        w_v: Any,
        w_o: Any,
        heads: int,
        kv_heads: int,
        q_norm: Any = None,
        k_norm: Any = None,
        cache: Any = None,
    ) -> Any:
        whole = grouped(plan, 1)(w_q, w_k, w_v, w_o, heads, kv_heads, q_norm, k_norm)
        attended, cache = whole.step(whole.start(len(x)) if cache is None else cache, x)
        return attended.out, cache

    return layer


IN_FLOAT32 = [*PLANS][:: 1 if os.environ.get("KVATTN_PROFILE") == "deep" else 3]


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float64") for name in PLANS), *((name, "float32") for name in IN_FLOAT32)]
)
def test_definitions_pass(name: str, dtype: str) -> None:
    function = by_definition(PLANS[name])
    target = LayerTarget(name, function, PLANS[name], None, layer_target_of(function).features)
    bench, margin = look(target, dtype=dtype, cases=15)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1


@pytest.mark.parametrize("name", [name for name in PLANS if PLANS[name].causal])
def test_steps_pass(name: str) -> None:
    function = by_steps(PLANS[name])
    target = LayerTarget(name, function, PLANS[name], None, layer_target_of(function).features)
    bench, margin = look(target, cases=15)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1
