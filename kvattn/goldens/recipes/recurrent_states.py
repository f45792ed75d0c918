"""States of fixed size: the gated delta rule, its layer, and the short convolution in front of it.

    S_t = e^{g_t} (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ,    o_t = scale · S_tᵀ q_t
    y_t = Σ_i taps[:, i] · x_{t - c + 1 + i}

"gated delta rule": inputs ``q``, ``k [B, Hk, T, Dk]``, ``v [B, Hv, T, Dv]``, ``log_decay``, ``beta [B, Hv, T]`` and the
``state [B, Hv, Dk, Dv]`` before; ``scale``, null for 1/sqrt(Dk).  Expected: ``out`` and the ``state`` behind.  "gated
delta layer": ``x [B, T, M]`` and the weights ``query``, ``key``, ``value``, ``decay``, ``log_rate``, ``decay_bias``,
``beta``, ``gate``, ``norm``, ``output`` and ``convolution`` (channels of q, k, v in this order); ``key_heads``,
``heads``, ``width`` Dk, ``value_width`` Dv, ``eps``, and ``negative_eigenvalues`` for twice the rates.  Expected:
``hidden``.  "short convolution": ``x [B, T, C]``, ``taps [C, c]``, the ``carried [B, c - 1, C]`` rows before.
Expected: ``y`` and the ``rows`` to carry on with.  "gated delta rule of padded rows": as the rule, with ``lengths [B]``
of what is not padding; expected is the ``state`` behind it.

Sources: Yang, Kautz & Hatamizadeh 2024 (arXiv 2412.06464) §3; Fu et al. 2022 (2212.14052); Poli et al. 2023
(2302.10866).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from kvattn.goldens.formulas import dot, product, reciprocal_root, sigmoid
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, Row, softplus
from kvattn.goldens.recipes._told import told
from kvattn.variants.recurrent.gated_delta import GatedDelta, weight_shapes
from kvattn.variants.recurrent.gated_delta_rule import chunked, recurrent
from kvattn.variants.recurrent.short_convolution import convolve

STATE = Flag(
    "CarriedState",
    "KNOWN_BUG",
    "Starts a later part from another state than the one before it left, or does not let the carried one fade.",
    (
        "fla-org/flash-linear-attention#351",
        "fla-org/flash-linear-attention#494",
        "Luce-Org/lucebox#210",
        "vllm-project/vllm#56524",
        "LMCache/LMCache#2879",
    ),
)
RULE = Flag(
    "DeltaRule",
    "KNOWN_BUG",
    "Fades behind the correction, sums over heads, reads layouts in another order, or takes the gate to another base.",
    (
        "fla-org/flash-linear-attention#547",
        "fla-org/flash-linear-attention#850",
    ),
)
PADS = Flag(
    "PadsInTheState",
    "KNOWN_BUG",
    "Lets padding behind a sequence's end change its state.",
    ("ml-explore/mlx-lm#1736", "Blaizzy/mlx-vlm#1946", "vllm-project/vllm#55178"),
)
TAPS = Flag("Taps", "LAYOUT", "Reads the taps in the other order, or carries one row too few.")


def _delta(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Token by token, as the equation stands."""
    heads, width = len(a["v"][0]), len(a["q"][0][0][0])
    group, value_width = heads // len(a["k"][0]), len(a["v"][0][0][0])
    scale = n(p["scale"]) if p.get("scale") is not None else reciprocal_root(n, width)
    out: Nested = []
    left: Nested = []
    for b, sequence in enumerate(a["v"]):
        out.append([])
        left.append([])
        for h, values in enumerate(sequence):
            state = a["state"][b][h]
            if p.get("from_zero"):
                state = [[n(0)] * value_width for _ in range(width)]
            head = h % len(a["k"][0]) if p.get("tiled") else h // group
            rows = []
            for t, value in enumerate(values):
                state = _after(n, a, p, state, (b, h, head, t), value)
                q = a["q"][b][head][t]
                rows.append([dot(n, q, column) * scale for column in zip(*state, strict=True)])
            out[b].append(rows)
            left[b].append(state)
    return {"out": out, "state": left}


def _padded(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """The state behind each sequence's own last token."""
    states = []
    for b, length in enumerate(a["lengths"]):
        last = len(a["v"][b][0]) if p.get("pads_counted") else length
        one = {name: [[head[:last] for head in a[name][b]]] for name in ("q", "k", "v", "log_decay", "beta")}
        states.append(_delta(n, {**one, "state": [a["state"][b]]}, p)["state"][0])
    return {"state": states}


def _after(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any], state: Nested, at: Any, value: Row) -> Nested:
    b, h, head, t = at
    gate, rate, key = a["log_decay"][b][h][t], a["beta"][b][h][t], a["k"][b][head][t]
    fade = n.exp(gate * n.log(n(2))) if p.get("base_2") else n.exp(gate)
    if p.get("faded_behind"):
        fade, late = n(1), fade
    else:
        late = n(1)
    faded = [[fade * x for x in row] for row in state]
    columns = list(zip(*faded, strict=True))
    change = [
        rate * (v - (0 if p.get("no_correction") else dot(n, key, column)))
        for v, column in zip(value, columns, strict=True)
    ]
    return [[late * (x + k * u) for x, u in zip(row, change, strict=True)] for k, row in zip(key, faded, strict=True)]


def _convolved(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    taps = [row[::-1] for row in a["taps"]] if p.get("reversed") else a["taps"]
    reach, out, left = len(taps[0]), [], []
    for b, rows in enumerate(a["x"]):
        before = [[n(0)] * len(taps) for _ in range(reach - 1)] if p.get("from_zero") else a["carried"][b]
        every = before + rows
        out.append(
            [
                [n.sum(tap * every[t + i][c] for i, tap in enumerate(row)) for c, row in enumerate(taps)]
                for t in range(len(rows))
            ]
        )
        left.append(every[len(every) - reach + 1 :])
    return {"y": out, "rows": left}


def _layer(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Projections, convolution, SiLU, unit length, the rule, a norm in each head, a gate, and out."""
    key_heads, heads, width, value_width = p["key_heads"], p["heads"], p["width"], p["value_width"]
    channels = len(a["convolution"])
    keys = key_heads * width

    def silu(x: Number) -> Number:
        return x * sigmoid(n, x)

    def unit(row: Row) -> Row:
        size = n.sqrt(n.sum(x * x for x in row) + n(p["eps"]))
        return [x / size for x in row]

    def cut(rows: Nested, parts: int) -> Nested:
        each = len(rows[0]) // parts
        return [[row[h * each : (h + 1) * each] for row in rows] for h in range(parts)]

    hidden: Nested = []
    for x in a["x"]:
        raw = [
            q + k + v for q, k, v in zip(*(product(n, x, a[name]) for name in ("query", "key", "value")), strict=True)
        ]
        blank = {
            "x": [raw],
            "taps": a["convolution"],
            "carried": [[[n(0)] * channels] * (len(a["convolution"][0]) - 1)],
        }
        rows = [[silu(y) for y in row] for row in _convolved(n, blank, {})["y"][0]]
        q, k = (
            [[unit(row) for row in head] for head in cut(part, key_heads)]
            for part in ([r[:keys] for r in rows], [r[keys : 2 * keys] for r in rows])
        )
        v = cut([r[2 * keys :] for r in rows], heads)
        fading = product(n, x, a["decay"])
        gates = [
            [-n.exp(a["log_rate"][h]) * softplus(n, row[h] + a["decay_bias"][h]) for row in fading]
            for h in range(heads)
        ]
        doubled = 2 if p["negative_eigenvalues"] else 1
        rates = [[doubled * sigmoid(n, row[h]) for row in product(n, x, a["beta"])] for h in range(heads)]
        zero = [[[[n(0)] * value_width for _ in range(width)] for _ in range(heads)]]
        ruled = {"q": [q], "k": [k], "v": [v], "log_decay": [gates], "beta": [rates], "state": zero}
        mixes = _delta(n, ruled, {})["out"][0]
        opened = product(n, x, a["gate"])
        flat = []
        for t in range(len(x)):
            row = []
            for h in range(heads):
                size = n.sqrt(n.sum(y * y for y in mixes[h][t]) / value_width + n(p["eps"]))
                row += [
                    y
                    / size
                    * a["norm"][d]
                    * (
                        sigmoid(n, opened[t][h * value_width + d])
                        if p.get("sigmoid_gate")
                        else silu(opened[t][h * value_width + d])
                    )
                    for d, y in enumerate(mixes[h][t])
                ]
            flat.append(row)
        hidden.append(product(n, flat, a["output"]))
    return {"hidden": hidden}


def _rule_forms() -> dict[str, Ours]:
    names = ("q", "k", "v", "log_decay", "beta")

    def by_token(cuts: list[int]) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            state, found, edges = inputs["state"], [], [0, *cuts, inputs["v"].shape[2]]
            for first, last in pairwise(edges):
                q, k, v, gates, rates = (inputs[name][:, :, first:last] for name in names)
                out, states = recurrent(q, k, v, gates, rates, state, scale=p.get("scale"))
                found.append(out)
                state = states[-1]
            return {"out": np.concatenate(found, axis=2), "state": state}

        return ours

    def by_chunk(size: int) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            q, k, v, gates, rates = (inputs[name] for name in names)
            out, state = chunked(q, k, v, gates, rates, inputs["state"], scale=p.get("scale"), chunk=size)
            return {"out": out, "state": state}

        return ours

    return {
        "token by token": by_token([]),
        "in pieces": by_token([1, 3]),
        **{f"chunks of {size}": by_chunk(size) for size in (2, 3, 64)},
    }


def _padded_forms() -> dict[str, Ours]:
    def alone(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        found = []
        for b, length in enumerate(inputs["lengths"]):
            row, names = slice(b, b + 1), ("q", "k", "v", "log_decay", "beta")
            q, k, v, gates, rates = (inputs[name][row, :, :length] for name in names)
            found.append(recurrent(q, k, v, gates, rates, inputs["state"][row], scale=p.get("scale"))[1][-1])
        return {"state": np.concatenate(found)}

    def silent(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        """A pad whose rate and gate are 0 leaves the state as it was."""
        real = np.arange(inputs["v"].shape[2]) < inputs["lengths"][:, None, None]
        gates, rates = (np.where(real, inputs[name], 0.0) for name in ("log_decay", "beta"))
        q, k, v = (inputs[name] for name in "qkv")
        return {"state": recurrent(q, k, v, gates, rates, inputs["state"], scale=p.get("scale"))[1][-1]}

    return {"each sequence alone": alone, "pads without rate and gate": silent}


def _convolve_forms() -> dict[str, Ours]:
    def ours(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
        y, rows = convolve(inputs["carried"], inputs["x"], inputs["taps"])
        return {"y": y, "rows": rows[:, inputs["x"].shape[1] :]}

    def in_pieces(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> dict[str, Any]:
        carried, found = inputs["carried"], []
        for part in np.split(inputs["x"], [1, 3], axis=1):
            y, rows = convolve(carried, part, inputs["taps"])
            found.append(y)
            carried = rows[:, part.shape[1] :]
        return {"y": np.concatenate(found, axis=1), "rows": carried}

    return {"at once": ours, "in pieces": in_pieces}


def _layer_forms() -> dict[str, Ours]:
    def made(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> GatedDelta:
        named: Any = {name: array for name, array in inputs.items() if name != "x"}
        sizes: Any = {"norm_epsilon": p["eps"], "length_epsilon": p["eps"]}
        return GatedDelta(**named, **sizes, key_heads=p["key_heads"], negative_eigenvalues=p["negative_eigenvalues"])

    def whole(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        return {"hidden": made(inputs, p).definition(inputs["x"], np.arange(inputs["x"].shape[1])).out}

    def chunks(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        return {"hidden": made(inputs, p).chunked(inputs["x"], chunk=2).out}

    def stepped(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        layer = made(inputs, p)
        cache, found = layer.start(len(inputs["x"])), []
        for part in np.split(inputs["x"], [1, 3], axis=1):
            attended, cache = layer.step(cache, part)
            found.append(attended.out)
        return {"hidden": np.concatenate(found, axis=1)}

    return {"definition": whole, "in pieces": stepped, "chunks of 2": chunks}


def _rule(
    name: str, comment: str, inputs: dict[str, Any], mistakes: dict[str, Any], flag: Flag, **others: Any
) -> Recipe:
    words = (f"recurrent/delta/{name}", "variants/recurrent/gated_delta_rule", "gated delta rule", comment)
    given = {"scale": others.pop("scale", None)}
    return told(*words, inputs, given, _delta, _rule_forms(), flags=(flag,), mistakes=mistakes, **others)


def recipes() -> tuple[Recipe, ...]:
    """The cases of recurrent states.

    >>> len({recipe.name for recipe in recipes()})
    10
    """
    keys = {name: drawn(f"delta {name}", 1, 2, 5, 4, limit=0.5) for name in ("q", "k")}
    plain = {
        **keys,
        "v": drawn("delta v", 1, 4, 5, 3),
        "log_decay": -np.abs(drawn("delta gates", 1, 4, 5)),
        "beta": np.abs(drawn("delta rates", 1, 4, 5, limit=1.0)),
        "state": np.zeros((1, 4, 4, 3)),
    }
    held = {**plain, "state": drawn("delta state", 1, 4, 4, 3)}
    padded = {
        **{name: drawn(f"padded {name}", 2, 2, 5, 4, limit=0.5) for name in ("q", "k")},
        "v": drawn("padded v", 2, 4, 5, 3),
        "log_decay": -np.abs(drawn("padded gates", 2, 4, 5)),
        "beta": np.abs(drawn("padded rates", 2, 4, 5, limit=1.0)),
        "state": drawn("padded state", 2, 4, 4, 3),
        "lengths": np.array([5, 3]),
    }
    zero = {"from a state of zeros": {"from_zero": True}}
    rule = {
        "faded behind the correction": {"faded_behind": True},
        "gates to base 2": {"base_2": True},
        "no correction": {"no_correction": True},
        "key heads tiled": {"tiled": True},
    }
    rows = {"x": drawn("taps x", 2, 5, 3), "taps": drawn("taps", 3, 4), "carried": drawn("taps carried", 2, 3, 3)}
    sizes: dict[str, Any] = {"key_heads": 1, "heads": 2, "width": 2, "value_width": 3}
    shapes = weight_shapes(hidden=5, **sizes, taps=3)
    layer = {"x": drawn("delta x", 1, 5, 5)}
    layer |= {name: drawn(f"delta layer {name}", *shape, limit=1.0) for name, shape in shapes.items()}
    given = {**sizes, "eps": 1e-6, "negative_eigenvalues": False}
    return (
        _rule("plain", "Two key heads for four value heads; the state begins as zeros.", plain, rule, RULE),
        _rule(
            "carried-state",
            "The same behind a state: it fades, is read and is corrected.",
            held,
            {**zero, **rule},
            STATE,
            sibling="recurrent/delta/plain",
        ),
        _rule(
            "no-fading",
            "Gates of 0: the delta rule.",
            {**held, "log_decay": np.zeros((1, 4, 5))},
            {**zero, "no correction": {"no_correction": True}},
            STATE,
            sibling="recurrent/delta/carried-state",
        ),
        _rule(
            "rates-of-two",
            "A rate above 1 turns the sign of what a key holds.",
            {**held, "beta": held["beta"] + 1.0},
            {**zero, **rule},
            RULE,
            sibling="recurrent/delta/carried-state",
        ),
        _rule(
            "fast-fading",
            "Gates around -40: nothing of the carried state is left, and nothing may overflow.",
            {**held, "log_decay": held["log_decay"] - 40.0},
            {"faded behind the correction": {"faded_behind": True}},
            RULE,
            sibling="recurrent/delta/carried-state",
        ),
        _rule(
            "scale-of-one",
            "Queries that are not scaled.",
            held,
            {**zero, "scaled by the width": {"scale": None}},
            RULE,
            scale=1.0,
            sibling="recurrent/delta/carried-state",
        ),
        told(
            "recurrent/delta/padded-rows",
            "variants/recurrent/gated_delta_rule",
            "gated delta rule of padded rows",
            "Sequences of five and of three tokens: the pads of the second leave its state alone.",
            padded,
            {"scale": None},
            _padded,
            _padded_forms(),
            flags=(PADS,),
            mistakes={"pads counted": {"pads_counted": True}},
        ),
        told(
            "recurrent/delta/layer",
            "variants/recurrent/gated_delta",
            "gated delta layer",
            "Convolution, SiLU, unit length, the rule, a norm in each head and a SiLU gate.",
            layer,
            given,
            _layer,
            _layer_forms(),
            flags=(RULE,),
            mistakes={"a sigmoid gate": {"sigmoid_gate": True}, "rates doubled": {"negative_eigenvalues": True}},
        ),
        told(
            "recurrent/delta/layer-doubled",
            "variants/recurrent/gated_delta",
            "gated delta layer",
            "OLMo-Hybrid doubles the rates.",
            layer,
            {**given, "negative_eigenvalues": True},
            _layer,
            _layer_forms(),
            sibling="recurrent/delta/layer",
            flags=(RULE,),
            mistakes={"not doubled": given},
        ),
        told(
            "recurrent/convolution/carried",
            "variants/recurrent/short_convolution",
            "short convolution",
            "Four taps for each channel, the last for the token itself; three rows are carried in and out.",
            rows,
            {},
            _convolved,
            _convolve_forms(),
            flags=(TAPS, STATE),
            mistakes={"taps in the other order": {"reversed": True}, "from zeros": {"from_zero": True}},
        ),
    )
