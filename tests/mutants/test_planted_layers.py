"""Every layer with a planted fault is detected and named, with its parameters.

CI runs the first of each class and every third of the others, a few in float32, and right layers in float32 with
their caches alone, every third of them; ``KVATTN_PROFILE=deep`` all.  What is planted stands in
`kvattn.testing.planted_layer`, a loop over queries that is written apart from what reads it.
"""

from collections.abc import Callable
import math
import os
from typing import Any

import numpy as np
import pytest

from kvattn.positions import Rotary, linear_rotary, llama3_rotary, yarn_rotary
from kvattn.testing.formats import FORMATS
from kvattn.testing.layer_diagnosis.looking import look
from kvattn.testing.layer_diagnosis.plan import Plan
from kvattn.testing.layer_targets import LayerTarget, layer_target_of
from kvattn.testing.planted_layer import PlantedLayer, press, rms
from kvattn.testing.planted_rotation import PlantedRotation

DEEP = os.environ.get("KVATTN_PROFILE") == "deep"

BF16 = FORMATS["bfloat16"].round

PLAIN = Plan()
TURNED = Plan(rotary=Rotary.of(8))
PARTIAL = Plan(rotary=Rotary.of(4))
NORMED = Plan(rotary=Rotary.of(8), norm="before")
AFTER = Plan(rotary=Rotary.of(8), norm="after")
ALIBI = Plan(alibi=True)
WINDOW = Plan(rotary=Rotary.of(8), window=3)
WIDER = Plan(rotary=Rotary.of(8), window=6)
CAPPED = Plan(softcap=1.5)
YARN = Plan(rotary=yarn_rotary(8, factor=16.0, trained=64))
LLAMA3 = Plan(rotary=llama3_rotary(8, trained=32))
LINEAR = Plan(rotary=linear_rotary(8, factor=4.0))
AXES = Plan(rotary=Rotary(Rotary.of(8).frequencies, axes=(0, 1, 1, 2)))


def turned(**faults: Any) -> PlantedRotation:
    return PlantedRotation(**faults)


def theta(width: int, base: float = 10000.0) -> Any:
    return base ** -(np.arange(0, width, 2) / width)


def fixed(plan: Plan) -> Callable[[int, int], Any]:
    return lambda length, width: plan.rotary.frequencies


def eps(value: float) -> Callable[[Any, Any], Any]:
    return lambda x, w: rms(x, w, value)


def layer_norm(x: Any, w: Any) -> Any:
    return rms(x - x.mean(-1, keepdims=True), w, 1e-6)


def unit(x: Any, w: Any) -> Any:
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6) * w


def unweighted(x: Any, w: Any) -> Any:
    return rms(x, np.ones_like(w), 1e-6)


def zero_centred(x: Any, w: Any) -> Any:
    return rms(x, 1 + w, 1e-6)


def over_heads(x: Any, w: Any) -> Any:
    return x / np.sqrt((x * x).mean((1, 3), keepdims=True) + 1e-6) * w


def power(heads: int) -> list[float]:
    return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]


def from_zero(heads: int) -> list[float]:
    return [2.0 ** (-8 * h / heads) for h in range(heads)]


def tiled(h: int, hq: int, hkv: int) -> int:
    return h % hkv


def divided(h: int, hq: int, hkv: int) -> int:
    return min(h // hkv, hkv - 1)


def capped(value: float, scale: float) -> float:
    return 1.5 * math.tanh(value * scale / 1.5)


CORE: dict[str, tuple[dict[str, Any], Plan, str, dict[str, Any]]] = {
    # name: planted, plan, class, parameters
    "no output projection": (
        {"project": lambda joined, w_o: joined},
        TURNED,
        "output-projection",
        {"used": "none"},
    ),
    "output projection transposed": (
        {"project": lambda joined, w_o: joined @ w_o.T},
        PLAIN,
        "output-projection",
        {"used": "transposed"},
    ),
    "columns of queries features first": (
        {"columns": ("dh", "hd", "hd")},
        TURNED,
        "gqa-map",
        {"columns": "features first", "of": ["w_q"]},
    ),
    "columns of keys features first": (
        {"columns": ("hd", "dh", "hd")},
        TURNED,
        "gqa-map",
        {"columns": "features first", "of": ["w_k"]},
    ),
    "columns of values features first": (
        {"columns": ("hd", "hd", "dh")},
        PLAIN,
        "gqa-map",
        {"columns": "features first", "of": ["w_v"]},
    ),
    "all columns features first": (
        {"columns": ("dh", "dh", "dh")},
        TURNED,
        "gqa-map",
        {"columns": "features first", "of": ["w_q", "w_k", "w_v"]},
    ),
    "heads joined before tokens": ({"rows": (0, 1, 2, 3)}, TURNED, "gqa-map", {"columns": "tokens first"}),
    "heads joined features first": ({"rows": (0, 2, 3, 1)}, PLAIN, "gqa-map", {"columns": "features first"}),
    "heads joined in reverse": (
        {"joined_place": lambda h, hq, hkv: hq - 1 - h},
        TURNED,
        "gqa-map",
        {"heads": "reversed", "of": ["w_o"]},
    ),
    "heads joined with groups and their members exchanged": (
        {"joined_place": lambda h, hq, hkv: h % hkv * (hq // hkv) + h // hkv},
        PLAIN,
        "gqa-map",
        {"heads": "h % Hkv * (Hq // Hkv) + h // Hkv", "of": ["w_o"]},
    ),
    "heads joined in reverse within groups": (
        {"joined_place": lambda h, hq, hkv: h // (hq // hkv) * (hq // hkv) + hq // hkv - 1 - h % (hq // hkv)},
        NORMED,
        "gqa-map",
        {"heads": "reversed in each group", "of": ["w_o"]},
    ),
    "columns of query heads in reverse": (
        {"query_place": lambda h, hq, hkv: hq - 1 - h},
        TURNED,
        "gqa-map",
        {"heads": "reversed", "of": ["w_q"]},
    ),
    "columns of query heads one on": (
        {"query_place": lambda h, hq, hkv: (h + 1) % hq},
        ALIBI,
        "gqa-map",
        {"heads": "(h + 1) % Hq", "of": ["w_q"]},
    ),
    "heads joined in no order that has a name": (
        {"joined_place": lambda h, hq, hkv: (h + 1) % hq if h % 2 else h - 1 if h else hq - 2},
        TURNED,
        "gqa-map",
        {"of": ["w_o"]},
    ),
    "query heads that read heads by no rule that has a name": (
        {"key_head": lambda h, hq, hkv: 1 - (h == 1), "value_head": lambda h, hq, hkv: 1 - (h == 1)},
        TURNED,
        "gqa-map",
        {"of": ["k", "v"]},
    ),
    "heads tiled": (
        {"key_head": tiled, "value_head": tiled},
        TURNED,
        "gqa-map",
        {"map": "h % Hkv", "of": "k and v"},
    ),
    "keys tiled, values not": ({"key_head": tiled}, TURNED, "gqa-map", {"map": "h % Hkv", "of": "k"}),
    "values tiled, keys not": ({"value_head": tiled}, PLAIN, "gqa-map", {"map": "h % Hkv", "of": "v"}),
    "head over heads": (
        {"key_head": divided, "value_head": divided},
        PLAIN,
        "gqa-map",
        {"map": "h // Hkv", "of": "k and v"},
    ),
    "no scale": ({"scale": lambda d, h, m: 1.0}, PLAIN, "scale", {"rule": "1"}),
    "scale 1 / D": ({"scale": lambda d, h, m: 1 / d}, TURNED, "scale", {"rule": "1 / D"}),
    "scale of all heads": (
        {"scale": lambda d, h, m: (d * h) ** -0.5},
        TURNED,
        "scale",
        {"rule": "1 / sqrt(Hq * D)"},
    ),
    "scale of the hidden size": ({"scale": lambda d, h, m: m**-0.5}, PLAIN, "scale", {"rule": "1 / sqrt(M)"}),
    "scale of none": ({"scale": lambda d, h, m: 0.0}, PLAIN, "scale", {"rule": "0"}),
    "scale by another factor": ({"scale": lambda d, h, m: 1.3 / d**0.5}, TURNED, "scale", {"factor": 1.3}),
    "no causal mask": ({"sees": lambda i, j: True}, TURNED, "mask-dropped", {"argument": "causal"}),
    "one key ahead": ({"sees": lambda i, j: j <= i + 1}, TURNED, "causal-align", {"shift": 1}),
    "not itself": ({"sees": lambda i, j: j < i}, PLAIN, "causal-align", {"shift": -1}),
    "one key beyond the window": (
        {"sees": lambda i, j: 0 <= i - j <= 3},
        WINDOW,
        "window-off-by-one",
        {"extra": 1},
    ),
    "one key short of the window": (
        {"sees": lambda i, j: 0 <= i - j < 2},
        WINDOW,
        "window-off-by-one",
        {"extra": -1},
    ),
    "no window": ({}, WINDOW, "mask-dropped", {"argument": "window"}),
    "no softcap": ({}, CAPPED, "softcap", {"rule": "none"}),
    "softcap before scale": (
        {"cap": lambda value, scale: scale * 1.5 * math.tanh(value / 1.5)},
        CAPPED,
        "softcap",
        {"rule": "before scale"},
    ),
    "another softcap": (
        {"cap": lambda value, scale: 2.5 * math.tanh(value * scale / 2.5)},
        CAPPED,
        "softcap",
        {"cap": 2.5},
    ),
    "ALiBi by the rule for powers of two": (
        {"slopes": power},
        ALIBI,
        "alibi-slopes",
        {"slopes": "power of two for any number"},
    ),
    "ALiBi from head 0": ({"slopes": from_zero}, ALIBI, "alibi-slopes", {"slopes": "from h = 0"}),
    "no ALiBi": ({}, ALIBI, "alibi-slopes", {"slopes": "none"}),
    "ALiBi upside down": ({"slopes": lambda n: [-s for s in press(n)]}, ALIBI, "alibi-slopes", {"factor": -1.0}),
    "ALiBi in reverse": ({"slopes": lambda n: press(n)[::-1]}, ALIBI, "alibi-slopes", {"slopes": "reversed"}),
    "ALiBi times a factor": (
        {"slopes": lambda n: [0.3 * s for s in press(n)]},
        ALIBI,
        "alibi-slopes",
        {"factor": 0.3},
    ),
    "weights dropped": ({"dropout": 0.25}, PLAIN, "dropout-eval", {"p": 0.25, "of": "weights"}),
    "weights dropped, half": ({"dropout": 0.5, "rotate": turned()}, TURNED, "dropout-eval", {"p": 0.5}),
}
"""Faults that need no rotation; those whose plan has one get it."""

ROTATIONS: dict[str, tuple[dict[str, Any], Plan, str, dict[str, Any]]] = {
    # name: planted, plan, class, parameters
    "not turned": ({}, TURNED, "rope-missing", {"of": "q and k"}),
    "keys not turned": ({"rotate": turned(skips="k")}, TURNED, "rope-missing", {"of": "k"}),
    "queries not turned": ({"rotate": turned(skips="q")}, TURNED, "rope-missing", {"of": "q"}),
    "values turned too": ({"rotate": turned(), "rotates_values": True}, TURNED, "rope-missing", {"also": "v"}),
    "keys adjacent": (
        {"rotate": turned(layout="adjacent", only="k")},
        TURNED,
        "rope-layout",
        {"queries": "half", "keys": "adjacent"},
    ),
    "queries adjacent": (
        {"rotate": turned(layout="adjacent", only="q")},
        TURNED,
        "rope-layout",
        {"queries": "adjacent", "keys": "half"},
    ),
    "half pairs, adjacent angles": (
        {"rotate": turned(angles="adjacent")},
        TURNED,
        "rope-layout",
        {"pairs": "half", "angles": "adjacent"},
    ),
    "keys backwards": ({"rotate": turned(direction=-1, only="k")}, TURNED, "rope-layout", {"of": "k"}),
    "both backwards": ({"rotate": turned(direction=-1)}, TURNED, "rope-layout", {"of": "q and k"}),
    "another base": ({"rotate": turned(base=500000.0)}, TURNED, "rope-scaling", {"base": 500000.0}),
    "a strange base": ({"rotate": turned(base=777.0)}, TURNED, "rope-scaling", {"base": 777.0}),
    "one pair at another speed": (
        {"rotate": turned(frequencies=lambda n, w: [1.0, 0.73, 0.01, 0.001])},
        TURNED,
        "rope-scaling",
        {"scheme": "list", "frequencies": [1.0, 0.73, 0.01, 0.001]},
    ),
    "all features turn": ({"rotate": turned()}, PARTIAL, "rope-partial", {"width": 8}),
    "the last features turn": (
        {"rotate": turned(width=4, start=-4)},
        PARTIAL,
        "rope-partial",
        {"start": 4, "width": 4},
    ),
    "exponents over D": (
        {"rotate": turned(width=4, exponent=8)},
        PARTIAL,
        "rope-partial",
        {"exponent_width": 8},
    ),
    "keys one later": ({"rotate": turned(offset=1, only="k")}, TURNED, "rope-offset", {"offset": 1, "of": "k"}),
    "queries two earlier": ({"rotate": turned(offset=-2, only="q")}, TURNED, "rope-offset", {"offset": 2, "of": "k"}),
    "linear dropped": ({"rotate": turned()}, LINEAR, "rope-scaling", {"scheme": "plain"}),
    "linear by another factor": (
        {"rotate": turned(frequencies=lambda n, w: theta(w) / 6)},
        LINEAR,
        "rope-scaling",
        {"factor": 1.5},
    ),
    "Llama-3 dropped": ({"rotate": turned(base=500000.0)}, LLAMA3, "rope-scaling", {"scheme": "plain"}),
    "YaRN dropped": (
        {"rotate": turned(magnitude=YARN.rotary.magnitude)},
        YARN,
        "rope-scaling",
        {"scheme": "plain"},
    ),
    "YaRN's factor ignored": (
        {"rotate": turned(frequencies=fixed(YARN))},
        YARN,
        "rope-scaling",
        {"factor_of_scale": "magnitude ** -2"},
    ),
    "YaRN's factor on queries alone": (
        {
            "rotate": turned(
                frequencies=fixed(YARN),
                magnitude=YARN.rotary.magnitude,
                only="q",
                other=turned(frequencies=fixed(YARN)),
            )
        },
        YARN,
        "rope-scaling",
        {"factor_of_scale": "magnitude ** -1"},
    ),
    "YaRN's factor squared": (
        {"rotate": turned(frequencies=fixed(YARN), magnitude=YARN.rotary.magnitude**2)},
        YARN,
        "rope-scaling",
        {"factor_of_scale": "magnitude ** 2"},
    ),
    "frequencies in bfloat16": (
        {"rotate": turned(rounding={"frequencies": BF16})},
        TURNED,
        "rope-precision",
        {"rounded": "frequencies", "format": "bfloat16"},
    ),
    "positions in bfloat16": (
        {"rotate": turned(rounding={"positions": BF16})},
        TURNED,
        "rope-precision",
        {"rounded": "positions", "format": "bfloat16"},
    ),
    "positions not used": ({"rotate": turned(reads="restart")}, TURNED, "rope-offset", {"positions": "rows"}),
    "positions of the first row": (
        {"rotate": turned(reads="first row")},
        TURNED,
        "rope-offset",
        {"positions": "first row"},
    ),
    "a table of 8 rows": ({"rotate": turned(table=8)}, TURNED, "rope-table", {"rows": 8, "beyond": "clamp"}),
    "a table of 302 rows": ({"rotate": turned(table=302)}, TURNED, "rope-table", {"rows": 302, "beyond": "clamp"}),
    "norm after and not before": (
        {"rotate": turned(), "norm": True, "norm_before": False},
        NORMED,
        "qk-norm-order",
        {"norm": "after"},
    ),
    "norm before and not after": (
        {"rotate": turned(), "norm_before": True},
        AFTER,
        "qk-norm-order",
        {"norm": "before"},
    ),
    "no norm": ({"rotate": turned()}, NORMED, "qk-norm-order", {"norm": "none"}),
    "queries alone normed": (
        {"rotate": turned(), "norm": True, "norms_keys": False},
        NORMED,
        "qk-norm-order",
        {"normed": "q"},
    ),
    "another eps": (
        {"rotate": turned(), "norm": True, "normalise": eps(1e-5)},
        NORMED,
        "qk-norm-order",
        {"eps": 1e-5},
    ),
    "a layer norm": (
        {"rotate": turned(), "norm": True, "normalise": layer_norm},
        NORMED,
        "qk-norm-order",
        {"kind": "layer"},
    ),
    "unit length": ({"rotate": turned(), "norm": True, "normalise": unit}, NORMED, "qk-norm-order", {"kind": "l2"}),
    "norm over all heads": (
        {"rotate": turned(), "norm": True, "normalise": over_heads},
        NORMED,
        "qk-norm-order",
        {"axis": "all"},
    ),
    "norms exchanged": (
        {"rotate": turned(), "norm": True, "swaps_norms": True},
        NORMED,
        "qk-norm-order",
        {"weight": "exchanged"},
    ),
    "weights of the norms ignored": (
        {"rotate": turned(), "norm": True, "normalise": unweighted},
        NORMED,
        "qk-norm-order",
        {"weight": "none"},
    ),
    "zero-centred weights": (
        {"rotate": turned(), "norm": True, "normalise": zero_centred},
        NORMED,
        "qk-norm-order",
        {"weight": "1 + w"},
    ),
}

PADDED: dict[str, tuple[dict[str, Any], Plan, str, dict[str, Any]]] = {
    "pads visible": (
        {"pads": np.ones_like},
        TURNED,
        "padding-positions",
        {"pads": "visible"},
    ),
    "valid read the wrong way": ({"pads": np.logical_not}, PLAIN, "mask-polarity", {"pads": "reversed"}),
    "the first row's padding": (
        {"pads": lambda valid: valid[:1] | np.zeros_like(valid)},
        TURNED,
        "batch-row-state",
        {"pads": "first row"},
    ),
}

CACHED: dict[str, tuple[dict[str, Any], Plan, str, dict[str, Any]]] = {
    "positions restart in each call": (
        {"part": lambda before, count, right: np.arange(count) + np.zeros_like(right)},
        TURNED,
        "rope-offset",
        {"positions": "restart"},
    ),
    "positions one too large": (
        {"part": lambda before, count, right: right + 1},
        TURNED,
        "rope-offset",
        {"positions": "one more"},
    ),
    "positions one too small": (
        {"part": lambda before, count, right: right - 1},
        TURNED,
        "rope-offset",
        {"positions": "one less"},
    ),
    "the triangle of a later part at the top left": (
        {"part_sees": lambda i, j, begin, end: j <= i - begin},
        TURNED,
        "chunked-prefill",
        {"sees": "row numbers"},
    ),
    "a later part without a triangle": (
        {"part_sees": lambda i, j, begin, end: True},
        TURNED,
        "chunked-prefill",
        {"sees": "all"},
    ),
    "the window not applied to one token after a prompt": (
        {"part_sees": lambda i, j, begin, end: j <= i if end - begin == 1 else 0 <= i - j < 3},
        WINDOW,
        "mask-dropped",
        {"argument": "window", "parts": "one token"},
    ),
    "the window of 6 not applied to one token after a prompt": (
        {"part_sees": lambda i, j, begin, end: j <= i if end - begin == 1 else 0 <= i - j < 6},
        WIDER,
        "mask-dropped",
        {"argument": "window", "parts": "one token"},
    ),
    "the window not applied to later parts": (
        {"part_sees": lambda i, j, begin, end: j <= i},
        WINDOW,
        "mask-dropped",
        {"argument": "window", "parts": "all"},
    ),
    "the window not applied to several tokens after others": (
        {"part_sees": lambda i, j, begin, end: j <= i if end - begin > 1 else 0 <= i - j < 3},
        WINDOW,
        "mask-dropped",
        {"argument": "window", "parts": "several tokens"},
    ),
    "a window of one more at decode": (
        {"part_sees": lambda i, j, begin, end: 0 <= i - j < (4 if end - begin == 1 else 3)},
        WINDOW,
        "window-off-by-one",
        {"extra": 1, "parts": "one token"},
    ),
    "a window of one fewer in later parts": (
        {"part_sees": lambda i, j, begin, end: 0 <= i - j < 2},
        WINDOW,
        "window-off-by-one",
        {"extra": -1, "parts": "all"},
    ),
    "a window of two more in later parts": (
        {"part_sees": lambda i, j, begin, end: 0 <= i - j < 5},
        WINDOW,
        "window-cache",
        {"keys": 5, "parts": "all"},
    ),
    "rows dropped before the first tokens of a part have read": (
        {"part_sees": lambda i, j, begin, end: 0 <= i - j < 3 and j >= end - 3},
        WINDOW,
        "window-cache",
        {"evicts": "before all queries have read"},
    ),
    "the past cut to 4 keys where there is no window": (
        {"part_sees": lambda i, j, begin, end: 0 <= i - j < 4},
        TURNED,
        "window-cache",
        {"keys": 4, "parts": "all"},
    ),
    "the past forgotten": ({"remembers": False}, TURNED, "chunked-prefill", {"sees": "itself"}),
    "the past forgotten, no rotation": ({"remembers": False}, PLAIN, "chunked-prefill", {"sees": "itself"}),
    "the prompt counted by rows, later tokens by themselves": (
        {"counts_pads": (True, False)},
        TURNED,
        "padding-positions",
        {"positions": "rows, then counted"},
    ),
    "later tokens counted by rows": (
        {"counts_pads": (False, True)},
        TURNED,
        "padding-positions",
        {"positions": "counted, then rows"},
    ),
    "several axes lost at decode": (
        {"part": lambda before, count, right: before + np.arange(count) + np.zeros_like(right)},
        AXES,
        "mrope",
        {"positions": "length"},
    ),
    "several axes restart at decode": (
        {"part": lambda before, count, right: np.arange(count) + np.zeros_like(right)},
        AXES,
        "mrope",
        {"positions": "restart"},
    ),
}

WRONG = {**CORE, **ROTATIONS, **PADDED, **CACHED}

BY_ROWS = {"counts_pads": (True, True)}
"""Tokens are counted by rows under padding: right, as rotations and slopes see differences alone."""

THROUGH: dict[str, tuple[dict[str, Any], Plan, str, dict[str, Any]]] = {
    # a fault through which more is seen that is no fault: one finding
    "heads reshaped, not moved": ({"rows": (0, 1, 2, 3)}, TURNED, "gqa-map", {"columns": "tokens first"}),
    "keys alone turned": ({"rotate": turned(skips="q")}, TURNED, "rope-missing", {"of": "q"}),
    "pads seen at their rows": ({"pads": np.ones_like}, TURNED, "padding-positions", {"pads": "visible"}),
    "positions restart where none are given": (
        {"part": lambda before, count, right: np.arange(count) + np.zeros_like(right), "keeps_given": True},
        TURNED,
        "rope-offset",
        {"positions": "restart"},
    ),
    "positions one later where none are given": (
        {"part": lambda before, count, right: right + 1, "keeps_given": True},
        TURNED,
        "rope-offset",
        {"positions": "one more"},
    ),
    "a window at decode alone": (
        {
            "sees": lambda i, j: j <= i,
            "part_sees": lambda i, j, begin, end: j <= i if end - begin > 1 else 0 <= i - j < 3,
        },
        WINDOW,
        "mask-dropped",
        {"argument": "window"},
    ),
    "no causal mask in a first call": ({"sees": lambda i, j: True}, TURNED, "mask-dropped", {"argument": "causal"}),
    "a window of one more in a first call": (
        {"sees": lambda i, j: 0 <= i - j <= 3},
        WINDOW,
        "window-off-by-one",
        {"extra": 1},
    ),
    "a table of 8 rows, tokens counted by rows": (
        {"rotate": turned(table=8)},
        TURNED,
        "rope-table",
        {"rows": 8, "beyond": "clamp"},
    ),
}

DOUBLE: dict[str, tuple[dict[str, Any], Plan, set[str]]] = {
    # two faults, neither of which follows from the other
    "queries not turned, the prompt by rows and later tokens by themselves": (
        {"rotate": turned(skips="q"), "counts_pads": (True, False)},
        TURNED,
        {"rope-missing", "padding-positions"},
    ),
    "heads tiled, pads visible": (
        {"key_head": tiled, "value_head": tiled, "pads": np.ones_like, **BY_ROWS},
        TURNED,
        {"gqa-map", "padding-positions"},
    ),
    "heads reshaped, positions restart": (
        {
            "rows": (0, 1, 2, 3),
            "part": lambda before, count, right: np.arange(count) + np.zeros_like(right),
            "keeps_given": True,
            **BY_ROWS,
        },
        TURNED,
        {"gqa-map", "rope-offset"},
    ),
    "no scale, the past forgotten": (
        {"scale": lambda d, h, m: 1.0, "remembers": False, **BY_ROWS},
        TURNED,
        {"scale", "chunked-prefill"},
    ),
}


def planted(faults: dict[str, Any], plan: Plan) -> PlantedLayer:
    """The plan's layer with faults."""
    right: dict[str, Any] = {}
    if plan.alibi:
        right["slopes"] = press
    if plan.softcap:
        right["cap"] = capped
    if plan.window:
        right["sees"] = lambda i, j: 0 <= i - j < plan.window
        right["part_sees"] = lambda i, j, begin, end: 0 <= i - j < plan.window
    if plan.norm:
        right |= {"norm": True, "norm_before": plan.norm == "before"}
    if plan.rotary is not None:
        right["rotate"] = Given(plan) if plan is AXES else given(plan)
    return PlantedLayer(**{**right, **faults})


def given(plan: Plan) -> PlantedRotation:
    r = plan.rotary
    return turned(width=r.width, frequencies=fixed(plan), magnitude=r.magnitude, layout=r.layout, start=r.start)


class Given(PlantedRotation):
    """A rotation by several coordinates, each pair by one of them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def alone(self, x: Any, positions: Any) -> Any:
        out = np.array(x)
        half = x.shape[-1] // 2
        for pair, (frequency, axis) in enumerate(zip(self.plan.rotary.frequencies, self.plan.rotary.axes, strict=True)):
            angle = positions[axis][:, None, :] * frequency
            a, b = x[..., pair], x[..., pair + half]
            out[..., pair], out[..., pair + half] = (
                a * np.cos(angle) - b * np.sin(angle),
                b * np.cos(angle) + a * np.sin(angle),
            )
        return out


OFF = {"no window", "no softcap", "no ALiBi", "not turned", "no norm"}
"""Faults that leave the plan's part out."""


def mutant(name: str) -> LayerTarget:
    faults, plan, _, _ = WRONG[name]
    if name in OFF:
        faults = {"slopes": None, "norm": False, **faults}
        if name == "no softcap":
            faults["cap"] = lambda value, scale: value * scale
        if name == "no window":
            faults["sees"] = lambda i, j: j <= i
        if name == "not turned":
            faults["rotate"] = None
    layer = planted(faults, plan)
    function = layer.cached if name in CACHED else layer
    target = layer_target_of(function, name)
    return LayerTarget(name, function, plan, None, target.features)


def chosen() -> list[str]:
    """What this profile runs in float64."""
    first = {fault_class: name for name, (_, _, fault_class, _) in reversed(WRONG.items())}
    return [name for n, name in enumerate(WRONG) if DEEP or n % 3 == 0 or name in first.values()]


@pytest.mark.parametrize("name", chosen())
def test_a_planted_fault_is_named_and_its_line_shows_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, fault_class, parameters = WRONG[name]
    target = mutant(name)
    bench, _ = look(target, cases=6)
    assert bench.findings, "not detected"
    fault = next(f for f in bench.findings if f.kind == "fault")
    assert fault.fault_class == fault_class, bench.findings
    for key, value in parameters.items():
        assert fault.parameters.get(key) == value, fault
    assert len(bench.findings) == 1, bench.findings
    assert fault.detail.endswith(".")
    exec(fault.reproduce, {"f": target.function})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted


def cached(faults: dict[str, Any], plan: Plan) -> LayerTarget:
    function = planted(faults, plan).cached
    return LayerTarget("mine", function, plan, None, layer_target_of(function).features)


@pytest.mark.parametrize("name", THROUGH)
def test_what_shows_through_a_fault_alone_is_no_finding(name: str) -> None:
    faults, plan, fault_class, parameters = THROUGH[name]
    bench, margin = look(cached({**faults, **BY_ROWS}, plan), cases=25)
    (finding,) = bench.findings
    assert finding.fault_class == fault_class
    assert finding.parameters.items() >= parameters.items()
    assert margin is not None
    assert margin.worst < 1


@pytest.mark.parametrize("name", DOUBLE)
def test_two_faults_have_two_findings(name: str) -> None:
    faults, plan, classes = DOUBLE[name]
    bench, _ = look(cached(faults, plan), cases=10)
    assert [f.fault_class for f in bench.findings] == [*dict.fromkeys(f.fault_class for f in bench.findings)]
    assert {f.fault_class for f in bench.findings} == classes, bench.findings


def test_tokens_counted_by_rows_alone_pass() -> None:
    for plan in (TURNED, ALIBI, NORMED):
        bench, _ = look(cached(BY_ROWS, plan), cases=25)
        assert bench.findings == []


SHARING: dict[str, tuple[dict[str, Any], Plan, dict[str, Any]]] = {
    # layers that take another layer's keys and values: name: planted, plan, parameters of shared-kv-layers
    "the offset after the source advanced": ({"offset_after": True}, TURNED, {"offset": "after the source"}),
    "the offset after the source advanced, part of the features": (
        {"offset_after": True, **BY_ROWS},
        PARTIAL,
        {"offset": "after the source"},
    ),
    "the offset after the source advanced, YaRN": ({"offset_after": True}, YARN, {"offset": "after the source"}),
    "shared only where a cache exists": ({"own": "first"}, TURNED, {"shares": "later calls"}),
    "shared only where a cache exists, ALiBi": ({"own": "first"}, ALIBI, {"shares": "later calls"}),
    "never shared": ({"own": "always"}, PLAIN, {"shares": "never"}),
    "values alone shared": ({"own": "keys"}, TURNED, {"shares": "values"}),
    "keys alone shared": ({"own": "values"}, WINDOW, {"shares": "keys"}),
}


def sharing(faults: dict[str, Any], plan: Plan) -> LayerTarget:
    function = planted(faults, plan).sharing
    return LayerTarget("mine", function, plan, None, layer_target_of(function).features)


@pytest.mark.parametrize("name", SHARING)
def test_a_layer_that_shares_wrongly_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    faults, plan, parameters = SHARING[name]
    target = sharing(faults, plan)
    bench, _ = look(target, cases=10)
    (finding,) = bench.findings
    assert finding.fault_class == "shared-kv-layers"
    assert finding.parameters == parameters
    exec(finding.reproduce, {"f": target.function})  # noqa: S102 - that it runs is what is tested
    got, _, wanted = capsys.readouterr().out.strip().partition(" expected ")
    assert got != wanted


@pytest.mark.parametrize("plan", [TURNED, ALIBI, PLAIN, YARN], ids=["turned", "ALiBi", "plain", "YaRN"])
def test_a_layer_that_shares_rightly_passes(plan: Plan) -> None:
    bench, margin = look(sharing({}, plan), cases=20)
    assert bench.findings == []
    assert margin is not None
    assert margin.worst < 1


def test_an_offset_read_late_by_a_layer_of_its_own_is_no_matter_of_sharing() -> None:
    bench, _ = look(cached({"offset_after": True}, TURNED), cases=10)
    (finding,) = bench.findings
    assert (finding.fault_class, finding.parameters) == ("rope-offset", {"positions": "after the call", "of": "q"})


RIGHT: dict[str, Plan] = {
    "plain": PLAIN,
    "turned": TURNED,
    "adjacent": Plan(rotary=Rotary.of(8, layout="adjacent")),
    "partial": PARTIAL,
    "the last features": Plan(rotary=Rotary.of(4, start=-4)),
    "normed before": NORMED,
    "normed after": AFTER,
    "ALiBi": ALIBI,
    "window": WINDOW,
    "a wider window": WIDER,
    "softcap": CAPPED,
    "YaRN": YARN,
    "Llama-3": LLAMA3,
    "linear": LINEAR,
    "several axes": AXES,
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "float64") for name in RIGHT), *((name, "float32") for name in [*RIGHT][:: 1 if DEEP else 3])],
)
def test_a_right_layer_passes(name: str, dtype: str) -> None:
    layer = planted({}, RIGHT[name])
    for function in (layer, layer.cached) if DEEP or dtype == "float64" else (layer.cached,):
        target = layer_target_of(function, name)
        bench, margin = look(LayerTarget(name, function, RIGHT[name], None, target.features), dtype=dtype, cases=25)
        assert bench.findings == []
        assert margin is not None
        assert margin.cases == 25
        assert margin.worst < 1


LEGAL: dict[str, tuple[PlantedLayer, Plan, str, dict[str, Any]]] = {
    "adjacent where half was declared": (
        PlantedLayer(rotate=turned(layout="adjacent")),
        TURNED,
        "rope-layout",
        {"layout": "adjacent", "expected": "half"},
    ),
    "half where adjacent was declared": (
        PlantedLayer(rotate=turned()),
        Plan(rotary=Rotary.of(8, layout="adjacent")),
        "rope-layout",
        {"layout": "half", "expected": "adjacent"},
    ),
    "half, undeclared": (PlantedLayer(rotate=turned()), PLAIN, "rope-layout", {"layout": "half", "base": 10000.0}),
    "another base, undeclared": (
        PlantedLayer(rotate=turned(base=12345.0)),
        PLAIN,
        "rope-layout",
        {"layout": "half", "scheme": "plain with base 12345"},
    ),
    "ALiBi, undeclared": (PlantedLayer(slopes=press), PLAIN, "alibi-slopes", {"alibi": True}),
    "all keys, undeclared": (PlantedLayer(sees=lambda i, j: True), PLAIN, "mask-dropped", {"causal": False}),
    "a window, undeclared": (PlantedLayer(sees=lambda i, j: 0 <= i - j < 4), PLAIN, "mask-compose", {"window": 4}),
    "normed, undeclared": (PlantedLayer(norm=True), PLAIN, "qk-norm-order", {"norm": "before"}),
}


@pytest.mark.parametrize("name", LEGAL)
def test_another_legal_choice_is_a_convention_by_name(name: str) -> None:
    layer, plan, fault_class, parameters = LEGAL[name]
    target = layer_target_of(layer, name)
    bench, _ = look(LayerTarget(name, layer, plan, None, target.features), cases=5)
    assert [(f.kind, f.fault_class) for f in bench.findings] == [("convention", fault_class)], bench.findings
    assert bench.findings[0].parameters.items() >= parameters.items()


@pytest.mark.parametrize("name", [*WRONG][:: 1 if DEEP else 12])
def test_a_planted_fault_is_named_in_float32(name: str) -> None:
    _, _, fault_class, parameters = WRONG[name]
    bench, _ = look(mutant(name), cases=6, dtype="float32")
    fault = next(f for f in bench.findings if f.kind == "fault")
    assert fault.fault_class == fault_class, bench.findings
    for key, value in parameters.items():
        numbers = isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float))
        assert fault.parameters.get(key) == (pytest.approx(value, rel=1e-2) if numbers else value), fault
