"""Dense attention whose mix is gated or normed.

Inputs ``q``, ``k``, ``v``, causal; expected ``out`` and ``lse``.

- "attention with an output gate": ``gates [B, T, Hq·Dv or Hq]`` before ``gate``, sigmoid or softplus; or ``fused``,
  each of ``heads`` with its query and its gate side by side.
- "attention with a normed mix": ``weights``, ``eps``.

Source: Qiu et al. 2025 (arXiv 2505.06708) §2.2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, sigmoid
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._dense import NORMS, case, drawn_heads, root_mean_square, whole_norm
from kvattn.goldens.recipes._forms import Worn, picked
from kvattn.goldens.recipes._loops import Nested, before, every_row, softplus
from kvattn.variants.dense import output_gate
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.sub_norm import SubNorm

GATES = Flag("OutputGate", "LAYOUT", "Takes another head's gate, or reads query and gate of a head from other columns.")


def _gated(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """A gate for each feature or each head; ``fused`` has queries and gates of a head side by side."""
    q, width = a.get("q"), len(a["v"][0][0][0])
    opened = softplus if p["gate"] == "softplus" else sigmoid
    heads = p["heads"]
    if "fused" in a:
        flat = len(a["fused"][0][0]) // 2

        def column(h: int, d: int, part: int) -> int:
            return part * flat + h * width + d if p.get("queries_then_gates") else (2 * h + part) * width + d

        tokens = range(len(a["fused"][0]))
        q = [
            [[[row[t][column(h, d, 0)] for d in range(width)] for t in tokens] for h in range(heads)]
            for row in a["fused"]
        ]

    def gate(b: int, h: int, t: int, d: int) -> Number:
        if "fused" in a:
            return a["fused"][b][t][column(h, d, 1)]
        if len(a["gates"][b][t]) == heads:
            return a["gates"][b][t][h]
        return a["gates"][b][t][d * heads + h if p.get("features_first") else h * width + d]

    answer = attention(n, q, a["k"], a["v"], see=before)
    out = every_row(answer["out"], lambda b, h, t, row: [x * opened(n, gate(b, h, t, d)) for d, x in enumerate(row)])
    return {"out": out, "lse": answer["lse"]}


def _sub_normed(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """An RMSNorm over the mixes of all heads of a token."""
    answer = attention(n, a["q"], a["k"], a["v"], see=before)
    if p.get("each_head"):
        width = len(a["v"][0][0][0])
        out = every_row(
            answer["out"],
            lambda b, h, t, row: root_mean_square(n, row, a["weights"][h * width : (h + 1) * width], n(p["eps"])),
        )
        return {"out": out, "lse": answer["lse"]}
    return {"out": whole_norm(n, answer["out"], a["weights"], n(p["eps"])), "lse": answer["lse"]}


# what kvattn computes


def _worn_gated(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    if "fused" in inputs:
        fused, heads = inputs["fused"], p["heads"]
        columns = np.eye(fused.shape[2])
        query, gate = output_gate.parted(columns, heads)
        arrays = {"k": inputs["k"], "v": inputs["v"], "fused": fused}
        flat = [fused, *(arrays[name].swapaxes(1, 2).reshape(*fused.shape[:2], -1) for name in ("k", "v"))]
        x = np.concatenate(flat, axis=2)
        edges = np.cumsum([0, *(part.shape[2] for part in flat)])
        every = np.eye(x.shape[2])
        key, value = every[:, edges[1] : edges[2]], every[:, edges[2] : edges[3]]
        output = every[: query.shape[1]]
        lifted = [np.concatenate([part, np.zeros((x.shape[2] - len(part), part.shape[1]))]) for part in (query, gate)]
        made = Projections(lifted[0], key, value, output, heads, inputs["k"].shape[1])
        layer = Grouped(made, finish=(output_gate.SigmoidGate(lifted[1]),))
        return Worn(layer, x, heads, inputs["v"].shape[3])
    projections, x, others = picked(inputs, "gates")
    kind: Any = output_gate.SoftplusGate if p["gate"] == "softplus" else output_gate.SigmoidGate
    layer = Grouped(projections, finish=(kind(others["gates"]),))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_sub_normed(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    layer = Grouped(projections, finish=(SubNorm(inputs["weights"], p["eps"]),))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


# cases


def recipes() -> tuple[Recipe, ...]:
    """The cases of gates and of norms behind the mix.

    >>> len({recipe.name for recipe in recipes()})
    5
    """
    words = ("dense/output_gate", "attention with an output gate")
    each = {**drawn_heads(value_width=3), "gates": drawn("gates", 1, 5, 12)}
    by_head = {**drawn_heads(value_width=3), "gates": drawn("gates of heads", 1, 5, 4)}
    fused = {name: x for name, x in drawn_heads(4, 2, 4).items() if name != "q"} | {"fused": drawn("fused", 1, 5, 32)}
    given = {"gate": "sigmoid", "heads": 4}
    normed = {**drawn_heads(), "weights": drawn("sub norm", 12)}
    return (
        case(
            "gates/each-feature",
            *words,
            "A sigmoid for each feature of each head.",
            each,
            given,
            _gated,
            _worn_gated,
            flags=(GATES,),
            mistakes={"features before heads": {"features_first": True}, "softplus": {"gate": "softplus"}},
        ),
        case(
            "gates/each-head",
            *words,
            "Step-3.5: a sigmoid for each head.",
            by_head,
            given,
            _gated,
            _worn_gated,
            sibling="gates/each-feature",
            flags=(GATES,),
            mistakes={"softplus": {"gate": "softplus"}},
        ),
        case(
            "gates/softplus",
            *words,
            "Laguna: a softplus for each head.",
            by_head,
            {**given, "gate": "softplus"},
            _gated,
            _worn_gated,
            sibling="gates/each-head",
            flags=(GATES,),
            mistakes={"sigmoid": given},
        ),
        case(
            "gates/fused",
            *words,
            "Qwen3-Next: queries and gates of a head side by side.",
            fused,
            given,
            _gated,
            _worn_gated,
            sibling=None,
            flags=(GATES,),
            mistakes={"all queries, then all gates": {"queries_then_gates": True}},
        ),
        case(
            "gates/norm-of-the-mix",
            "dense/sub_norm",
            "attention with a normed mix",
            "An RMSNorm over the mixes of all heads of a token.",
            normed,
            {"eps": 1e-6},
            _sub_normed,
            _worn_sub_normed,
            sibling="gates/each-feature",
            flags=(NORMS,),
            mistakes={"each head by itself": {"each_head": True}},
        ),
    )
