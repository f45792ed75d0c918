"""Rotary positions with several coordinates, rotary positions that fade, and polar ones.

    angle[pair k] = coordinate[axis of k] · θ_k                            a time, a row, a column for each token
    q_i[pair k] ζ_k^(i/512),  k_j[pair k] ζ_k^(-j/512)                     xPos
    score = scale · Σ_c softplus(q_c) softplus(k_c) cos((i - j) θ_c - δ_c)       polar

"rotary attention on axes": inputs ``q``, ``k``, ``v`` and ``coordinates [axes, T]``; ``sections`` are pairs for each
axis, in an ``order``: chunked, interleaved or alternating; ``base``; frequencies of all pairs together, or, where
``spread`` says so, the same for each axis or one list dealt out; ``layout`` half unless given; ``causal`` or not.
"fading rotary attention": ``layout``, ``period`` in the 512's place, ``origin`` at which nothing fades, and the
``first`` token's position.  "polar attention": ``phases [Hkv, D]`` and ``base``.

Expected: ``k_rotated``, the keys as they are cached, ``out`` and ``lse``.  Source: Wang et al. 2024 (Qwen2-VL,
2409.12191) §2.1.2; Agrawal et al. 2024 (Pixtral, 2410.07073) §2.1; Sun et al. 2022 (2212.10554) §3.2; Gopalakrishnan
et al. 2025 (2509.10534).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, reciprocal_root
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._forms import Asked, Worn, attention_forms, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, Row, before, every_row, geometric, power, softplus, turn
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.positions import axial, multimodal
from kvattn.positions.polar import Polar
from kvattn.positions.rotary import Rotary
from kvattn.positions.rotary import geometric as paper
from kvattn.positions.xpos import XPos
from kvattn.variants.dense.grouped import Grouped

AXES = Flag(
    "RotaryAxes",
    "LAYOUT",
    "Lets pairs follow other coordinates: sections for interleaved axes, rows for columns, all pairs for part of them.",
    ("AI-Hypercomputer/maxtext#4742",),
)
DELTA = Flag(
    "MultimodalDelta",
    "KNOWN_BUG",
    "Counts text behind an image from the number of tokens, not from the image's largest coordinate.",
    ("Blaizzy/mlx-vlm#1619",),
)
FADING = Flag(
    "FadingOrigin",
    "CONVENTION",
    "Fades in another direction, at another pace, or from an origin that moves with each call.",
)
POLAR = Flag("Polar", "BASIC", "Lets content turn an angle, or leaves the learned phase out.")


def _axes(p: Mapping[str, Any]) -> list[int]:
    """Which coordinate each pair follows."""
    sections, order = p["sections"], p["order"]
    if order == "chunked":
        return [axis for axis, pairs in enumerate(sections) for _ in range(pairs)]
    if order == "alternating":  # sections of height, width, time; coordinates are time, height, width
        return [1 + k % 2 if k < 2 * sections[0] else 0 for k in range(sum(sections))]
    axes = []
    for k in range(sum(sections)):
        axis = k % 3
        axes.append(axis if k < 3 * sections[axis] else 0)
    return axes


def _frequencies(n: Numbers, p: Mapping[str, Any]) -> Row:
    count, width = len(p["sections"]), 2 * sum(p["sections"])
    if p.get("spread") == "each axis":
        return geometric(n, width // count, p["base"]) * count
    if p.get("spread") == "dealt":
        every = geometric(n, width, p["base"])
        return [theta for axis in range(count) for theta in every[axis::count]]
    return geometric(n, width, p["base"])


def _on_axes(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    axes, thetas = _axes(p), _frequencies(n, p)
    where = a["coordinates"]
    if p.get("no_delta"):  # text behind the image goes on from the number of tokens
        where = [[t if t >= p["no_delta"] else place for t, place in enumerate(axis)] for axis in where]

    def turned(rows: Nested) -> Nested:
        return every_row(
            rows,
            lambda b, h, t, row: turn(
                n,
                row,
                [where[axis][t] * theta for axis, theta in zip(axes, thetas, strict=True)],
                layout=p.get("layout", "half"),
            ),
        )

    k = turned(a["k"])
    if p["causal"]:
        return {"k_rotated": k, **attention(n, turned(a["q"]), k, a["v"], see=before)}
    return {"k_rotated": k, **attention(n, turned(a["q"]), k, a["v"])}


def _fading(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    width = len(a["q"][0][0][0])
    thetas, pairs, layout = geometric(n, width), width // 2, p["layout"]
    decays = [(n(k) / pairs + n(2) / 5) / (n(7) / 5) for k in range(pairs)]

    def faded(rows: Nested, sign: int) -> Nested:
        def change(_b: int, _h: int, t: int, row: Row) -> Row:
            place = p["first"] + t
            turned = turn(n, row, [place * theta for theta in thetas], layout=layout)
            steps = sign * (place - p["origin"])
            for k, zeta in enumerate(decays):
                factor = power(n, zeta, n(steps) / n(p["period"]))
                for at in (k, k + pairs) if layout == "half" else (2 * k, 2 * k + 1):
                    turned[at] = turned[at] * factor
            return turned

        return every_row(rows, change)

    k = faded(a["k"], -1 if p.get("keys_grow", True) else 1)
    return {"k_rotated": k, **attention(n, faded(a["q"], 1), k, a["v"], see=before)}


def _polar(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    width = len(a["q"][0][0][0])
    log = n.log(n(p["base"]))
    thetas = [n.exp(-c * log / width) for c in range(width)]

    def arrows(rows: Nested, phases: Nested) -> Nested:
        def change(_b: int, h: int, t: int, row: Row) -> Row:
            angles = [t * theta + (phases[h][c] if phases else 0) for c, theta in enumerate(thetas)]
            sizes = [softplus(n, x) for x in row]
            return [size * n.cos(angle) for size, angle in zip(sizes, angles, strict=True)] + [
                size * n.sin(angle) for size, angle in zip(sizes, angles, strict=True)
            ]

        return every_row(rows, change)

    k = arrows(a["k"], a["phases"] if p.get("phases", True) else None)
    scale = reciprocal_root(n, 2 * width if p.get("scale_of_both") else width)
    return {"k_rotated": k, **attention(n, arrows(a["q"], None), k, a["v"], see=before, scale=scale)}


def _rotary_of(p: Mapping[str, Any]) -> Rotary:
    orders = {
        "chunked": multimodal.chunked,
        "interleaved": multimodal.interleaved,
        "alternating": multimodal.alternating,
    }
    width, count, layout = 2 * sum(p["sections"]), len(p["sections"]), p.get("layout", "half")
    if p.get("spread") == "each axis":
        return axial.repeated(width, count, p["base"], layout)
    if p.get("spread") == "dealt":
        return axial.dealt(width, count, p["base"], layout)
    return Rotary(paper(width, p["base"]), layout, axes=orders[p["order"]](p["sections"]))


def _asked(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    turned, where = _rotary_of(p), inputs["coordinates"][:, None, None]
    q, k = turned.rotate(inputs["q"], where), turned.rotate(inputs["k"], where)
    return Asked(q, k, inputs["v"], None, None, {"mask": Causal() if p["causal"] else None}, {"k_rotated": k})


def _worn(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    mask = Causal() if p["causal"] else None
    scheme = multimodal.Multimodal(_rotary_of(p), inputs["coordinates"])
    return Worn(Grouped(projections, mask=mask, query_key=(scheme,)), x, inputs["q"].shape[1], inputs["v"].shape[3])


def _asked_fading(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    width, length = inputs["q"].shape[3], inputs["q"].shape[2]
    turned = Rotary.of(width, layout=p["layout"])
    faded = XPos.of(width, layout=p["layout"], period=p["period"], origin=p["origin"])
    at = np.arange(p["first"], p["first"] + length)
    q, k = turned.rotate(inputs["q"], at), turned.rotate(inputs["k"], at)
    q, k = faded.queries(q, at), faded.keys(k, at)
    return Asked(q, k, inputs["v"], at, at, {"mask": Causal()}, {"k_rotated": k})


def _polar_of(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Polar:
    width = inputs["q"].shape[3]
    return Polar(Polar.of(width, 1, p["base"]).frequencies, inputs["phases"])


def _asked_polar(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    scheme, at = _polar_of(inputs, p), np.arange(inputs["q"].shape[2])
    q, k = scheme.queries(inputs["q"], at), scheme.keys(inputs["k"], at)
    how = {"mask": Causal(), "scale": float(1 / np.sqrt(inputs["q"].shape[3]))}
    return Asked(q, k, inputs["v"], None, None, how, {"k_rotated": k})


def _worn_polar(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    return Worn(Grouped(projections, query_key=(_polar_of(inputs, p),)), x, inputs["q"].shape[1], inputs["v"].shape[3])


def _heads(tokens: int, width: int) -> dict[str, Any]:
    label = f"axes {tokens} {width} "
    return {
        "q": drawn(label + "q", 1, 4, tokens, width),
        "k": drawn(label + "k", 1, 2, tokens, width),
        "v": drawn(label + "v", 1, 2, tokens, 3),
    }


TEXT_AND_IMAGE = np.array([[0, 1, 2, 2, 2, 2, 2, 2, 5], [0, 1, 2, 2, 2, 3, 3, 3, 5], [0, 1, 2, 3, 4, 2, 3, 4, 5]])
"""Two tokens of text, an image of two rows and three columns, and text again."""

ROWS_AND_COLUMNS = np.array([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])


def _case(name: str, row: str, comment: str, parameters: dict[str, Any], coordinates: Any, **others: Any) -> Recipe:
    width = others.pop("width", None) or 2 * sum(parameters["sections"])
    given = {"base": 10000.0, "order": "chunked", "causal": True} | parameters
    inputs = {**_heads(coordinates.shape[1], width), "coordinates": coordinates}
    forms = attention_forms(_asked)
    forms |= {f"layer: {form}": f for form, f in layer_forms(_worn, whole=not given["causal"]).items()}
    sibling = others.pop("sibling", None)
    return told(
        f"positions/axes/{name}",
        f"positions/{row}",
        "rotary attention on axes",
        comment,
        inputs,
        given,
        _on_axes,
        forms,
        sibling=sibling and f"positions/axes/{sibling}",
        **others,
    )


def _multimodal() -> tuple[Recipe, ...]:
    text = np.tile(np.arange(9), (3, 1))
    return (
        _case(
            "text",
            "multimodal",
            "Text: three equal coordinates are plain rotary positions.",
            {"sections": [2, 1, 1]},
            text,
            flags=(AXES,),
            mistakes={"adjacent pairs": {"layout": "adjacent"}},
        ),
        _case(
            "sections",
            "multimodal",
            "Qwen2-VL: the first pairs follow time, the next height, the last width; text goes on at 5, not at 8.",
            {"sections": [2, 1, 1]},
            TEXT_AND_IMAGE,
            sibling="text",
            flags=(AXES, DELTA),
            mistakes={"interleaved": {"order": "interleaved"}, "counted from the cache": {"no_delta": 8}},
        ),
        _case(
            "interleaved",
            "multimodal",
            "Qwen3-VL: time, height, width in turn; the slowest pair left over follows time.",
            {"sections": [2, 1, 1], "order": "interleaved"},
            TEXT_AND_IMAGE,
            sibling="sections",
            flags=(AXES, DELTA),
            mistakes={"sections": {"order": "chunked"}, "counted from the cache": {"no_delta": 8}},
        ),
        _case(
            "alternating",
            "multimodal",
            "ERNIE: height and width by turns, then time, in adjacent pairs.",
            {"sections": [1, 1, 2], "order": "alternating", "layout": "adjacent"},
            TEXT_AND_IMAGE,
            sibling="sections",
            flags=(AXES, DELTA),
            mistakes={"halves": {"layout": "half"}, "in turn": {"order": "interleaved", "sections": [2, 1, 1]}},
        ),
    )


def _axial() -> tuple[Recipe, ...]:
    each, seen = {"spread": "each axis", "causal": False}, {"causal": False}
    return (
        _case(
            "rows-then-columns",
            "axial",
            "Qwen2-VL's vision: half of the pairs for rows, half for columns, with the same frequencies.",
            {"sections": [2, 2], **each},
            ROWS_AND_COLUMNS,
            flags=(AXES,),
            mistakes={"one list": {"spread": "whole"}, "adjacent pairs": {"layout": "adjacent"}},
        ),
        _case(
            "columns-then-rows",
            "axial",
            "Llama 4's vision: columns, then rows, counted from 1, in adjacent pairs; a class token at 0.",
            {"sections": [2, 2], **each, "layout": "adjacent"},
            np.array([[0, 1, 2, 3, 1, 2, 3], [0, 1, 1, 1, 2, 2, 2]]),
            sibling="rows-then-columns",
            flags=(AXES,),
            mistakes={"halves": {"layout": "half"}},
        ),
        _case(
            "dealt",
            "axial",
            "Pixtral: one list of frequencies, rows take the first, third …, columns the second, fourth ….",
            {"sections": [2, 2], "spread": "dealt", **seen},
            ROWS_AND_COLUMNS,
            sibling="rows-then-columns",
            flags=(AXES,),
            mistakes={"each axis": {"spread": "each axis"}},
        ),
        _case(
            "three-axes",
            "axial",
            "Frames, rows and columns, a pair each of an eight-feature head: the last two features pass.",
            {"sections": [1, 1, 1], **each},
            np.array([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0], [0, 1, 0, 1, 0, 1]]),
            width=8,
            sibling="rows-then-columns",
            flags=(AXES,),
            mistakes={"two axes": {"sections": [2, 1, 0], "spread": "whole"}},
        ),
    )


def _others() -> tuple[Recipe, ...]:
    def fading(name: str, comment: str, parameters: dict[str, Any], **others: Any) -> Recipe:
        given = {"layout": "adjacent", "period": 512.0, "origin": 0, "first": 0} | parameters
        inputs = _heads(5, 6)
        return told(
            f"positions/fading/{name}",
            "positions/xpos",
            "fading rotary attention",
            comment,
            inputs,
            given,
            _fading,
            attention_forms(_asked_fading),
            flags=(FADING,),
            **others,
        )

    polar_inputs = {**_heads(5, 4), "phases": -np.abs(drawn("phases", 2, 4))}
    polar_forms = attention_forms(_asked_polar)
    polar_forms |= {f"layer: {name}": form for name, form in layer_forms(_worn_polar).items()}
    return (
        fading(
            "xpos",
            "Queries shrink and keys grow by ζ^(position / 512).",
            {"first": 300},
            mistakes={"not faded": {"period": 1e9}, "both shrink": {"keys_grow": False}},
        ),
        fading(
            "xpos-half",
            "Pairs (k, k + r/2); a period of 8 makes the fading large.",
            {"layout": "half", "period": 8.0},
            sibling="positions/fading/xpos",
            mistakes={"the paper's period": {"period": 512.0}, "adjacent": {"layout": "adjacent"}},
        ),
        fading(
            "xpos-origin",
            "An origin in the middle: scores are as they were, cached keys are not.",
            {"period": 8.0, "origin": 2},
            sibling="positions/fading/xpos",
            mistakes={"from 0": {"origin": 0}},
        ),
        told(
            "positions/fading/polar",
            "positions/polar",
            "polar attention",
            "A feature's size is the softplus of its content, its angle is position alone; keys are ahead by a phase.",
            polar_inputs,
            {"base": 10000.0},
            _polar,
            polar_forms,
            sibling="positions/fading/polar-without-phases",
            flags=(POLAR,),
            mistakes={"no phase": {"phases": False}, "scale of both parts": {"scale_of_both": True}},
        ),
        told(
            "positions/fading/polar-without-phases",
            "positions/polar",
            "polar attention",
            "Phases of 0.",
            {**polar_inputs, "phases": np.zeros((2, 4))},
            {"base": 10000.0},
            _polar,
            polar_forms,
            flags=(POLAR,),
            mistakes={"scale of both parts": {"scale_of_both": True}},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of several coordinates, of fading and of polar positions.

    >>> len({recipe.name for recipe in recipes()})
    13
    """
    return _multimodal() + _axial() + _others()
