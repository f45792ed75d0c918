"""kvattn against 50 digits: its own error is measured, and stays inside the derived worst case.

The inputs are binary fractions and enter mpmath exactly; whatever differs is kvattn's rounding.  The online softmax of
kvattn takes 256 keys at a time, so the bound reckons with one tile more than the keys fill.
"""

from itertools import product
from typing import Any

import numpy as np
import pytest

import kvattn
from kvattn.masks import Causal, Window
from kvattn.testing.tolerance import Arithmetic, bounds

mpmath = pytest.importorskip("mpmath", minversion="1.3", reason="recomputes with 50 digits: kvattn[peers]")

pytestmark = pytest.mark.peer

DIGITS = 50


def case(batch: int, heads: int, kv_heads: int, queries: int, keys: int, size: float = 1.0, **options: Any) -> Any:
    rng = np.random.default_rng([batch, heads, queries, keys])
    shapes = (batch, heads, queries, 5), (batch, kv_heads, keys, 5), (batch, kv_heads, keys, 3)
    return [size * rng.standard_normal(shape) for shape in shapes], options


RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.arange(2, 5)[:, None], np.arange(5)

CASES = {
    "plain": case(2, 2, 2, 3, 4),
    "grouped, causal": case(1, 4, 2, 3, 5, visible=ROWS >= COLUMNS),
    "window": case(1, 2, 1, 3, 5, visible=(ROWS >= COLUMNS) & (ROWS - COLUMNS < 2)),
    "scale and cap": case(1, 2, 2, 3, 4, scale=0.7, softcap=1.5),
    "bias": case(1, 2, 2, 3, 4, bias=3 * RNG.standard_normal((1, 2, 3, 4))),
    "sinks": case(1, 4, 2, 2, 4, sinks=RNG.standard_normal(4)),
    "everything": case(
        1,
        4,
        2,
        3,
        5,
        scale=1.25,
        softcap=2.0,
        bias=RNG.standard_normal((1, 4, 3, 5)),
        sinks=RNG.standard_normal(4),
        visible=ROWS >= COLUMNS,
    ),
    "scores of hundreds": case(1, 1, 1, 3, 6, size=20.0),
    "more keys than a tile": case(1, 1, 1, 1, 600),
}


def exactly(q: Any, k: Any, v: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """``out`` and ``lse`` as mpmath numbers in object arrays."""
    mpf, group = mpmath.mpf, q.shape[1] // k.shape[1]
    out, lse = np.empty((*q.shape[:3], v.shape[3]), object), np.empty(q.shape[:3], object)
    visible = np.broadcast_to(options.get("visible", True), (*q.shape[:3], k.shape[2]))
    bias = np.broadcast_to(options.get("bias", 0.0), visible.shape)
    scale = mpf(options["scale"]) if "scale" in options else 1 / mpmath.sqrt(q.shape[3])
    for b, h, t in product(*(range(n) for n in q.shape[:3])):
        weights = {}
        for s in np.flatnonzero(visible[b, h, t]):
            score = scale * mpmath.fdot(map(mpf, q[b, h, t]), map(mpf, k[b, h // group, s]))
            if "softcap" in options:
                score = options["softcap"] * mpmath.tanh(score / mpf(options["softcap"]))
            weights[s] = mpmath.exp(score + mpf(bias[b, h, t, s]))
        sink = [mpmath.exp(mpf(options["sinks"][h]))] if "sinks" in options else []
        total = mpmath.fsum([*weights.values(), *sink])
        lse[b, h, t] = mpmath.log(total)
        for d in range(v.shape[3]):
            mixed = mpmath.fdot((weight, mpf(v[b, h // group, s, d])) for s, weight in weights.items())
            out[b, h, t, d] = mixed / total
    return out, lse


def excess(found: Any, exact: Any, bound: Any) -> float:
    """The largest error in units of its bound."""
    errors = [
        float(abs(mpmath.mpf(float(x)) - y) / mpmath.mpf(float(z)))
        for x, y, z in zip(found.ravel(), exact.ravel(), bound.ravel(), strict=True)
    ]
    return max(errors)


def call(q: Any, k: Any, v: Any, options: dict[str, Any], dtype: Any = np.float64) -> Any:
    ours = {"mask" if name == "visible" else name: x for name, x in options.items()}
    return kvattn.attend(q, k, v, **ours, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_the_error_is_inside_the_worst_case(name: str, dtype: str) -> None:
    (q, k, v), options = CASES[name]
    tiles = k.shape[2] // 256 + 2
    if dtype == "float32":  # the same numbers for both sides: what float32 holds
        q, k, v = (x.astype(dtype).astype(np.float64) for x in (q, k, v))
        options = {n: x.astype(dtype).astype(np.float64) if hasattr(x, "astype") else x for n, x in options.items()}
        if "visible" in options:
            options["visible"] = options["visible"].astype(bool)
    with mpmath.workdps(DIGITS):
        out, lse = exactly(q, k, v, options)
        found = call(q, k, v, options, dtype)
        bound = bounds(q, k, v, arithmetic=Arithmetic(dtype, tiles=tiles), **options)
        assert found.out.dtype == dtype
        assert excess(found.out, out, bound.worst) <= 1
        assert excess(found.lse, lse, bound.lse_worst) <= 1


@pytest.mark.parametrize("name", ["plain", "everything", "more keys than a tile"])
def test_an_error_in_the_last_digits_is_noticed(name: str) -> None:
    """One part in 10**11 of the scale, or of the output: a thousandth of what float32 would lose."""
    (q, k, v), options = CASES[name]
    with mpmath.workdps(DIGITS):
        out, lse = exactly(q, k, v, options)
        bound = bounds(q, k, v, arithmetic=Arithmetic("float64", tiles=k.shape[2] // 256 + 2), **options)
        scale = options.get("scale", 5**-0.5)
        bent = call(q, k, v, {**options, "scale": scale * (1 + 1e-11)})
        assert excess(bent.out, out, bound.worst) > 1
        found = call(q, k, v, options)
        assert excess(found.out * (1 + 1e-11), out, bound.worst) > 1
        assert excess(found.lse / np.log(2.0), lse, bound.lse_worst) > 1


def test_masks_by_name_are_the_same_cases() -> None:
    """``Causal`` and ``Window`` show what the arrays of the table show."""
    (q, k, v), options = CASES["window"]
    named = kvattn.attend(q, k, v, mask=Causal() & Window(2))
    for x, y in zip(named, call(q, k, v, options), strict=True):
        assert np.array_equal(x, y)
