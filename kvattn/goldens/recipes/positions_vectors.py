"""Vectors for distances that queries and keys meet: Shaw, Transformer-XL, DeBERTa, relative projection.

    Shaw              s_ij = scale · q_i · (k_j + a[j - i]),          out_i = Σ_j w_ij (v_j + b[j - i])
    Transformer-XL    s_ij = scale · ((q_i + u) · k_j + (q_i + v) · R_(i-j))
    DeBERTa           s_ij = scale · (q_i · k_j + q_i · KR_δ + k_j · QR_δ),    scale = 1/sqrt(3 D)
    projection        s_ij = scale · q_i · k_j + r_i · curves[i - j]

Inputs ``q``, ``k``, ``v``, ``causal`` or not, and for

- "attention with distance vectors": ``key_table [behind + ahead + 1, D]``, whose row ``behind`` is for the own token,
  and with ``values`` a ``value_table [.., Dv]`` alike; ``ahead`` rows are for later keys.
- "attention with distance keys": ``projection [M, H·D]`` of sines, then cosines, ``content`` u and ``position`` v
  ``[H, D]``; distances from ``-ahead`` to ``farthest``, beyond which the last serves.
- "disentangled attention": ``q_positions``, ``k_positions``, ``key_table`` and ``query_table [H, 2·span, D]``, whose
  row ``span`` is for distance 0; ``buckets``, their number and the farthest distance, for version 2.
- "attention with projected distances": ``notes`` r ``[B, Hq, T, R]`` and ``curves [R, extent]``.

Expected: ``out`` and ``lse``.  Sources: Shaw et al. 2018 (arXiv 1803.02155) §3.1; Dai et al. 2019 (1901.02860) §3.3; He
et al. 2020 (2006.03654) §3.1; Inkling's released code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, dot, reciprocal_root
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._forms import Asked, Worn, attention_forms, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, before, every_row, geometric
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.positions.disentangled import Disentangled, LogBuckets
from kvattn.positions.distance_table import DistanceTable
from kvattn.positions.relative_projection import RelativeProjection
from kvattn.positions.shaw import ShawKeys
from kvattn.positions.transformer_xl import TransformerXL
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.relative_projection import RelativeProjected
from kvattn.variants.dense.relative_values import RelativeValues
from kvattn.variants.dense.weighed import Weighed

VECTORS = Flag(
    "DistanceVectors",
    "POSITION",
    "Takes a vector for another distance: the sign, the clipping or the row of distance 0 is another.",
)
PRODUCTS = Flag("CrossProducts", "BASIC", "Leaves a product with distances out, or scales it otherwise than the first.")


def _clipped(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def _shaw(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Shaw's keys, and values where there is a table for them."""
    behind, ahead = p["behind"], p["ahead"]
    scale = reciprocal_root(n, len(a["q"][0][0][0]))

    def row(t: int, s: int) -> int:
        apart = t - s if p.get("sign_swapped") else s - t
        return _clipped(apart, -behind, ahead) + int(behind)

    def bend(score: Number, b: int, h: int, t: int, s: int) -> Number:
        return score + dot(n, a["q"][b][h][t], a["key_table"][row(t, s)]) * (1 if p.get("unscaled") else scale)

    see = before if p["causal"] else lambda b, h, t, s: True
    answer = attention(n, a["q"], a["k"], a["v"], see=see, bend=bend)
    if not p.get("values"):
        return answer
    wide = attention(n, a["q"], a["k"], _ones(n, a["v"]), see=see, bend=bend)  # weights, one column for each key
    width = len(a["v"][0][0][0])

    def mixed(b: int, h: int, t: int, out: Nested) -> Nested:
        weights = wide["out"][b][h][t]
        return [
            n.sum(
                [out[d], *(weights[s] * a["value_table"][row(t, s)][d] for s in range(len(weights)) if see(b, h, t, s))]
            )
            for d in range(width)
        ]

    return {"out": every_row(answer["out"], mixed), "lse": answer["lse"]}


def _ones(n: Numbers, v: Nested) -> Nested:
    """Value rows of the identity: their mix is the row of weights."""
    return [[[[n(int(s == j)) for j in range(len(head))] for s in range(len(head))] for head in heads] for heads in v]


def _xl(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """The paper's R: sines, then cosines, of the distance, through W_R."""
    waves, width = geometric(n, len(a["projection"])), len(a["content"][0])
    columns = list(zip(*a["projection"], strict=True))
    scale = reciprocal_root(n, width)
    known: dict[tuple[int, int], Nested] = {}

    def key_of(h: int, apart: int) -> Nested:
        apart = _clipped(apart, -p["ahead"], p["farthest"])
        if (h, apart) not in known:
            sines, cosines = [n.sin(apart * w) for w in waves], [n.cos(apart * w) for w in waves]
            alternating = [x for pair in zip(sines, cosines, strict=True) for x in pair]
            wave = alternating if p.get("alternating") else sines + cosines
            known[h, apart] = [dot(n, wave, columns[h * width + d]) for d in range(width)]
        return known[h, apart]

    def plus(rows: Nested, bias: Nested) -> Nested:
        return every_row(rows, lambda b, h, t, row: [x + y for x, y in zip(row, bias[h], strict=True)])

    u, v = (a["position"], a["content"]) if p.get("biases_swapped") else (a["content"], a["position"])
    second = plus(a["q"], v)

    def bend(score: Number, b: int, h: int, t: int, s: int) -> Number:
        return score + dot(n, second[b][h][t], key_of(h, s - t if p.get("sign_swapped") else t - s)) * scale

    see = before if p["causal"] else lambda b, h, t, s: True
    return attention(n, plus(a["q"], u), a["k"], a["v"], see=see, bend=bend)


def _log_bucket(count: int, farthest: int, apart: int) -> int:
    """sign(n) · (E + ceil((E - 1) · ln(|n| / E) / ln((F - 1) / E))) beyond E, by whole numbers."""
    middle, size = count // 2, abs(apart)
    if size <= middle:
        return apart
    m = 0  # least with (F - 1)^m · E^(E - 1) >= |n|^(E - 1) · E^m
    while (farthest - 1) ** m * middle ** (middle - 1) < size ** (middle - 1) * middle**m:
        m += 1
    return (middle + m) * (1 if apart > 0 else -1)


def _deberta(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    span, terms = p["span"], 1 + sum(name in a for name in ("key_table", "query_table"))
    scale = reciprocal_root(n, p.get("terms", terms) * len(a["q"][0][0][0]))

    def row(i: int, j: int) -> int:
        buckets = p.get("buckets")
        apart = _log_bucket(buckets[0], buckets[1], i - j) if buckets else i - j
        return _clipped(apart, -span, span - 1) + int(span)

    def bend(score: Number, b: int, h: int, t: int, s: int) -> Number:
        i, j = a["q_positions"][b][t], a["k_positions"][b][s]
        parts = [score]
        if "key_table" in a:
            parts.append(dot(n, a["q"][b][h][t], a["key_table"][h][row(i, j)]) * scale)
        if "query_table" in a:
            there = row(j, i) if p.get("paper_sign") else row(i, j)
            parts.append(dot(n, a["k"][b][h][s], a["query_table"][h][there]) * scale)
        return n.sum(parts)

    return attention(n, a["q"], a["k"], a["v"], bend=bend, scale=scale)


def _projection(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    extent = len(a["curves"][0])

    def bend(score: Number, b: int, h: int, t: int, s: int) -> Number:
        apart = t - s
        if not 0 <= apart < extent and not p.get("last_serves"):
            return score
        column = [curve[min(apart, extent - 1)] for curve in a["curves"]]
        return score + dot(n, a["notes"][b][h][t], column)

    return attention(n, a["q"], a["k"], a["v"], see=before, bend=bend)


def _mask(p: Mapping[str, Any]) -> Causal | None:
    return Causal() if p["causal"] else None


def _asked_shaw(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    mods = (ShawKeys.of(inputs["key_table"], p["behind"]),)
    return Asked(inputs["q"], inputs["k"], inputs["v"], None, None, {"mask": _mask(p), "mods": mods})


def _worn_shaw(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    mods = (ShawKeys.of(inputs["key_table"], p["behind"]),)
    beside = (RelativeValues(inputs["value_table"]),)
    layer = Weighed(projections, mods=mods, beside=beside, mask=_mask(p))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _xl_of(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> TransformerXL:
    named: Any = {name: inputs[name] for name in ("projection", "content", "position")}
    return TransformerXL.of(**named, farthest=p["farthest"], ahead=p["ahead"])


def _asked_xl(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    scheme = _xl_of(inputs, p)
    q = scheme.queries(inputs["q"], np.zeros((1, 1, inputs["q"].shape[2]), np.int64))
    return Asked(q, inputs["k"], inputs["v"], None, None, {"mask": _mask(p), "mods": (scheme,)})


def _worn_xl(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    scheme = _xl_of(inputs, p)
    layer = Grouped(projections, query_key=(scheme,), mods=(scheme,), mask=_mask(p))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _asked_deberta(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Asked:
    bucket = LogBuckets(*p["buckets"]) if p.get("buckets") else None
    named = {"keys": "key_table", "queries": "query_table"}
    tables: Any = {
        name: DistanceTable(inputs[array], p["span"], bucket) for name, array in named.items() if array in inputs
    }
    mod = Disentangled(**tables)
    how = {"mods": (mod,), "scale": mod.factor(inputs["q"].shape[3])}
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    return Asked(q, k, v, inputs["q_positions"], inputs["k_positions"], how)


def _worn_projection(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    projections, x, others = picked(inputs, "notes")
    layer = RelativeProjected(projections, others["notes"], RelativeProjection(inputs["curves"]))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _heads(tokens: int, heads: int = 4, kv_heads: int = 2, queries: int | None = None) -> dict[str, Any]:
    label, length = f"vectors {tokens} {heads} {kv_heads} {queries} ", queries or tokens
    return {
        "q": drawn(label + "q", 1, heads, length, 5),
        "k": drawn(label + "k", 1, kv_heads, tokens, 5),
        "v": drawn(label + "v", 1, kv_heads, tokens, 3),
    }


def _layers(worn: Any, whole: bool) -> dict[str, Ours]:
    return {f"layer: {name}": form for name, form in layer_forms(worn, whole=whole).items()}


def _shaws() -> tuple[Recipe, ...]:
    def case(name: str, comment: str, parameters: dict[str, Any], inputs: dict[str, Any], **others: Any) -> Recipe:
        given = {"causal": True} | parameters
        forms = (
            layer_forms(_worn_shaw, whole=not given["causal"])
            if "value_table" in inputs
            else attention_forms(_asked_shaw)
        )
        name, operation = f"positions/vectors/{name}", "attention with distance vectors"
        mistakes = {"sign swapped": {"sign_swapped": True}, "distances not scaled": {"unscaled": True}}
        row = "variants/dense/relative_values" if "value_table" in inputs else "positions/shaw"
        return told(
            name, row, operation, comment, inputs, given, _shaw, forms, flags=(VECTORS,), mistakes=mistakes, **others
        )

    keys = {**_heads(7), "key_table": drawn("shaw keys", 4, 5)}
    both = {**_heads(7), "key_table": drawn("shaw both", 7, 5), "value_table": drawn("shaw values", 7, 3)}
    return (
        case(
            "shaw",
            "Three tokens back have vectors of their own, all further ones share the last.",
            {"behind": 3, "ahead": 0},
            keys,
        ),
        case(
            "shaw-encoder",
            "Two tokens back and one ahead; all keys are visible.",
            {"behind": 2, "ahead": 1, "causal": False},
            keys,
            sibling="positions/vectors/shaw",
        ),
        case(
            "shaw-values",
            "Values get a vector of their distance too, up to three tokens either way.",
            {"behind": 3, "ahead": 3, "values": True},
            both,
            sibling="positions/vectors/shaw",
        ),
    )


def _crossed() -> tuple[Recipe, ...]:
    xl = {
        **_heads(7),
        "projection": drawn("xl projection", 6, 20),
        "content": drawn("xl content", 4, 5),
        "position": drawn("xl position", 4, 5),
    }
    xl_mistakes: Any = {
        "u and v swapped": {"biases_swapped": True},
        "sines and cosines by turns": {"alternating": True},
        "sign swapped": {"sign_swapped": True},
    }
    spread = {"q_positions": np.array([[0, 9, 21]]), "k_positions": np.array([[0, 3, 7, 9, 12, 19, 30]])}
    deberta = {**_heads(7, 4, 4, 3), **spread, "key_table": drawn("deberta keys", 4, 8, 5)}
    both = {**deberta, "query_table": drawn("deberta queries", 4, 8, 5)}
    near = {**both, "q_positions": np.array([[2, 3, 4]]), "k_positions": np.array([range(7)])}
    wide = {**both, "key_table": drawn("buckets keys", 4, 16, 5), "query_table": drawn("buckets queries", 4, 16, 5)}
    words = "disentangled attention"
    dropped = {"scale of one product": {"terms": 1}, "the paper's sign": {"paper_sign": True}}
    inkling = {**_heads(7), "notes": drawn("inkling notes", 1, 4, 7, 2), "curves": drawn("inkling curves", 2, 4)}
    return (
        told(
            "positions/vectors/transformer-xl",
            "positions/transformer_xl",
            "attention with distance keys",
            "u meets keys, v meets distances; both products have the same scale.",
            xl,
            {"causal": True, "farthest": 6, "ahead": 0},
            _xl,
            {**attention_forms(_asked_xl), **_layers(_worn_xl, whole=False)},
            sibling="positions/vectors/shaw",
            flags=(PRODUCTS,),
            mistakes=xl_mistakes,
        ),
        told(
            "positions/vectors/transformer-xl-clamped",
            "positions/transformer_xl",
            "attention with distance keys",
            "Beyond distance 3 the last one serves.",
            xl,
            {"causal": True, "farthest": 3, "ahead": 0},
            _xl,
            {**attention_forms(_asked_xl), **_layers(_worn_xl, whole=False)},
            sibling="positions/vectors/transformer-xl",
            flags=(PRODUCTS,),
            mistakes={**xl_mistakes, "not clamped": {"farthest": 6}},
        ),
        told(
            "positions/vectors/xlnet",
            "positions/transformer_xl",
            "attention with distance keys",
            "Both sides, up to two tokens ahead.",
            xl,
            {"causal": False, "farthest": 6, "ahead": 2},
            _xl,
            {**attention_forms(_asked_xl), **_layers(_worn_xl, whole=True)},
            sibling="positions/vectors/transformer-xl",
            flags=(PRODUCTS,),
            mistakes={**xl_mistakes, "not clamped ahead": {"ahead": 6}},
        ),
        told(
            "positions/vectors/deberta",
            "positions/disentangled",
            words,
            "Both cross products, scale 1/sqrt(3 D); both look distances up with the query's position first.",
            near,
            {"span": 4},
            _deberta,
            attention_forms(_asked_deberta),
            flags=(PRODUCTS, VECTORS),
            mistakes=dropped,
        ),
        told(
            "positions/vectors/deberta-far",
            "positions/disentangled",
            words,
            "Distances beyond the span share its last vectors.",
            both,
            {"span": 4},
            _deberta,
            attention_forms(_asked_deberta),
            sibling="positions/vectors/deberta",
            flags=(PRODUCTS, VECTORS),
            mistakes=dropped,
        ),
        told(
            "positions/vectors/deberta-one-product",
            "positions/disentangled",
            words,
            "Content to position alone: the scale is 1/sqrt(2 D).",
            deberta,
            {"span": 4},
            _deberta,
            attention_forms(_asked_deberta),
            sibling="positions/vectors/deberta-far",
            flags=(PRODUCTS,),
            mistakes={"scale of three products": {"terms": 3}},
        ),
        told(
            "positions/vectors/deberta-buckets",
            "positions/disentangled",
            words,
            "Version 2: distances up to 4 have vectors of their own, further ones share log buckets.",
            wide,
            {"span": 8, "buckets": [8, 32]},
            _deberta,
            attention_forms(_asked_deberta),
            sibling="positions/vectors/deberta-far",
            flags=(VECTORS,),
            mistakes={"no buckets": {"buckets": None}},
        ),
        told(
            "positions/vectors/projection",
            "variants/dense/relative_projection",
            "attention with projected distances",
            "Each query mixes two curves over the last four distances; further keys get nothing.",
            inkling,
            {},
            _projection,
            layer_forms(_worn_projection),
            flags=(VECTORS,),
            mistakes={"the last distance serves all further ones": {"last_serves": True}},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of vectors for distances.

    >>> len({recipe.name for recipe in recipes()})
    11
    """
    return _shaws() + _crossed()
