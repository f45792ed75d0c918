"""Whole layers: from hidden states through four matrices and back, with a memory beside, and stacked.

    q, k, v = x W_q, x W_k, x W_v,   y = concat_h(attention) W_o,      stacked: x ← x + layer(norm(x))

Operation ``layer``: ``x [B, T, M]``, ``query [M, Hq·D]``, ``key [M, Hkv·D]``, ``value [M, Hkv·Dv]``,
``output [Hq·Dv, M]``; parameters ``heads``, ``kv_heads``; causal; outputs ``y [B, T, M]`` and ``lse [B, Hq, T]``.
Operation ``merged_layer``: ``memory [B, S, M]``, whose keys and values share the softmax, beside.
Operation ``layers``: every matrix with the number of its layer behind its name, ``norm [L, M]``, parameter ``eps``;
output ``y`` alone.  Source: Vaswani et al. 2017 (1706.03762) §3.2; He et al. 2020 (2006.10369) §4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.flag import Flag
from kvattn.goldens.formulas import attention, product
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Formula, Recipe, Values, drawn
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.layers import Layers
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.projections import Projections

COLUMNS = Flag("HeadColumns", "LAYOUT", "A head owns every H-th column of a projection instead of D neighbouring ones.")
RESIDUAL = Flag("ResidualStream", "BASIC", "The residual connection is left out, or the norm stands behind the layer.")
MERGED = Flag("MergedSoftmax", "BASIC", "A memory's keys are attended to apart from the tokens', or masked like them.")

NAMES = ("query", "key", "value", "output")


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 5
    True
    """
    plain = {"x": drawn("hidden states", 1, 4, 5), **_matrices("one")}
    pair = {"x": drawn("two sequences", 2, 3, 5), **_matrices("one")}
    memory = {"memory": drawn("memory", 1, 3, 5, limit=1.0)}
    stack = {"x": plain["x"], "norm": drawn("norms", 2, 5, limit=1.5)}
    for number in range(2):
        stack |= {f"{name}_{number}": matrix for name, matrix in _matrices(f"layer {number}").items()}
    every_other: dict[str, Formula] = {"a head owns every H-th column": _as_if(_layer, columns="interleaved")}
    return (
        _recipe(
            "plain",
            "variants/dense/projections",
            "layer",
            "One causal layer.",
            plain,
            _layer,
            _ours,
            (COLUMNS,),
            every_other,
        ),
        _recipe(
            "batch",
            "variants/dense/projections",
            "layer",
            "The same layer over two sequences.",
            pair,
            _layer,
            _ours,
            (COLUMNS,),
            every_other,
        ),
        _recipe(
            "one-token",
            "variants/dense/grouped",
            "layer",
            "One token sees itself: its own value through both matrices.",
            {**plain, "x": plain["x"][:, :1]},
            _layer,
            _ours,
            (COLUMNS,),
            every_other,
            sibling="plain",
        ),
        _recipe(
            "merged",
            "variants/dense/merged",
            "merged_layer",
            "Three keys of an encoder share one softmax with the decoder's own, and no mask hides them.",
            {**plain, **memory},
            _layer,
            _ours_merged,
            (MERGED,),
            {
                "attended to apart and added": _as_if(_layer, apart=True),
                "the memory is left out": lambda n, a, p: _layer(n, {x: y for x, y in a.items() if x != "memory"}, p),
            },
            sibling="plain",
        ),
        _recipe(
            "stacked",
            "variants/dense/layers",
            "layers",
            "Two layers with a residual connection around each and a norm before it.",
            stack,
            _stacked,
            _ours_stacked,
            (RESIDUAL,),
            {
                "no residual connection": _as_if(_stacked, residual=False),
                "norms behind the layers": _as_if(_stacked, norm_behind=True),
                "layers in the other order": _as_if(_stacked, backwards=True),
            },
            eps=0.0625,
        ),
        _recipe(
            "stacked-without-norm",
            "variants/dense/layers",
            "layers",
            "The same layers without norms.",
            {name: array for name, array in stack.items() if name != "norm"},
            _stacked,
            _ours_stacked,
            (RESIDUAL,),
            {"no residual connection": _as_if(_stacked, residual=False)},
            sibling="stacked",
            eps=0.0625,
        ),
    )


def _matrices(label: str) -> dict[str, Any]:
    """For M = 5, four and two heads, D = 3, Dv = 2."""
    sizes = ((5, 12), (5, 6), (5, 4), (8, 5))
    return {name: drawn(f"{name} of {label}", *size, limit=1.0) for name, size in zip(NAMES, sizes, strict=True)}


def _recipe(
    name: str,
    row: str,
    operation: str,
    comment: str,
    inputs: Mapping[str, Any],
    formula: Formula,
    ours: Any,
    flags: tuple[Flag, ...],
    mistakes: Mapping[str, Formula],
    sibling: str | None = None,
    **parameters: Any,
) -> Recipe:
    return Recipe(
        name=f"layers/whole/{name}",
        row=row,
        operation=operation,
        comment=comment,
        inputs=inputs,
        parameters={"heads": 4, "kv_heads": 2, **parameters},
        formula=formula,
        ours=ours,
        flags=flags,
        mistakes=mistakes,
        sibling=sibling and f"layers/whole/{sibling}",
    )


def _as_if(formula: Formula, **changed: Any) -> Formula:
    return lambda n, a, p: formula(n, a, {**p, **changed})


def _layer(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    def heads_of(rows: Any, name: str, count: int) -> Any:
        found = [product(n, sequence, a[name]) for sequence in rows]
        width = len(a[name][0]) // count
        step = count if p.get("columns") == "interleaved" else 1
        starts = [h if step > 1 else h * width for h in range(count)]
        return [[[row[first::step][:width] for row in sequence] for first in starts] for sequence in found]

    def rows_of(mix: Any) -> Any:
        joined = [[[x for head in heads for x in head[t]] for t in range(len(heads[0]))] for heads in mix]
        return [product(n, sequence, a["output"]) for sequence in joined]

    q, k, v = (heads_of(a["x"], name, p["heads" if name == "query" else "kv_heads"]) for name in NAMES[:3])
    beside = len(a["memory"][0]) if "memory" in a else 0
    if beside:
        mk, mv = (heads_of(a["memory"], name, p["kv_heads"]) for name in NAMES[1:3])
        if p.get("apart"):
            both = (attention(n, q, k, v, see=lambda b, h, t, s: s <= t), attention(n, q, mk, mv))
            own, other = (rows_of(found["out"]) for found in both)
            return {
                "y": [
                    [[x + y for x, y in zip(*r, strict=True)] for r in zip(*s, strict=True)]
                    for s in zip(own, other, strict=True)
                ]
            }
        k = [[[*far, *near] for far, near in zip(*heads, strict=True)] for heads in zip(mk, k, strict=True)]
        v = [[[*far, *near] for far, near in zip(*heads, strict=True)] for heads in zip(mv, v, strict=True)]
    found = attention(n, q, k, v, see=lambda b, h, t, s: s - beside <= t)
    return {"y": rows_of(found["out"]), "lse": found["lse"]}


def _added(one: Any, other: Any) -> Any:
    """The sum of nested lists."""
    if not isinstance(one, list):
        return one + other
    return [_added(x, y) for x, y in zip(one, other, strict=True)]


def _stacked(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    def normed(sequence: Any, number: int) -> Any:
        if "norm" not in a:
            return sequence
        eps, weights = n(p["eps"]), a["norm"][number]
        sizes = [n.sqrt(n.sum(x * x for x in row) / len(row) + eps) for row in sequence]
        return [
            [x / size * w for x, w in zip(row, weights, strict=True)] for row, size in zip(sequence, sizes, strict=True)
        ]

    x, order = a["x"], [1, 0] if p.get("backwards") else [0, 1]
    for number in order:
        matrices = {name: a[f"{name}_{number}"] for name in NAMES}
        before = x if p.get("norm_behind") else [normed(sequence, number) for sequence in x]
        y = _layer(n, {"x": before, **matrices}, p)["y"]
        if p.get("norm_behind"):
            y = [normed(sequence, number) for sequence in y]
        if p.get("residual", True):
            y = [
                [[s + t for s, t in zip(*rows, strict=True)] for rows in zip(*both, strict=True)]
                for both in zip(x, y, strict=True)
            ]
        x = y
    return {"y": x}


def _projections(a: Mapping[str, Any], p: Mapping[str, Any], suffix: str = "") -> Projections:
    named = {name: a[f"{name}{suffix}"] for name in NAMES}
    return Projections(**named, heads=p["heads"], kv_heads=p["kv_heads"])


def _ours(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    """By steps of one token after the first two."""
    return _stepped(Grouped(_projections(a, p)), a["x"])


def _ours_merged(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    return _stepped(Merged(_projections(a, p), a["memory"]), a["x"])


def _ours_stacked(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    layers = [Grouped(_projections(a, p, f"_{number}")) for number in range(2)]
    stack = Layers(layers, hidden=a["x"].shape[2], norm=a.get("norm"), eps=p["eps"])
    return {"y": _stepped(stack, a["x"])["y"]}


def _stepped(layer: Any, x: Any) -> dict[str, Any]:
    cache, found = layer.start(len(x)), []
    for part in (x[:, :2], *(x[:, t : t + 1] for t in range(2, x.shape[1]))):
        attended, cache = layer.step(cache, part)
        found.append(attended)
    return {
        "y": np.concatenate([part.out for part in found], axis=1),
        "lse": np.concatenate([part.lse for part in found], axis=2),
    }
