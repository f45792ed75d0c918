"""Differential attention: one map of weights less a share of another.

Inputs ``q``, ``k``, ``v``, causal; expected ``out`` and ``lse``.

- "differential attention": ``pairs`` side by side or halves; λ = exp(a₁·b₁) - exp(a₂·b₂) + ``initial`` of ``vectors``;
  RMSNorm of a pair's mix with ``weights``, ``eps``, times 1 - initial.

Source: Ye et al. 2024 (arXiv 2410.05258) §2.1.
"""

from collections.abc import Mapping
from typing import Any

from kvattn.goldens.formulas import dot, reciprocal_root, softmax
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._dense import case, drawn_heads, root_mean_square
from kvattn.goldens.recipes._forms import Worn, picked
from kvattn.goldens.recipes._loops import Nested
from kvattn.variants.dense import differential

PAIRS = Flag("DifferentialPairs", "LAYOUT", "Pairs other heads, or shares keys otherwise among the maps of a pair.")


def _difference(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """softmax of one head less λ times that of its partner, over both heads' values side by side."""
    heads, kv_heads = len(a["q"][0]), len(a["k"][0])
    pairs, kv_pairs = heads // 2, kv_heads // 2
    one, two = (n.exp(dot(n, *a["vectors"][2 * i : 2 * i + 2])) for i in (0, 1))
    start = n(p["initial"])
    weight = one - two + start
    scale = reciprocal_root(n, len(a["q"][0][0][0]))
    out: Nested = [[[] for _ in range(pairs)] for _ in a["q"]]
    lse: Nested = [[[] for _ in range(heads)] for _ in a["q"]]
    for b, queries in enumerate(a["q"]):
        for pair in range(pairs):
            group = pair // (pairs // kv_pairs)
            if p["pairs"] == "side by side":
                mine, theirs = (2 * pair, 2 * pair + 1), (2 * group, 2 * group + 1)
            else:
                mine, theirs = (pair, pair + pairs), (group, group + kv_pairs)
            for t in range(len(queries[0])):
                maps = []
                for h, g in zip(mine, theirs, strict=True):
                    keys = a["k"][b][g][: t + 1]
                    weights, end = softmax(n, [dot(n, queries[h][t], key) * scale for key in keys])
                    maps.append(weights)
                    lse[b][2 * pair + (h == mine[1])].append(end)
                less = [x - weight * y for x, y in zip(*maps, strict=True)]
                values = [a["v"][b][theirs[0]][s] + a["v"][b][theirs[1]][s] for s in range(t + 1)]
                row = [dot(n, less, column) for column in zip(*values, strict=True)]
                normed = root_mean_square(n, row, a["weights"], n(p["eps"]))
                out[b][pair].append([x * (1 - start) if not p.get("not_rescaled") else x for x in normed])
    return {"out": out, "lse": lse}


# what kvattn computes


def _worn_difference(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    a_1, b_1, a_2, b_2 = inputs["vectors"]
    weight = differential.learned(a_1, b_1, a_2, b_2, p["initial"])
    if p["pairs"] != "side by side":
        projections = differential.from_halves(projections)
    layer = differential.Differential(projections, weight, p["initial"], inputs["weights"], p["eps"])
    return Worn(layer, x, inputs["q"].shape[1] // 2, 2 * inputs["v"].shape[3])


# cases


def recipes() -> tuple[Recipe, ...]:
    """The cases of differential attention.

    >>> len({recipe.name for recipe in recipes()})
    3
    """
    words = ("dense/differential", "differential attention")
    more = {"vectors": drawn("lambda", 4, 6, limit=0.5), "weights": drawn("pair norm", 6)}
    wide, few = {**drawn_heads(kv_heads=4), **more}, {**drawn_heads(kv_heads=2), **more}
    given = {"initial": 0.2, "eps": 1e-5, "pairs": "side by side"}
    halves = {"pairs": "halves"}
    return (
        case(
            "differential/side-by-side",
            *words,
            "The paper's code: heads 2p and 2p + 1 are a pair.",
            wide,
            given,
            _difference,
            _worn_difference,
            flags=(PAIRS,),
            mistakes={"heads p and p + 2": halves, "not rescaled": {"not_rescaled": True}},
        ),
        case(
            "differential/halves",
            *words,
            "DiffLlama: heads p and p + 2 are a pair.",
            wide,
            {**given, **halves},
            _difference,
            _worn_difference,
            sibling="differential/side-by-side",
            flags=(PAIRS,),
            mistakes={"heads side by side": given},
        ),
        case(
            "differential/grouped",
            *words,
            "Two pairs of queries share one pair of keys and its values.",
            few,
            {**given, "initial": 0.5},
            _difference,
            _worn_difference,
            sibling="differential/side-by-side",
            flags=(PAIRS,),
            mistakes={"another depth": {"initial": 0.2}},
        ),
    )
