"""What stands in the softmax's place: sigmoid, ReLU, softpick, sparsemax, entmax, a broken stick, talking heads, CoPE.

    out_i = Σ_j w_ij v_j,      w of the scores that query i sees; 0 where it sees none

Inputs ``q``, ``k``, ``v``, causal; scores are scaled by 1/sqrt(D).

- "attention with other weights": ``weights`` sigmoid with a ``bias``; relu or squared relu over ``keys``; softpick with
  ``epsilon``; sparsemax; entmax (1.5); stick breaking, where ``own_key`` says whether the query's own key is asked,
  and ``remainder`` whether what is left over weighs ``vectors [H, Dv]``.  Expected: ``out``.
- "attention with a one in the denominator": expected ``out`` and ``lse``, as of the next two.
- "attention with talking heads": ``logits`` and ``weights [Hq, Hq]``, rows the heads that come out.
- "attention with contextual positions": ``table [P, D]`` and ``gate_factor``.

Sources: Ramapuram et al. 2024 (arXiv 2409.04431) §2; Wortsman et al. 2023 (2309.08586) §3; Zuhri et al. 2025
(2504.20966); Martins & Astudillo 2016 (1602.02068); Peters et al. 2019 (1905.05702); Tan et al. 2024 (2410.17980);
Shazeer et al. 2020 (2003.02436); Golovneva et al. 2024 (2405.18719) §4; Miller 2023, "Attention Is Off By One".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import dot, mixed, reciprocal_root, sigmoid, softmax
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._forms import Worn, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, Row, floor
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.variants.dense import off_by_one
from kvattn.variants.dense.contextual_positions import ContextualPositions
from kvattn.variants.dense.entmax import Entmax15, Sparsemax
from kvattn.variants.dense.relu import Relu, SquaredRelu
from kvattn.variants.dense.sigmoid import Sigmoid
from kvattn.variants.dense.softpick import Softpick
from kvattn.variants.dense.stick_breaking import BEFORE, Remainder, StickBreaking
from kvattn.variants.dense.talking_heads import TalkingHeads
from kvattn.variants.dense.weighed import Weighed

WEIGHTS = Flag("Weights", "BASIC", "Computes other weights from the same scores.")
DENOMINATOR = Flag(
    "WeightsDenominator",
    "CONVENTION",
    "Divides by the number of keys at hand, or by a sum that hidden keys take part in.",
)
ORDER = Flag("WeightsOrder", "POSITION", "Asks keys in another order, or the query's own where the case does not.")
MIXED = Flag("HeadsMixed", "LAYOUT", "Reads a matrix of heads in by out, or mixes before the scale or behind the mask.")


def _sorted_down(row: Row) -> Row:
    left, found = list(row), []
    while left:
        largest = next(i for i, x in enumerate(left) if all(x > y for j, y in enumerate(left) if j != i))
        found.append(left.pop(largest))
    return found


def _sparsemax(n: Numbers, scores: Row) -> Row:
    """The largest support whose threshold its least score still exceeds."""
    down, threshold = _sorted_down(scores), None
    for k in range(1, len(down) + 1):
        candidate = (n.sum(down[:k]) - 1) / k
        if down[k - 1] > candidate:
            threshold = candidate
    return [x - threshold if x > threshold else n(0) for x in scores]


def _entmax(n: Numbers, scores: Row) -> Row:
    """Σ (s/2 - τ)² = 1 over the support is a quadratic equation for τ."""
    halves = [x / 2 for x in scores]
    down, threshold = _sorted_down(halves), None
    for k in range(1, len(down) + 1):
        one, two = n.sum(down[:k]), n.sum(x * x for x in down[:k])
        under = one * one - k * (two - 1)
        if under >= 0:
            candidate = (one - n.sqrt(under)) / k
            if down[k - 1] > candidate:
                threshold = candidate
    return [(x - threshold) * (x - threshold) if x > threshold else n(0) for x in halves]


def _softpick(n: Numbers, scores: Row, p: Mapping[str, Any]) -> Row:
    less = [n.exp(x) - 1 for x in scores]
    whole = n.sum(abs(x) for x in less) + n(p["epsilon"]) * n.exp(n.max(scores)) + p.get("hidden", 0)
    return [x / whole if x > 0 else n(0) for x in less]


def _stick(n: Numbers, scores: Row) -> tuple[Row, Number]:
    """From the last key to the first; and what no key took."""
    left, found = n(1), []
    for score in reversed(scores):
        share = sigmoid(n, score)
        found.append(left * share)
        left = left * (1 - share)
    return found[::-1], left


def _weights(n: Numbers, scores: Row, p: Mapping[str, Any]) -> Row:
    kind = p["weights"]
    if kind == "sigmoid":
        return [sigmoid(n, x + (n(p["bias"]) if p["bias"] is not None else -n.log(n(len(scores))))) for x in scores]
    if kind in {"relu", "squared relu"}:
        over = n(p["keys"]) if p["keys"] is not None else n(len(scores))
        lifted = [x if x > 0 else n(0) for x in scores]
        return [x * x / over if kind == "squared relu" else x / over for x in lifted]
    if kind == "softpick":
        return _softpick(n, scores, p)
    if kind == "stick breaking":
        return _stick(n, scores)[0]
    return {"sparsemax": _sparsemax, "entmax": _entmax}[kind](n, scores)


def _weighed(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Each row of scores by itself."""
    group, scale = len(a["q"][0]) // len(a["k"][0]), reciprocal_root(n, len(a["q"][0][0][0]))
    width, own = len(a["v"][0][0][0]), 0 if p.get("own_key", True) else 1
    out: Nested = []
    for b, heads in enumerate(a["q"]):
        out.append([])
        for h, rows in enumerate(heads):
            keys, values = a["k"][b][h // group], a["v"][b][h // group]
            out[b].append([])
            for t, row in enumerate(rows):
                seen = t + 1 - own
                scores = [dot(n, row, key) * scale for key in keys[:seen]]
                mix = mixed(n, _weights(n, scores, p) if scores else [], values[:seen], width)
                if p.get("remainder"):
                    left = _stick(n, scores)[1]
                    mix = [
                        n(0) + left * r if x == 0.0 else x + left * r for x, r in zip(mix, a["vectors"][h], strict=True)
                    ]
                out[b][h].append(mix)
    return {"out": out}


def _off_by_one(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """A 1 in the denominator of every row."""
    group, scale = len(a["q"][0]) // len(a["k"][0]), reciprocal_root(n, len(a["q"][0][0][0]))
    out: Nested = []
    lse: Nested = []
    for b, heads in enumerate(a["q"]):
        out.append([])
        lse.append([])
        for h, rows in enumerate(heads):
            keys, values = a["k"][b][h // group], a["v"][b][h // group]
            parts = [[n.exp(dot(n, row, key) * scale) for key in keys[: t + 1]] for t, row in enumerate(rows)]
            wholes = [n.sum(part) + (0 if p.get("plain") else 1) for part in parts]
            out[b].append([])
            for t, (part, whole) in enumerate(zip(parts, wholes, strict=True)):
                weights = [x / whole for x in part]
                out[b][h].append([dot(n, weights, column) for column in zip(*values[: t + 1], strict=True)])
            lse[b].append([n.log(whole) for whole in wholes])
    return {"out": out, "lse": lse}


def _talking(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Heads mix their logits before the softmax, and their weights behind it."""
    heads, group = len(a["q"][0]), len(a["q"][0]) // len(a["k"][0])
    scale = reciprocal_root(n, len(a["q"][0][0][0]))

    def of(matrix: Nested, h: int, g: int) -> Number:
        entry = matrix[g][h] if p.get("transposed") else matrix[h][g]
        return entry + int(h == g) if p.get("added") else entry

    out: Nested = [[[] for _ in range(heads)] for _ in a["q"]]
    lse: Nested = [[[] for _ in range(heads)] for _ in a["q"]]
    for b, rows in enumerate(a["q"]):
        for t in range(len(rows[0])):
            logits = [[dot(n, rows[g][t], key) * scale for key in a["k"][b][g // group][: t + 1]] for g in range(heads)]
            blended = [
                [n.sum(of(a["logits"], h, g) * logits[g][s] for g in range(heads)) for s in range(t + 1)]
                for h in range(heads)
            ]
            weights, ends = zip(*(softmax(n, row) for row in blended), strict=True)
            for h in range(heads):
                said = [n.sum(of(a["weights"], h, g) * weights[g][s] for g in range(heads)) for s in range(t + 1)]
                values = a["v"][b][h // group][: t + 1]
                out[b][h].append([dot(n, said, column) for column in zip(*values, strict=True)])
                lse[b][h].append(ends[h])
    return {"out": out, "lse": lse}


def _contextual(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """A key's position: how many keys from it up to the query open their gates."""
    group, scale = len(a["q"][0]) // len(a["k"][0]), reciprocal_root(n, len(a["q"][0][0][0]))
    most = len(a["table"]) - 1
    out: Nested = []
    lse: Nested = []
    for b, heads in enumerate(a["q"]):
        out.append([])
        lse.append([])
        for h, rows in enumerate(heads):
            keys, values = a["k"][b][h // group], a["v"][b][h // group]
            out[b].append([])
            lse[b].append([])
            for t, row in enumerate(rows):
                scores = [dot(n, row, key) * scale for key in keys[: t + 1]]
                gates = [sigmoid(n, n(p["gate_factor"]) * score) for score in scores]
                bent = []
                for s, score in enumerate(scores):
                    place = n.sum(gates[s + 1 :] if p.get("own_gate_left_out") else gates[s:])
                    if place >= most:
                        bent.append(score + dot(n, row, a["table"][most]))
                        continue
                    low = floor(place)
                    part = place - low
                    near = (1 - part) * dot(n, row, a["table"][low]) + part * dot(n, row, a["table"][low + 1])
                    bent.append(score + near)
                weights, end = softmax(n, bent)
                out[b][h].append([dot(n, weights, column) for column in zip(*values[: t + 1], strict=True)])
                lse[b][h].append(end)
    return {"out": out, "lse": lse}


def _weighing(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
    kind = p["weights"]
    if kind == "sigmoid":
        return Sigmoid(p["bias"])
    if kind == "relu":
        return Relu(p["keys"])
    if kind == "squared relu":
        return SquaredRelu(p["keys"])
    if kind == "softpick":
        return Softpick(p["epsilon"])
    if kind == "talking":
        return TalkingHeads(inputs["logits"], inputs["weights"])
    if kind == "contextual":
        return ContextualPositions(inputs["table"], p["gate_factor"])
    return {"stick breaking": StickBreaking, "sparsemax": Sparsemax, "entmax": Entmax15}[kind]()


def _worn(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    beside = (Remainder(inputs["vectors"]),) if p.get("remainder") else ()
    mask = Causal() if p.get("own_key", True) else BEFORE
    layer = Weighed(projections, _weighing(inputs, p), mask, beside)
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_off(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    projections, x, _others = picked(inputs)
    return Worn(off_by_one.off_by_one(projections), x, inputs["q"].shape[1], inputs["v"].shape[3])


def _heads() -> dict[str, Any]:
    return {
        "q": drawn("weighings q", 1, 4, 6, 5),
        "k": drawn("weighings k", 1, 2, 6, 5),
        "v": drawn("weighings v", 1, 2, 6, 3),
    }


def _case(
    name: str,
    comment: str,
    parameters: dict[str, Any],
    mistakes: dict[str, Any],
    *,
    row: str | None = None,
    further: Mapping[str, Any] | None = None,
    sibling: str | None = "sigmoid",
    flag: Flag = WEIGHTS,
) -> Recipe:
    forms = layer_forms(_worn, lse=False)
    words = (f"weighings/rows/{name}", f"variants/dense/{row or name}", "attention with other weights", comment)
    return told(
        *words,
        {**_heads(), **(further or {})},
        parameters,
        _weighed,
        forms,
        sibling=sibling and f"weighings/rows/{sibling}",
        flags=(flag,),
        mistakes=mistakes,
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of other weights.

    >>> len({recipe.name for recipe in recipes()})
    16
    """
    vectors = {"vectors": drawn("remainder", 4, 3)}
    talk = {**_heads(), "logits": drawn("talk logits", 4, 4), "weights": drawn("talk weights", 4, 4)}
    cope = {**_heads(), "table": drawn("cope", 4, 5)}
    sticks = {"weights": "stick breaking"}
    return (
        _case(
            "sigmoid",
            "No bias: each key is weighed by itself.",
            {"weights": "sigmoid", "bias": 0.0},
            {"sparsemax": {"weights": "sparsemax"}},
            sibling=None,
        ),
        _case(
            "sigmoid-with-bias",
            "A bias of -2, one constant for every row.",
            {"weights": "sigmoid", "bias": -2.0},
            {"minus the log of the keys at hand": {"bias": None}, "no bias": {"bias": 0.0}},
            row="sigmoid",
            flag=DENOMINATOR,
        ),
        _case(
            "relu",
            "Divided by 6, the length of training, in every row.",
            {"weights": "relu", "keys": 6.0},
            {"divided by the keys at hand": {"keys": None}, "squared": {"weights": "squared relu"}},
            flag=DENOMINATOR,
        ),
        _case(
            "squared-relu",
            "Squares of what is above 0, not divided.",
            {"weights": "squared relu", "keys": 1.0},
            {"divided by the keys at hand": {"keys": None}, "not squared": {"weights": "relu"}},
            row="relu",
            sibling="relu",
            flag=DENOMINATOR,
        ),
        _case(
            "softpick",
            "Keys that score below 0 are in the denominator alone.",
            {"weights": "softpick", "epsilon": 1e-8},
            {"one hidden key counted": {"hidden": 1}},
            flag=DENOMINATOR,
        ),
        _case(
            "softpick-large-epsilon",
            "An epsilon of 1/4 shows that it is added to the shifted sum.",
            {"weights": "softpick", "epsilon": 0.25},
            {"left out": {"epsilon": 0.0}},
            row="softpick",
            sibling="softpick",
            flag=DENOMINATOR,
        ),
        _case(
            "sparsemax",
            "Scores projected onto the simplex: far ones get exactly 0.",
            {"weights": "sparsemax"},
            {"entmax": {"weights": "entmax"}},
            row="entmax",
        ),
        _case(
            "entmax",
            "1.5-entmax: between sparsemax and softmax.",
            {"weights": "entmax"},
            {"sparsemax": {"weights": "sparsemax"}},
            row="entmax",
            sibling="sparsemax",
        ),
        _case(
            "stick-breaking",
            "From the key before the query back; the first query sees nothing: 0.",
            {**sticks, "own_key": False},
            {"the query's own key asked first": {"own_key": True}},
            row="stick_breaking",
            flag=ORDER,
        ),
        _case(
            "stick-breaking-own-key",
            "The query's own key is asked first.",
            {**sticks, "own_key": True},
            {"own key not asked": {"own_key": False}},
            row="stick_breaking",
            sibling="stick-breaking",
            flag=ORDER,
        ),
        _case(
            "stick-breaking-remainder",
            "What no key took is filled with a learned vector for each head.",
            {**sticks, "own_key": True, "remainder": True},
            {"left empty": {"remainder": False}},
            row="stick_breaking",
            further=vectors,
            sibling="stick-breaking-own-key",
            flag=ORDER,
        ),
        told(
            "weighings/rows/off-by-one",
            "variants/dense/off_by_one",
            "attention with a one in the denominator",
            "Softmax with a 1 more in its denominator, which the log-sum-exp includes.",
            _heads(),
            {},
            _off_by_one,
            layer_forms(_worn_off),
            sibling="weighings/rows/sigmoid",
            flags=(DENOMINATOR,),
            mistakes={"a plain softmax": {"plain": True}},
        ),
        told(
            "weighings/rows/talking-heads",
            "variants/dense/talking_heads",
            "attention with talking heads",
            "Matrices have the heads that come out in their rows; logits are mixed as they are scaled.",
            talk,
            {"weights": "talking"},
            _talking,
            layer_forms(_worn),
            flags=(MIXED,),
            mistakes={"read the other way round": {"transposed": True}, "added to the unmixed": {"added": True}},
        ),
        told(
            "weighings/rows/talking-heads-apart",
            "variants/dense/talking_heads",
            "attention with talking heads",
            "Matrices of the identity: heads do not hear each other.",
            {**talk, "logits": np.eye(4), "weights": np.eye(4)},
            {"weights": "talking"},
            _talking,
            layer_forms(_worn),
            sibling="weighings/rows/talking-heads",
            flags=(MIXED,),
            mistakes={"added to the unmixed": {"added": True}},
        ),
        told(
            "weighings/rows/contextual-positions",
            "variants/dense/contextual_positions",
            "attention with contextual positions",
            "CoPE: gates of scaled scores are added up from the query back, at most to 3.",
            cope,
            {"weights": "contextual", "gate_factor": 1.0},
            _contextual,
            layer_forms(_worn),
            flags=(ORDER,),
            mistakes={
                "the key's own gate left out": {"own_gate_left_out": True},
                "gates twice as steep": {"gate_factor": 2.0},
            },
        ),
        told(
            "weighings/rows/contextual-positions-steep",
            "variants/dense/contextual_positions",
            "attention with contextual positions",
            "Gates of four times the scaled score.",
            cope,
            {"weights": "contextual", "gate_factor": 4.0},
            _contextual,
            layer_forms(_worn),
            sibling="weighings/rows/contextual-positions",
            flags=(ORDER,),
            mistakes={"gates of scaled scores": {"gate_factor": 1.0}},
        ),
    )
