"""Layers whose values are mixed with those of the first layer.

- "layers with a value residual": ``x``, and for each of ``layers`` ``query_n``, ``key_n``, ``value_n``, ``output_n`` of
  ``heads`` and ``kv_heads``; x grows by each layer's output; ``mix``, own and first value, from the second layer on.
  Expected: ``hidden``, and the last layer's ``lse``.

Source: Zhou et al. 2024 (arXiv 2410.17897).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, product
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._loops import Nested, before
from kvattn.goldens.recipes._told import told
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.value_residual import ValueResidual

RESIDUAL = Flag("ValueResidual", "CACHE_STATE", "Mixes values with those of the layer before instead of the first.")


def _residual(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Layers with a residual stream; values of all but the first are mixed with the first one's."""
    x, firsts, lse = a["x"], [], None
    heads, kv_heads = p["heads"], p["kv_heads"]

    def cut(flat: Nested, parts: int) -> Nested:
        width = len(flat[0]) // parts
        return [[row[h * width : (h + 1) * width] for row in flat] for h in range(parts)]

    for layer in range(p["layers"]):
        rows = []
        for b, states in enumerate(x):
            q, k, v = (product(n, states, a[f"{name}_{layer}"]) for name in ("query", "key", "value"))
            if layer == 0:
                firsts.append(v)
            else:
                own, other = (n(share) for share in p["mix"][layer - 1])
                v = _sums(v, firsts[b], own, other)
                if p.get("of_the_layer_before"):
                    firsts[b] = v
            answer = attention(n, [cut(q, heads)], [cut(k, kv_heads)], [cut(v, kv_heads)], see=before)
            flat = [[y for h in range(heads) for y in answer["out"][0][h][t]] for t in range(len(states))]
            more = product(n, flat, a[f"output_{layer}"])
            rows.append((_sums(states, more, 1, 1), answer["lse"][0]))
        x, lse = [row for row, _ in rows], [end for _, end in rows]
    return {"hidden": x, "lse": lse}


def _sums(left: Nested, right: Nested, own: Any, other: Any) -> Nested:
    return [[own * x + other * y for x, y in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


# what kvattn computes


def _residual_forms() -> dict[str, Ours]:
    def layers_of(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> ValueResidual:
        sizes: Any = {"heads": p["heads"], "kv_heads": p["kv_heads"]}
        names = ("query", "key", "value", "output")
        made = [
            Grouped(Projections(**{name: inputs[f"{name}_{n}"] for name in names}, **sizes)) for n in range(p["layers"])
        ]
        return ValueResidual(made, p["mix"])

    def whole(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        attended = layers_of(inputs, p).definition(inputs["x"], np.arange(inputs["x"].shape[1]))
        return {"hidden": attended.out, "lse": attended.lse}

    def stepped(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
        layers = layers_of(inputs, p)
        cache, found = layers.start(len(inputs["x"])), []
        for part in np.split(inputs["x"], [2], axis=1):
            attended, cache = layers.step(cache, part)
            found.append(attended)
        return {
            "hidden": np.concatenate([part.out for part in found], axis=1),
            "lse": np.concatenate([part.lse for part in found], axis=2),
        }

    return {"definition": whole, "in pieces": stepped}


# cases


def recipes() -> tuple[Recipe, ...]:
    """The cases of the value residual.

    >>> len({recipe.name for recipe in recipes()})
    1
    """
    shapes = {"query": (4, 6), "key": (4, 3), "value": (4, 2), "output": (4, 4)}
    residual = {"x": drawn("residual x", 1, 5, 4)} | {
        f"{name}_{layer}": drawn(f"residual {name} {layer}", *shape, limit=1.0)
        for layer in range(3)
        for name, shape in shapes.items()
    }
    return (
        told(
            "variants/rows/value-residual",
            "variants/dense/value_residual",
            "layers with a value residual",
            "Three layers with a residual stream; the second and third mix in the first one's values.",
            residual,
            {"layers": 3, "heads": 2, "kv_heads": 1, "mix": [[0.5, 0.5], [0.75, 0.25]]},
            _residual,
            _residual_forms(),
            flags=(RESIDUAL,),
            mistakes={
                "of the layer before": {"of_the_layer_before": True},
                "none": {"mix": [[1.0, 0.0], [1.0, 0.0]]},
                "the first layer's alone": {"mix": [[0.0, 1.0], [0.0, 1.0]]},
            },
        ),
    )
