"""Dense attention whose queries and keys are normed.

Inputs ``q``, ``k``, ``v``, causal; expected ``out`` and ``lse``.

- "attention with normed queries and keys": ``norm`` null, rms, layer or whole projection, in an ``order``: norm first
  or rotation first (halves, ``base``); ``eps``; ``query_weights`` and ``key_weights``, with ``added`` to them, biases
  ``query_biases`` and ``key_biases``.
- "cosine attention": rows of unit length, temperature exp(min(``logit_scale [H]``, ln ``most``)), ``scale``.

Sources: Henry et al. 2020 (arXiv 2010.04245); Dehghani et al. 2023 (2302.05442) §2.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Recipe, drawn
from kvattn.goldens.recipes._dense import NORMS, case, drawn_heads, root_mean_square, whole_norm
from kvattn.goldens.recipes._forms import Worn, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, Row, before, every_row, geometric, turn
from kvattn.goldens.recipes._told import told
from kvattn.positions.rotary import Rotary
from kvattn.variants.dense import query_key_norm
from kvattn.variants.dense.cosine import Cosine
from kvattn.variants.dense.grouped import Grouped


def _layer_norm(n: Numbers, row: Row, weights: Row, biases: Row, eps: Any) -> Row:
    mean = n.sum(row) / len(row)
    centred = [x - mean for x in row]
    size = n.sqrt(n.sum(x * x for x in centred) / len(row) + eps)
    return [x / size * w + b for x, w, b in zip(centred, weights, biases, strict=True)]


def _normed(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """QK-norm of a kind, before or behind the rotation."""
    eps, kind, thetas = n(p["eps"]), p["norm"], geometric(n, len(a["q"][0][0][0]), p["base"])

    def norm(rows: Nested, name: str) -> Nested:
        if kind is None:
            return rows
        if kind == "whole projection":
            return whole_norm(n, rows, a[f"{name}_weights"], eps)
        weights: Any = a.get(f"{name}_weights")
        less = p.get("added", 0)
        if kind == "layer":
            return every_row(rows, lambda b, h, t, row: _layer_norm(n, row, weights, a[f"{name}_biases"], eps))
        full = None if weights is None else [w + less for w in weights]
        return every_row(rows, lambda b, h, t, row: root_mean_square(n, row, full, eps))

    def rotated(rows: Nested) -> Nested:
        return every_row(rows, lambda b, h, t, row: turn(n, row, [t * theta for theta in thetas]))

    q, k = (
        rotated(norm(a[name], word)) if p["order"] == "norm first" else norm(rotated(a[name]), word)
        for name, word in (("q", "query"), ("k", "key"))
    )
    return attention(n, q, k, a["v"], see=before)


def _cosine(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Rows of unit length, and a temperature for each head that ln(most) bounds."""

    def unit(row: Row) -> Row:
        size = n.sqrt(n.sum(x * x for x in row))
        return [x / size for x in row]

    def bounded(logit: Number) -> Number:
        most = n.log(n(p["most"]))
        return n.exp(min(logit, most))

    q = every_row(a["q"], lambda b, h, t, row: [x * bounded(a["logit_scale"][h]) for x in unit(row)])
    k = every_row(a["k"], lambda b, h, t, row: unit(row))
    return attention(n, q, k, a["v"], see=before, scale=n(p.get("scale", 1.0)))


# what kvattn computes


def _worn_normed(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    rotary = Rotary.of(inputs["q"].shape[3], p["base"])
    named = {name[:-8]: inputs[name] for name in ("query_weights", "key_weights") if name in inputs}
    biases = {f"{name}_bias": inputs[f"{name}_biases"] for name in ("query", "key") if f"{name}_biases" in inputs}
    kinds: dict[str | None, Any] = {
        "rms": query_key_norm.HeadRmsNorm,
        "layer": query_key_norm.HeadLayerNorm,
        "whole projection": query_key_norm.FullRmsNorm,
    }
    if p["norm"] is None:
        steps: Any = (rotary,)
    elif p.get("added"):
        steps = (query_key_norm.HeadRmsNorm.zero_centred(**named, eps=p["eps"]), rotary)
    else:
        norm = kinds[p["norm"]](**named, **biases, eps=p["eps"])
        steps = (norm, rotary) if p["order"] == "norm first" else (rotary, norm)
    return Worn(Grouped(projections, query_key=steps), x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_cosine(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    scheme = Cosine.learned(inputs["logit_scale"], most=float(np.log(p["most"])))
    layer = Grouped(projections, query_key=(scheme,), scale=p["scale"])
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


# cases


def recipes() -> tuple[Recipe, ...]:
    """The cases of norms of queries and keys.

    >>> len({recipe.name for recipe in recipes()})
    9
    """
    cosine = {**drawn_heads(), "logit_scale": np.array([0.5, 1.5, 2.25, 6.0])}
    weights = {"query_weights": drawn("norm q", 6), "key_weights": drawn("norm k", 6)}
    whole = {"query_weights": drawn("whole q", 24), "key_weights": drawn("whole k", 12)}
    biases = {"query_biases": drawn("bias q", 6), "key_biases": drawn("bias k", 6)}
    behind, ahead, none = {"order": "rotation first"}, {"order": "norm first"}, {"norm": None}

    def norm(
        name: str,
        comment: str,
        parameters: dict[str, Any],
        mistakes: dict[str, Any],
        further: dict[str, Any] | None = None,
        sibling: str | None = "none",
    ) -> Recipe:
        given = {"norm": "rms", "order": "norm first", "eps": 1e-6, "base": 10000.0} | parameters
        words = (f"variants/norms/{name}", "variants/dense/query_key_norm", "attention with normed queries and keys")
        return told(
            *words,
            comment,
            {**drawn_heads(), **(weights if further is None else further)},
            given,
            _normed,
            layer_forms(_worn_normed),
            sibling=sibling and f"variants/norms/{sibling}",
            flags=(NORMS,),
            mistakes=mistakes,
        )

    return (
        norm("none", "Rotation alone: the plain case.", none, {}, {}, None),
        norm(
            "before-rotation",
            "Qwen3: the norm of each head with its weights, then rotation.",
            {},
            {"behind the rotation": behind, "left out": none},
        ),
        norm(
            "behind-rotation",
            "Rotation, then the norm with its weights.",
            behind,
            {"before the rotation": ahead, "left out": none},
            None,
            "before-rotation",
        ),
        norm(
            "without-weights",
            "Llama 4 behind its rotation, without weights: the order cannot be told.",
            behind,
            {"left out": none},
            {},
        ),
        norm(
            "weights-less-one",
            "Gemma 3 stores w - 1.",
            {"added": 1},
            {"weights as they are": {"added": 0}},
            None,
            "before-rotation",
        ),
        norm(
            "large-epsilon",
            "An ε of 1/2 shows that it stands under the root, beside the mean of squares.",
            {"eps": 0.5},
            {"left out": {"eps": 0.0}},
            None,
            "before-rotation",
        ),
        norm(
            "layer-norm",
            "The mean is taken off first; weights and biases.",
            {"norm": "layer", "eps": 1e-5},
            {"behind the rotation": behind, "root mean square": {"norm": "rms"}},
            {**weights, **biases},
            "before-rotation",
        ),
        norm(
            "whole-projection",
            "OLMo 2: one mean of squares over all heads of a token.",
            {"norm": "whole projection"},
            {"left out": none},
            whole,
            "before-rotation",
        ),
        case(
            "norms/cosine",
            "dense/cosine",
            "cosine attention",
            "Rows of unit length; each head's temperature is at most 100, which the last head's exp(6) exceeds.",
            cosine,
            {"most": 100.0, "scale": 1.0},
            _cosine,
            _worn_cosine,
            sibling="norms/none",
            flags=(NORMS,),
            mistakes={"no bound": {"most": 1000.0}, "scaled by the width too": {"scale": 0.40824829}},
        ),
    )
