"""Latent attention, expanded and absorbed; a choice of keys by a lightning indexer; sinks, re-numbered; Longformer.

    c_s = RMSNorm(x_s W_dkv),   k_h,s = [c_s W_uk,h ; R_s(x_s W_kr)],   v_h,s = c_s W_uv,h
    I_ts = Σ_j w_tj relu(q_tj · k_s),    the k largest are attended to; of equal ones the first

- "latent attention": inputs ``x [B, T, M]``, ``kv_down``, ``kv_norm``, ``key_rope``, ``key_up``, ``value_up``,
  ``query``, ``output``, and where queries have a latent of their own ``query_down`` and ``query_norm``; ``heads`` of
  ``nope_width`` + rope features and ``value_width``; ``base``, ``layout`` half unless given, ``rotates`` unless
  false; ``eps``; the scale 1/sqrt(nope + rope) times (0.1 · ``mscale`` · ln ``factor`` + 1)² where these are given.
  With ``keep``: ``index_query``, ``index_key`` (its LayerNorm ``index_norm``, ``index_bias``) and ``index_weight`` of
  ``index_heads``, whose first ``index_turned`` features turn in halves.  Expected: ``hidden`` and ``lse``.
- "attention to sinks and a window": ``q``, ``k``, ``v``; the first ``sinks`` and the last ``window`` keys, turned in
  halves with ``base`` at their positions, or ``renumbered`` among those that are visible.  Expected: ``out``, ``lse``.
- "attention with global tokens": the same arrays again as ``global_q``, ``global_k``, ``global_v``; ``tokens`` see all
  and are seen by all, others see ``reach`` to each side; ``causal`` or not.

Sources: DeepSeek-V2 (arXiv 2405.04434) §2.1.2 eq. 9-19; DeepSeek-V3.2 (2512.02556) §2.1 eq. 1-2; Xiao et al. 2023
(2309.17453) §3.2; Beltagy et al. 2020 (2004.05150) §3.1.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import See, attention, dot, product
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._forms import Worn, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, Row, geometric, turn
from kvattn.goldens.recipes._scalings import mscale
from kvattn.goldens.recipes._told import told
from kvattn.masks.causal import Causal
from kvattn.masks.window import Window
from kvattn.positions.rotary import Rotary
from kvattn.positions.yarn import yarn_scale_factor
from kvattn.variants.compressed.latent import Absorbed, Expanded
from kvattn.variants.compressed.latent_projections import LatentProjections
from kvattn.variants.sparse.indexed import Indexed
from kvattn.variants.sparse.lightning_indexer import LightningIndexer
from kvattn.variants.sparse.longformer import Longformer
from kvattn.variants.sparse.sinks import KeptSinks, ReindexedSinks

ABSORBED = Flag(
    "AbsorbedLatent",
    "KNOWN_BUG",
    "Scales by the latent's width, leaves the turned part out, releases by another head's matrix, or reads rows that "
    "differ from the materialised ones.",
    (
        "ROCm/rocm-libraries#9442",
        "ml-explore/mlx-lm#1509",
        "vllm-project/vllm#26042",
        "sgl-project/sglang#38666",
    ),
)
SCALE = Flag(
    "LatentSoftmaxScale",
    "KNOWN_BUG",
    "Leaves the square of m(mscale_all_dim) out of the softmax scale, or takes it once.",
    ("huggingface/transformers#47435", "NVIDIA/Megatron-LM#1429"),
)
CHOICE = Flag(
    "KeyChoice",
    "EDGE_CASE",
    "Chooses other keys: without the relu, the weights or the key's norm, or of ties the last.",
)
SINKS = Flag(
    "SinkPositions",
    "CONVENTION",
    "Numbers kept keys anew where the case keeps their positions, or the reverse; or forgets one key too many.",
    ("huggingface/transformers#31537", "ml-explore/mlx-lm#1631"),
)
GLOBAL = Flag("GlobalProjections", "LAYOUT", "Reads a global key from the global matrices for a local query too.")


def _rms(n: Numbers, row: Row, weights: Row, eps: float) -> Row:
    size = n.sqrt(n.sum(x * x for x in row) / len(row) + n(eps))
    return [x / size * w for x, w in zip(row, weights, strict=True)]


def _latent(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """The paper's equations; the choice of an indexer where ``keep`` says so."""
    heads, turned, plain, width = p["heads"], len(a["key_rope"][0]), p["nope_width"], p["value_width"]
    thetas = geometric(n, turned, p["base"]) if p.get("rotates", True) else []
    layout = p.get("layout", "half")
    hidden: Nested = []
    ends: Nested = []
    for x in a["x"]:
        down = product(n, x, a["kv_down"])
        latents = down if p.get("not_normed") else [_rms(n, row, a["kv_norm"], p["eps"]) for row in down]
        shared = [
            turn(n, row, [t * theta for theta in thetas], layout=layout)
            for t, row in enumerate(product(n, x, a["key_rope"]))
        ]
        if "query_down" in a:
            low = [_rms(n, row, a["query_norm"], p["eps"]) for row in product(n, x, a["query_down"])]
        else:
            low = x
        flat_q, flat_k, flat_v = (
            product(n, low, a["query"]),
            product(n, latents, a["key_up"]),
            product(n, latents, a["value_up"]),
        )
        q: Nested = []
        k: Nested = []
        v: Nested = []
        for h in range(heads):
            first, value = h * plain, (h + 1) % heads * width if p.get("another_head") else h * width
            q.append([])
            for t, row in enumerate(flat_q):
                start = h * (plain + turned)
                spun = turn(n, row[start + plain : start + plain + turned], [t * x for x in thetas], layout=layout)
                q[h].append(row[start : start + plain] + ([] if p.get("rope_left_out") else spun))
            k.append(
                [
                    row[first : first + plain] + ([] if p.get("rope_left_out") else shared[s])
                    for s, row in enumerate(flat_k)
                ]
            )
            v.append([row[value : value + width] for row in flat_v])
        scale = 1 / n.sqrt(n(p.get("scale_width", plain + turned)))
        if "mscale" in p:
            each = mscale(n, p["factor"], p["mscale"])
            scale = scale * each * (1 if p.get("once") else each)
        kept = _chosen(n, a, p, x, low) if "keep" in p else [set(range(t + 1)) for t in range(len(x))]
        answer = attention(n, [q], [k], [v], see=_only(kept), scale=scale)
        flat = [[y for h in range(heads) for y in answer["out"][0][h][t]] for t in range(len(x))]
        hidden.append(product(n, flat, a["output"]))
        ends.append(answer["lse"][0])
    return {"hidden": hidden, "lse": ends}


def _only(kept: list[set[int]]) -> See:
    """For each query its keys."""
    return lambda b, h, t, s: s in kept[t]


def _chosen(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any], x: Nested, low: Nested) -> list[set[int]]:
    """For each query the keys of the largest index scores; of equal ones the first."""
    width, heads = len(a["index_key"][0]), p["index_heads"]
    thetas = geometric(n, p["index_turned"], p["base"])

    def normed(row: Row) -> Row:
        mean = n.sum(row) / width
        size = n.sqrt(n.sum((y - mean) * (y - mean) for y in row) / width + n(p["eps"]))
        scaled = zip(row, a["index_norm"], a["index_bias"], strict=True)
        return row if p.get("index_not_normed") else [(y - mean) / size * w + b for y, w, b in scaled]

    def spun(row: Row, t: int) -> Row:
        return turn(n, row, [t * theta for theta in thetas])

    keys = [spun(normed(row), s) for s, row in enumerate(product(n, x, a["index_key"]))]
    queries, weights = product(n, low, a["index_query"]), product(n, x, a["index_weight"])
    found = []
    for t, row in enumerate(queries):
        scores = []
        for key in keys[: t + 1]:
            parts = [dot(n, spun(row[j * width : (j + 1) * width], t), key) for j in range(heads)]
            lifted = [y if y > 0 or p.get("no_relu") else n(0) for y in parts]
            scores.append(dot(n, weights[t], lifted))
        kept: set[int] = set()
        while len(kept) < min(p["keep"], t + 1):
            best = next(s for s in range(t + 1) if s not in kept)
            for s in range(best + 1, t + 1):
                if s not in kept and (
                    scores[s] > scores[best] or (p.get("last_of_equal") and not scores[best] > scores[s])
                ):
                    best = s
            kept.add(best)
        found.append(kept)
    return found


def _sinks(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """The first keys and a window, at their own positions or at those inside the cache."""
    width, group = len(a["q"][0][0][0]), len(a["q"][0]) // len(a["k"][0])
    thetas, sinks, window = geometric(n, width, p["base"]), p["sinks"], p["window"]

    def see(_b: int, _h: int, t: int, s: int) -> bool:
        return bool(s <= t and (s < sinks or t - s < window))

    def bend(_: Number, b: int, h: int, t: int, s: int) -> Number:
        i, j = t, s
        if p["renumbered"]:
            inside = [x for x in range(t + 1) if see(b, h, t, x)]
            i, j = len(inside) - 1, inside.index(s)
        q = turn(n, a["q"][b][h][t], [i * theta for theta in thetas])
        k = turn(n, a["k"][b][h // group][s], [j * theta for theta in thetas])
        return dot(n, q, k) / n.sqrt(n(width))

    return attention(n, a["q"], a["k"], a["v"], see=see, bend=bend)


def _longformer(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Who asks decides which matrices: local ones for a local query, global ones for a global query."""
    tokens, reach = p["tokens"], p["reach"]

    def sees(_b: int, _h: int, t: int, s: int) -> bool:
        return not (p["causal"] and s > t) and (abs(t - s) <= reach or t in tokens or s in tokens)

    local = attention(n, a["q"], a["k"], a["v"], see=sees)
    wide = attention(n, a["global_q"], a["global_k"], a["global_v"], see=sees)
    for name in ("out", "lse"):
        for b, heads in enumerate(local[name]):
            for h, rows in enumerate(heads):
                for t in range(len(rows)):
                    if t in tokens and not p.get("one_set"):
                        rows[t] = wide[name][b][h][t]
    return local


def _projections(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> LatentProjections:
    names = ("kv_down", "kv_norm", "key_rope", "key_up", "value_up", "query", "output", "query_down", "query_norm")
    named: Any = {name: inputs[name] for name in names if name in inputs}
    return LatentProjections(**named, heads=p["heads"], eps=p["eps"])


def _latent_forms() -> dict[str, Ours]:
    def made(kind: str, inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Any:
        w, turned = _projections(inputs, p), inputs["key_rope"].shape[1]
        rotation = Rotary.of(turned, p["base"], p.get("layout", "half")) if p.get("rotates", True) else None
        if kind == "indexed":
            named: Any = {name: inputs[f"index_{name}"] for name in ("query", "key", "weight")}
            norms: Any = {"norm_weight": inputs["index_norm"], "norm_bias": inputs["index_bias"]}
            spun = Rotary.of(p["index_turned"], p["base"])
            indexer = LightningIndexer(**named, **norms, heads=p["index_heads"], rotation=spun, eps=p["eps"])
            return Indexed(w, indexer, p["keep"], rotation=rotation)
        scale = None
        if "mscale" in p:
            scale = yarn_scale_factor(p["factor"], mscale_all_dim=p["mscale"]) / (p["nope_width"] + turned) ** 0.5
        return (Expanded if kind == "expanded" else Absorbed)(w, rotation=rotation, scale=scale)

    def whole(kind: str) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            attended = made(kind, inputs, p).definition(inputs["x"], np.arange(inputs["x"].shape[1]))
            return {"hidden": attended.out, "lse": attended.lse}

        return ours

    def stepped(kind: str, cuts: list[int]) -> Ours:
        def ours(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
            layer = made(kind, inputs, p)
            cache, found = layer.start(len(inputs["x"])), []
            for part in np.split(inputs["x"], cuts, axis=1):
                attended, cache = layer.step(cache, part)
                found.append(attended)
            out, lse = ([getattr(part, name) for part in found] for name in ("out", "lse"))
            return {"hidden": np.concatenate(out, axis=1), "lse": np.concatenate(lse, axis=2)}

        return ours

    forms: dict[str, Ours] = {}
    for kind in ("absorbed", "expanded", "indexed"):
        forms |= {f"{kind}: definition": whole(kind), f"{kind}: in pieces": stepped(kind, [3])}
        forms |= {f"{kind}: one by one": stepped(kind, [1, 2, 3, 4])}
    return forms


def _worn_sinks(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    kind: Any = ReindexedSinks if p["renumbered"] else KeptSinks
    layer = kind(projections, p["sinks"], p["window"], Rotary.of(inputs["q"].shape[3], p["base"]), page=2)
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_longformer(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, others = picked(inputs, "global_q", "global_k", "global_v")
    named: Any = dict(zip(("global_query", "global_key", "global_value"), others.values(), strict=True))
    reach = p["reach"]
    named |= {"window": Window(reach + 1, ahead=0 if p["causal"] else reach)}
    if p["causal"]:
        named |= {"order": Causal()}
    layer = Longformer(projections, tokens=p["tokens"], **named)
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _latents() -> tuple[Recipe, ...]:
    shapes = {
        "x": (1, 5, 7),
        "kv_down": (7, 5),
        "kv_norm": (5,),
        "key_rope": (7, 2),
        "key_up": (5, 12),
        "value_up": (5, 9),
        "query": (7, 18),
        "output": (9, 7),
    }
    plain = {name: drawn(f"latent {name}", *shape, limit=1.0) for name, shape in shapes.items()}
    two_pairs = {**plain, "key_rope": drawn("latent rope 4", 7, 4, limit=1.0)}
    two_pairs |= {"query": drawn("latent q 4", 7, 24, limit=1.0)}
    low = {**plain, "query": drawn("latent low query", 4, 18, limit=1.0)}
    low |= {"query_down": drawn("latent query down", 7, 4, limit=1.0), "query_norm": drawn("latent query norm", 4)}
    given = {"heads": 3, "nope_width": 4, "value_width": 3, "base": 100.0, "eps": 1e-6}
    index = {
        **low,
        "index_query": drawn("index query", 4, 8, limit=1.0),
        "index_key": drawn("index key", 7, 4, limit=1.0),
        "index_weight": drawn("index weight", 7, 2, limit=1.0),
        "index_norm": drawn("index norm", 4),
        "index_bias": drawn("index bias", 4),
    }
    silent = {**index, "index_weight": np.zeros((7, 2))}
    every = _latent_forms()
    dense = {name: form for name, form in every.items() if not name.startswith("indexed")}
    sparse = {name: form for name, form in every.items() if name.startswith("indexed")}
    wrong = {
        "scaled by the latent's width": {"scale_width": 7},
        "the turned part left out": {"rope_left_out": True},
        "values of another head": {"another_head": True},
        "latents not normed": {"not_normed": True},
    }

    def case(name: str, comment: str, changed: dict[str, Any], inputs: dict[str, Any], **others: Any) -> Recipe:
        words = (
            f"variants/latent/{name}",
            others.pop("row", "variants/compressed/latent"),
            "latent attention",
            comment,
        )
        return told(*words, inputs, {**given, **changed}, _latent, others.pop("forms", dense), **others)

    return (
        case(
            "plain",
            "Queries straight from the hidden states; halves turn.",
            {},
            plain,
            flags=(ABSORBED,),
            mistakes=wrong,
        ),
        case(
            "adjacent",
            "DeepSeek turns adjacent pairs; one pair cannot tell, so that keys agree and checkpoints may differ.",
            {"layout": "adjacent", "base": 10.0},
            {
                **plain,
                "key_rope": drawn("latent rope 4", 7, 4, limit=1.0),
                "query": drawn("latent q 4", 7, 24, limit=1.0),
            },
            sibling="variants/latent/plain",
            flags=(ABSORBED,),
            mistakes={"halves": {"layout": "half"}},
        ),
        case(
            "low-rank-queries",
            "Queries by way of a normed latent of their own.",
            {},
            low,
            sibling="variants/latent/plain",
            flags=(ABSORBED,),
            mistakes=wrong,
        ),
        case(
            "not-turned",
            "Kimi-Linear turns nothing.",
            {"rotates": False},
            plain,
            sibling="variants/latent/plain",
            flags=(ABSORBED,),
            mistakes={"turned": {"rotates": True}},
        ),
        case(
            "softmax-scale",
            "Factor 40: the softmax scale times (0.1 ln 40 + 1)².",
            {"factor": 40.0, "mscale": 1.0},
            low,
            sibling="variants/latent/low-rank-queries",
            flags=(SCALE,),
            mistakes={"once": {"once": True}, "left out": {"mscale": 0.0}, "another number": {"mscale": 0.707}},
        ),
        case(
            "indexed",
            "Each query attends to the two keys of the largest index scores.",
            {"keep": 2, "index_heads": 2, "index_turned": 2},
            index,
            row="variants/sparse/indexed",
            forms=sparse,
            sibling="variants/latent/low-rank-queries",
            flags=(CHOICE,),
            mistakes={"all keys": {"keep": 5}, "no relu": {"no_relu": True}, "not normed": {"index_not_normed": True}},
        ),
        case(
            "indexed-ties",
            "All index scores are 0: of equal ones the first two positions stay.",
            {"keep": 2, "index_heads": 2, "index_turned": 2},
            silent,
            row="variants/sparse/indexed",
            forms=sparse,
            sibling="variants/latent/indexed",
            flags=(CHOICE,),
            mistakes={"the last of equal ones": {"last_of_equal": True}, "one more": {"keep": 3}},
        ),
    )


def _sparse() -> tuple[Recipe, ...]:
    inputs = {"q": drawn("sinks q", 1, 4, 9, 6), "k": drawn("sinks k", 1, 2, 9, 6), "v": drawn("sinks v", 1, 2, 9, 3)}
    given = {"sinks": 2, "window": 3, "renumbered": False, "base": 100.0}
    words = "attention to sinks and a window"
    parts = {"q": (4, 7, 5), "k": (2, 7, 5), "v": (2, 7, 3)}
    both = {
        name + key: drawn(f"longformer {name}{key}", 1, *shape)
        for name in ("", "global_")
        for key, shape in parts.items()
    }
    wide = {"tokens": [0, 4], "reach": 1, "causal": False}
    return (
        told(
            "variants/sparse/sinks-kept",
            "variants/sparse/sinks",
            words,
            "The first two keys and the last three, at the positions where they were written.",
            inputs,
            given,
            _sinks,
            layer_forms(_worn_sinks),
            flags=(SINKS,),
            mistakes={
                "numbered anew": {"renumbered": True},
                "sinks forgotten": {"sinks": 0},
                "one more": {"window": 4},
            },
        ),
        told(
            "variants/sparse/sinks-renumbered",
            "variants/sparse/sinks",
            words,
            "StreamingLLM: positions are those inside the cache, from 0 to 4.",
            inputs,
            {**given, "renumbered": True},
            _sinks,
            layer_forms(_worn_sinks),
            sibling="variants/sparse/sinks-kept",
            flags=(SINKS,),
            mistakes={"kept where they were": given, "sinks forgotten": {"sinks": 0}},
        ),
        told(
            "variants/sparse/longformer-encoder",
            "variants/sparse/longformer",
            "attention with global tokens",
            "Tokens 0 and 4 see all with matrices of their own; others see a neighbour to each side and those two.",
            both,
            wide,
            _longformer,
            layer_forms(_worn_longformer, whole=True),
            flags=(GLOBAL,),
            mistakes={"one set of matrices": {"one_set": True}, "one global token": {"tokens": [0]}},
        ),
        told(
            "variants/sparse/longformer-decoder",
            "variants/sparse/longformer",
            "attention with global tokens",
            "The same, and causal.",
            both,
            {**wide, "causal": True},
            _longformer,
            layer_forms(_worn_longformer),
            sibling="variants/sparse/longformer-encoder",
            flags=(GLOBAL,),
            mistakes={"one set of matrices": {"one_set": True}, "an encoder's": wide},
        ),
    )


def recipes() -> tuple[Recipe, ...]:
    """The cases of latent and of sparse attention.

    >>> len({recipe.name for recipe in recipes()})
    11
    """
    return _latents() + _sparse()
