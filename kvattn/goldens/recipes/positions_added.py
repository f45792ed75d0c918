"""Positions that are added to hidden states, and factors on queries that grow with the position.

    x[i, 2k] + sin(i ω_k),  x[i, 2k + 1] + cos(i ω_k)        sinusoidal, ω_k = 10000^(-2k / M)
    x[i] + table[i]                                          learned
    s_ij = scale · f(i) · q_i · k_j                          a temperature by position

"sinusoidal embedding": inputs ``x [B, T, M]`` and ``positions [B, T]``; ``exponent`` paper or spanning (divided by M/2
- 1), ``layout`` adjacent or half, ``offset`` on positions, ``magnitude`` of the waves.  "learned embedding": ``x``,
``positions``, ``table [N, M]`` and the ``offset`` of its rows.  Both expect ``x_embedded``.  "attention with a
temperature": ``q``, ``k``, ``v``, ``q_positions``, ``k_positions``, causal; f is a ``curve``, null for none:

    stepped      1 + strength · ln(1 + floor((i + first) / period))       strength, period, first
    rising       1 + strength · ln(max((i + 1) / length, 1))              strength, length
    log length   max(ln(i + 1) / ln(length), 1)                           length
    scalable     strengths[h] · ln(i + 1)                                 strengths

It expects ``out`` and ``lse``.  Sources: Vaswani et al. 2017 (arXiv 1706.03762) §3.5; Gehring et al. 2017 (1705.03122)
§3.1; Nakanishi 2025 (2501.19399) §2 and the released code of Llama-4, Ministral-3, Inkling and Qwen-1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._forms import Asked, Worn, attention_forms, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, causal, every_row, geometric
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.positions import sinusoidal, temperature
from kvattn.positions.learned import Learned
from kvattn.variants.dense.grouped import Grouped

WAVES = Flag(
    "SinusoidLayout",
    "LAYOUT",
    "Writes all sines before all cosines, or divides the exponent by M/2 - 1, where the case does not, or the reverse.",
)
OFFSET = Flag("TableOffset", "POSITION", "Begins at another row of the table, or counts padding in front as tokens.")
TEMPERATURE = Flag("Temperature", "POSITION", "Starts to count at another number, or steps at another place.")


def _waves(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    width = len(a["x"][0][0])
    half = width // 2
    if p["exponent"] == "spanning":
        log = n.log(n(10000))
        waves = [n.exp(-k * log / (half - 1)) for k in range(half)]
    else:
        waves = geometric(n, 2 * half)
    factor = n(p["magnitude"])

    def embedded(b: int, t: int, row: Nested) -> Nested:
        place, out = a["positions"][b][t] + p["offset"], list(row)
        for k, wave in enumerate(waves):
            one, two = (2 * k, 2 * k + 1) if p["layout"] == "adjacent" else (k, k + half)
            out[one], out[two] = out[one] + factor * n.sin(place * wave), out[two] + factor * n.cos(place * wave)
        return out

    return {"x_embedded": [[embedded(b, t, row) for t, row in enumerate(rows)] for b, rows in enumerate(a["x"])]}


def _table(_: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    def embedded(b: int, t: int, row: Nested) -> Nested:
        there = a["table"][(t if p.get("row_numbers") else a["positions"][b][t]) + p["offset"]]
        return [x + y for x, y in zip(row, there, strict=True)]

    return {"x_embedded": [[embedded(b, t, row) for t, row in enumerate(rows)] for b, rows in enumerate(a["x"])]}


def _factor(n: Numbers, p: Mapping[str, Any], h: int, i: int) -> Number:
    curve = p["curve"]
    if curve == "stepped":
        return 1 + n(p["strength"]) * n.log(n(1 + (i + p["first"]) // p["period"]))
    if curve == "rising":
        return 1 + n(p["strength"]) * n.log(n(max(i + 1, p["length"])) / p["length"])
    if curve == "log length":
        return n.log(n(i + 1)) / n.log(n(p["length"])) if i + 1 > p["length"] else n(1)
    if curve == "scalable":
        return n(p["strengths"][h]) * n.log(n(i + p.get("one", 1)))
    return n(1)


def _tempered(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    at = a["q_positions"]
    q = every_row(a["q"], lambda b, h, t, row: [x * _factor(n, p, h, at[b][t]) for x in row])
    return attention(n, q, a["k"], a["v"], see=causal(at, a["k_positions"]))


def _curve(p: Mapping[str, Any]) -> temperature.Curve | None:
    curve = p["curve"]
    if curve == "stepped":
        return temperature.Stepped(p["strength"], p["period"], p["first"])
    if curve == "rising":
        return temperature.Rising(p["strength"], p["length"])
    if curve == "log length":
        return temperature.LogLength(p["length"])
    return temperature.Scalable(tuple(p["strengths"])) if curve == "scalable" else None


def _asked(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    curve, at = _curve(p), inputs["q_positions"]
    q = temperature.Temperature(curve).queries(inputs["q"], at[:, None]) if curve else inputs["q"]
    return Asked(q, inputs["k"], inputs["v"], at, inputs["k_positions"], {"mask": Causal()})


def _worn(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    curve = _curve(p)
    layer = Grouped(projections, query_key=(temperature.Temperature(curve),) if curve else ())
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _sines(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    width = inputs["x"].shape[2]
    even = width - width % 2
    waves = sinusoidal.spanning(even) if p["exponent"] == "spanning" else sinusoidal.Sinusoidal.of(even).frequencies
    made = sinusoidal.Sinusoidal(waves, p["layout"], p["offset"], p["magnitude"])
    return {"x_embedded": made.embed(inputs["x"], inputs["positions"])}


def _looked_up(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    return {"x_embedded": Learned(inputs["table"], p["offset"]).embed(inputs["x"], inputs["positions"])}


def _embeddings() -> tuple[Recipe, ...]:
    states = {"x": drawn("states", 2, 4, 6), "positions": np.array([[0, 1, 2, 3], [5, 6, 7, 8]])}
    odd = {"x": drawn("odd states", 2, 4, 7), "positions": states["positions"]}
    plain = {"exponent": "paper", "layout": "adjacent", "offset": 0, "magnitude": 1.0}

    def waves(name: str, comment: str, changed: dict[str, Any], mistakes: dict[str, Any], **others: Any) -> Recipe:
        inputs = others.pop("inputs", states)
        words = (f"positions/added/{name}", "positions/sinusoidal", "sinusoidal embedding", comment)
        forms = {"embedded": _sines}
        return told(*words, inputs, {**plain, **changed}, _waves, forms, flags=(WAVES,), mistakes=mistakes, **others)

    def rows(name: str, comment: str, offset: int, positions: Any, mistakes: dict[str, Any], **others: Any) -> Recipe:
        inputs = {**states, "positions": np.array(positions), "table": drawn("table", 11, 6)}
        words = (f"positions/added/{name}", "positions/learned", "learned embedding", comment)
        forms = {"looked up": _looked_up}
        given = {"offset": offset}
        return told(*words, inputs, given, _table, forms, flags=(OFFSET,), mistakes=mistakes, **others)

    paper = "positions/added/sinusoidal"
    return (
        waves("sinusoidal", "The paper's: a sine, its cosine, the next sine.", {}, {"halves": {"layout": "half"}}),
        waves(
            "sinusoidal-half",
            "All sines, then all cosines, the last frequency 1/10000: tensor2tensor, fairseq, Whisper.",
            {"layout": "half", "exponent": "spanning"},
            {"the paper's exponent": {"exponent": "paper"}, "by turns": {"layout": "adjacent"}},
            sibling=paper,
        ),
        waves(
            "sinusoidal-offset",
            "fairseq counts from the padding index plus one, here 2.",
            {"layout": "half", "exponent": "spanning", "offset": 2},
            {"from 0": {"offset": 0}},
            sibling="positions/added/sinusoidal-half",
        ),
        waves(
            "sinusoidal-odd-width",
            "Seven features: the last is left alone; sines and cosines times 1/4.",
            {"magnitude": 0.25},
            {"not scaled": {"magnitude": 1.0}},
            inputs=odd,
        ),
        rows("learned", "Row i for position i.", 0, states["positions"], {"two rows further": {"offset": 2}}),
        rows(
            "learned-offset",
            "RoBERTa, BART and OPT leave two rows unused.",
            2,
            states["positions"],
            {"from row 0": {"offset": 0}},
            sibling="positions/added/learned",
        ),
        rows(
            "learned-left-padded",
            "Positions are numbered from the attention mask: two pads in front of the first row stand at 0.",
            0,
            [[0, 0, 0, 1], [0, 1, 2, 3]],
            {"padding counted": {"row_numbers": True}},
            sibling="positions/added/learned",
        ),
    )


def _temperatures() -> tuple[Recipe, ...]:
    def case(name: str, comment: str, parameters: dict[str, Any], mistakes: dict[str, Any], first: int = 0) -> Recipe:
        at = np.arange(first, first + 6)[None]
        inputs = {
            "q": drawn("temperature q", 1, 4, 6, 5),
            "k": drawn("temperature k", 1, 2, 6, 5),
            "v": drawn("temperature v", 1, 2, 6, 3),
            "q_positions": at,
            "k_positions": at,
        }
        forms = attention_forms(_asked)
        if not first:
            forms |= {f"layer: {form}": f for form, f in layer_forms(_worn).items()}
        words = (f"positions/temperature/{name}", "positions/temperature", "attention with a temperature", comment)
        sibling = "positions/temperature/none" if parameters["curve"] else None
        return told(
            *words, inputs, parameters, _tempered, forms, sibling=sibling, flags=(TEMPERATURE,), mistakes=mistakes
        )

    stepped = {"curve": "stepped", "strength": 0.5, "period": 4}
    return (
        case("none", "No temperature: the plain case.", {"curve": None}, {}),
        case(
            "stepped",
            "Ministral-3: a step at position 4, and at every fourth from there.",
            {**stepped, "first": 0},
            {"a step early": {"first": 1}},
        ),
        case(
            "stepped-from-one",
            "Llama-4 counts from one: the step comes at position 3.",
            {**stepped, "first": 1},
            {"a step late": {"first": 0}},
        ),
        case(
            "stepped-far",
            "Positions 8189 to 8194 with the released strength and period: the step comes at 8191.",
            {"curve": "stepped", "strength": 0.1, "period": 8192, "first": 1},
            {"a step late": {"first": 0}, "none": {"strength": 0.0}},
            first=8189,
        ),
        case(
            "rising",
            "1 up to three tokens, then a steady rise.",
            {"curve": "rising", "strength": 0.5, "length": 3},
            {"one length": {"length": 1}},
        ),
        case(
            "log-length",
            "Qwen-1: ln(i + 1) over ln(3) from three tokens on.",
            {"curve": "log length", "length": 3},
            {"another length": {"length": 2}},
        ),
        case(
            "scalable",
            "SSMax: a learned factor for each head times the log of the number of keys.",
            {"curve": "scalable", "strengths": [0.5, 1.0, 1.5, -0.25]},
            {"one key more": {"one": 2}},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of positions that are added, and of temperatures.

    >>> len({recipe.name for recipe in recipes()})
    14
    """
    return _embeddings() + _temperatures()
