"""Layers that compute in 16 bits stay within their bound, which is near enough to see what differs there alone."""

from dataclasses import dataclass
import os
from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary, llama3_rotary, yarn_rotary
from kvattn.positions.alibi import slopes
from kvattn.testing.layer_diagnosis.drawing import NARROW, Drawing
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_diagnosis.narrow import narrow_bound
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_diagnosis.reading import Reading
from kvattn.testing.layer_targets import LayerTarget, layer_target_of
from kvattn.testing.planted_layer import PlantedLayer

pytest.importorskip("ml_dtypes", reason="ml_dtypes has bfloat16")

PLANS: dict[str, Plan] = {
    "plain": Plan(),
    "turned": Plan(rotary=Rotary.of(8)),
    "partial, adjacent": Plan(rotary=Rotary.of(4, layout="adjacent", start=-4)),
    "normed before": Plan(rotary=Rotary.of(8), norm="before"),
    "normed after": Plan(rotary=Rotary.of(8), norm="after"),
    "YaRN": Plan(rotary=yarn_rotary(8, factor=16.0, trained=64)),
    "Llama-3": Plan(rotary=llama3_rotary(8, trained=32)),
    "several axes": Plan(rotary=Rotary(Rotary.of(8).frequencies, axes=(0, 1, 1, 2))),
    "ALiBi": Plan(alibi=True),
    "a window and a softcap": Plan(window=3, softcap=1.5, scale=0.5),
}


@dataclass
class Half:
    """A layer as models compute it in 16 bits: products summed in float32, all that is stored in its input's numbers.

    ``pure``: the softmax is taken in 16 bits too.  ``rounds``: ``"positions"`` or ``"frequencies"`` are rounded to the
    input's numbers.  ``takes``: the one element type that it takes.  ``scale``: a factor on it, in 16 bits alone.
    """

    expects: Plan
    pure: bool = False
    rounds: str = ""
    takes: str = ""
    scale: float = 1.0

    def __call__(
        self,
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
        valid: Any = None,
    ) -> Any:
        if self.takes and x.dtype.name != self.takes:
            raise TypeError(f"expected {self.takes}, got {x.dtype}")
        plan, kind = self.expects, x.dtype
        wide = np.float32 if kind.itemsize == 2 else kind

        def stored(value: Any) -> Any:
            return np.asarray(value).astype(kind)

        def product(a: Any, b: Any) -> Any:
            return stored(a.astype(wide) @ b.astype(wide))

        batch, length, _ = x.shape
        width = w_q.shape[1] // heads
        q, k, v = (
            product(x, w).reshape(batch, length, n, width).swapaxes(1, 2)
            for w, n in ((w_q, heads), (w_k, kv_heads), (w_v, kv_heads))
        )
        held = np.ones((batch, length), bool) if valid is None else valid
        v = np.where(held[:, None, :, None], v, np.zeros((), kind))
        at = np.maximum(np.cumsum(held, 1) - 1, 0) if positions is None else positions
        if plan.axes and positions is None:
            at = np.broadcast_to(at, (plan.axes, *at.shape))

        def normed(rows: Any, weight: Any) -> Any:
            flat = rows.astype(wide)
            return stored(stored(flat / np.sqrt((flat * flat).mean(-1, keepdims=True) + plan.eps)) * weight)

        def turned(rows: Any) -> Any:
            rotary = plan.rotary_at(length)
            if rotary is None:
                return rows
            count, start = len(rotary.frequencies), rotary.start % width
            theta, places = np.array(rotary.frequencies, wide), at.astype(wide)
            theta = stored(theta).astype(wide) if self.rounds == "frequencies" else theta
            places = stored(places).astype(wide) if self.rounds == "positions" else places
            axes = (0,) * count if rotary.axes is None else rotary.axes
            places = places[None] if places.ndim == 2 else places
            angles = np.stack([places[axis] * f for axis, f in zip(axes, theta, strict=True)], -1)[:, None]
            cosine, sine = stored(np.cos(angles) * rotary.magnitude), stored(np.sin(angles) * rotary.magnitude)
            half = rotary.layout == "half"
            first = start + np.arange(count) * (1 if half else 2)
            second = first + (count if half else 1)
            out, a, b = rows.copy(), rows[..., first], rows[..., second]
            out[..., first] = stored(a * cosine) - stored(b * sine)
            out[..., second] = stored(b * cosine) + stored(a * sine)
            return out

        for step in ("before", "turn", "after"):
            if step == plan.norm:
                q, k = normed(q, q_norm), normed(k, k_norm)
            if step == "turn":
                q, k = turned(q), turned(k)
        k, v = (np.repeat(part, heads // kv_heads, 1) for part in (k, v))
        scale = (width**-0.5 if plan.scale is None else plan.scale) * (self.scale if kind.itemsize == 2 else 1)
        scores = stored(product(q, k.swapaxes(2, 3)) * np.array(scale, kind))
        if plan.softcap is not None:
            cap = np.array(plan.softcap, kind)
            scores = stored(stored(np.tanh(stored(scores / cap))) * cap)
        if plan.alibi:
            distance = stored(np.arange(length)[:, None] - np.arange(length))
            scores = stored(scores - stored(stored(slopes(heads))[:, None, None] * distance))
        i, j = np.arange(length)[:, None], np.arange(length)
        keep = (j <= i) & (i - j < (plan.window or length)) & held[:, None, None, :]
        scores = np.where(keep, scores.astype(wide), -np.inf)
        top = scores.max(-1, keepdims=True)
        scores = scores - np.where(np.isneginf(top), 0, top)
        grown = stored(np.exp(stored(scores))) if self.pure else np.exp(scores)
        total = grown.astype(wide).sum(-1, keepdims=True)
        weights = stored(grown / np.where(total == 0, 1, total).astype(grown.dtype))
        return product(product(weights, v).swapaxes(1, 2).reshape(batch, length, -1), w_o)


def target(layer: Half) -> LayerTarget:
    return LayerTarget("mine", layer, layer.expects, None, layer_target_of(layer).features)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", PLANS)
def test_a_right_layer_passes_in_16_bits(name: str, dtype: str) -> None:
    count = 80 if os.environ.get("KVATTN_PROFILE") == "deep" else 12
    for layer in (Half(PLANS[name]), Half(PLANS[name], pure=True, takes=dtype)):
        bench, margin = look(target(layer), dtype=dtype, cases=count)
        assert bench.findings == []
        assert margin is not None
        assert margin.cases == count
        assert 0.01 < margin.worst < 1
        assert any("not read" in note for note in bench.notes) == bool(layer.takes)


@pytest.mark.parametrize("dtype", NARROW)
def test_the_bound_is_a_small_part_of_the_output(dtype: str) -> None:
    for name in ("plain", "turned", "ALiBi", "YaRN"):
        plan = PLANS[name]
        weights, case = Drawing(T=9, seed=3, positions="" if plan.alibi else "far").build()
        out = Reading(plan).predict(weights, case)
        part = np.median(narrow_bound(Reading(plan), weights, case, NARROW[dtype])) / np.sqrt((out**2).mean())
        assert part < 0.6 * NARROW[dtype] / NARROW["bfloat16"], name


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("rounds", ["positions", "frequencies"])
def test_what_is_rounded_in_16_bits_alone_is_named(
    rounds: str, alone: bool, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = Half(PLANS["turned"], rounds=rounds, takes=dtype if alone else "")
    bench, _ = look(target(layer), dtype=dtype, cases=40)
    if (rounds, dtype) != ("positions", "bfloat16"):  # whole numbers to 2048 are float16's; distances drawn are short
        assert bench.findings == []
        return
    (finding,) = bench.findings
    assert (finding.fault_class, finding.parameters) == ("rope-precision", {"rounded": rounds, "format": dtype})
    exec(finding.reproduce, {"f": layer})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted


@pytest.mark.parametrize("dtype", NARROW)
def test_what_wide_numbers_show_is_named_and_16_bits_are_left(dtype: str) -> None:
    layer = Half(Plan(rotary=Rotary.of(8, base=777.0)))
    given = LayerTarget("mine", layer, PLANS["turned"], None, layer_target_of(layer).features)
    bench, _ = look(given, dtype=dtype, cases=5)
    (finding,) = bench.findings
    assert (finding.fault_class, finding.parameters["base"]) == ("rope-scaling", 777.0)
    assert any(f"{dtype} was not compared" in note for note in bench.notes)


@pytest.mark.parametrize("dtype", NARROW)
def test_what_differs_in_16_bits_alone_is_found(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    layer = Half(PLANS["turned"], scale=3.0)
    bench, margin = look(target(layer), dtype=dtype, cases=20)
    (finding,) = bench.findings
    assert (finding.fault_class, finding.parameters["in"]) == ("unclassified", dtype)
    assert margin is not None
    assert margin.worst > 1
    exec(finding.reproduce, {"f": layer})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted


def test_dropout_is_named_in_16_bits_too() -> None:
    bench, _ = look(layer_target_of(PlantedLayer(dropout=0.25)), dtype="float16", cases=2)
    assert [(f.fault_class, f.parameters["p"]) for f in bench.findings] == [("dropout-eval", 0.25)]


def test_a_layer_that_raises_in_16_bits_is_told() -> None:
    def raises(x: Any, *, w_q: Any, w_k: Any, w_v: Any, w_o: Any, heads: int) -> Any:
        raise RuntimeError("not today")

    bench, margin = look(layer_target_of(raises), dtype="float16")
    assert margin is None
    assert bench.findings[0].detail == "It raises RuntimeError: not today."
