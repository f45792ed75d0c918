"""Dense attention with something more: norms of queries and keys, gates, differences of maps, fading, other places.

Inputs ``q``, ``k``, ``v``, causal but for cross attention; expected ``out`` and ``lse``.

- "attention with normed queries and keys": ``norm`` null, rms, layer or whole projection, in an ``order``: norm first
  or rotation first (halves, ``base``); ``eps``; ``query_weights`` and ``key_weights``, with ``added`` to them, biases
  ``query_biases`` and ``key_biases``.
- "cosine attention": rows of unit length, temperature exp(min(``logit_scale [H]``, ln ``most``)), ``scale``.
- "attention with an output gate": ``gates [B, T, Hq·Dv or Hq]`` before ``gate``, sigmoid or softplus; or ``fused``,
  each of ``heads`` with its query and its gate side by side.  "attention with a normed mix": ``weights``, ``eps``.
- "differential attention": ``pairs`` side by side or halves; λ = exp(a₁·b₁) - exp(a₂·b₂) + ``initial`` of ``vectors``;
  RMSNorm of a pair's mix with ``weights``, ``eps``, times 1 - initial.
- "attention that forgets": ``gates [B, T, H]``, ``gate_bias [H]``.  "attention along a path of reflections":
  ``directions [B, Hkv, T, D]``, not of unit length, and ``strengths``, before 2σ.
- "attention with extended places": ``way`` plain, self extend (``group``, ``window``) or dual chunk (``chunk``,
  ``farthest``); rotation of halves with ``base``.
- "attention with memory rows": ``memory_k``, ``memory_v [Hkv, m, ..]``.  "cross attention": ``lengths [B]`` of k and v.
- "merged attention": ``encoder_k``, ``encoder_v [B, Hkv, S, ..]`` of ``lengths``; own queries and keys turn in halves
  with ``base``.
- "attention with tied keys and values": ``row [B, Hkv, T, D]`` in both places; ``kind`` row (turned, mix turned back)
  or projection (normed: ``query_weights``, ``key_weights``, ``eps``); ``base``.
- "layers with a value residual": ``x``, and for each of ``layers`` ``query_n``, ``key_n``, ``value_n``, ``output_n`` of
  ``heads`` and ``kv_heads``; x grows by each layer's output; ``mix``, own and first value, from the second layer on.
  Expected: ``hidden``, and the last layer's ``lse``.

Sources: Henry et al. 2020 (arXiv 2010.04245); Dehghani et al. 2023 (2302.05442) §2; Qiu et al. 2025 (2505.06708) §2.2;
Ye et al. 2024 (2410.05258) §2.1; Lin et al. 2025 (2503.02130) §3; Jin et al. 2024 (2401.01325) §3.2; An et al. 2024
(2402.17463) §2; Sukhbaatar et al. 2019 (1907.01470) §3; Yang et al. 2025 (2505.16381); Zhou et al. 2024 (2410.17897).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, dot, product, reciprocal_root, sigmoid, softmax
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Ours, Recipe, drawn
from kvattn.goldens.recipes._forms import Worn, layer_forms, picked
from kvattn.goldens.recipes._loops import Nested, Row, before, every_row, geometric, softplus, turn
from kvattn.goldens.recipes._told import told
from kvattn.positions.rotary import Rotary
from kvattn.variants.compressed import tied
from kvattn.variants.dense import differential, output_gate, query_key_norm
from kvattn.variants.dense.cosine import Cosine
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.dual_chunk import dual_chunk
from kvattn.variants.dense.forgetting import Forgetting
from kvattn.variants.dense.grouped import Grouped
from kvattn.variants.dense.memory_rows import MemoryRows
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.path import Path
from kvattn.variants.dense.placed import Placed
from kvattn.variants.dense.projections import Projections
from kvattn.variants.dense.self_extend import self_extend
from kvattn.variants.dense.sub_norm import SubNorm
from kvattn.variants.dense.value_residual import ValueResidual

NORMS = Flag(
    "QueryKeyNorm",
    "KNOWN_BUG",
    "Norms behind the rotation what is normed before it, or the reverse; leaves norms out; takes other weights or ε.",
    ("meta-pytorch/torchtune#2809", "vllm-project/vllm-metal#660"),
)
GATES = Flag("OutputGate", "LAYOUT", "Takes another head's gate, or reads query and gate of a head from other columns.")
PAIRS = Flag("DifferentialPairs", "LAYOUT", "Pairs other heads, or shares keys otherwise among the maps of a pair.")
FADING = Flag("Forgetting", "BASIC", "Fades by the key's own gate too, or not by the query's.")
PLACES = Flag("ExtendedPlaces", "POSITION", "Places a far key one off where near and far meet.")
MEMORY = Flag("FurtherRows", "BASIC", "Turns, masks or forgets keys that do not belong to tokens.")
TIED = Flag("TiedRows", "BASIC", "Takes the value before the norm, or leaves the key's turn in it.")
WALK = Flag("Reflections", "BASIC", "Reflects in another order, or at the key's own token.")
RESIDUAL = Flag("ValueResidual", "CACHE_STATE", "Mixes values with those of the layer before instead of the first.")
CROSS = Flag(
    "CrossRows",
    "CACHE_STATE",
    "Hides later keys from earlier queries, or reads beyond a sequence's own memory.",
    ("jax-ml/jax#23349", "huggingface/transformers#28357"),
)


def _rms(n: Numbers, row: Row, weights: Any, eps: Any) -> Row:
    size = n.sqrt(n.sum(x * x for x in row) / len(row) + eps)
    return [x / size if weights is None else x / size * weights[d] for d, x in enumerate(row)]


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
            return _whole_norm(n, rows, a[f"{name}_weights"], eps)
        weights: Any = a.get(f"{name}_weights")
        less = p.get("added", 0)
        if kind == "layer":
            return every_row(rows, lambda b, h, t, row: _layer_norm(n, row, weights, a[f"{name}_biases"], eps))
        full = None if weights is None else [w + less for w in weights]
        return every_row(rows, lambda b, h, t, row: _rms(n, row, full, eps))

    def rotated(rows: Nested) -> Nested:
        return every_row(rows, lambda b, h, t, row: turn(n, row, [t * theta for theta in thetas]))

    q, k = (
        rotated(norm(a[name], word)) if p["order"] == "norm first" else norm(rotated(a[name]), word)
        for name, word in (("q", "query"), ("k", "key"))
    )
    return attention(n, q, k, a["v"], see=before)


def _whole_norm(n: Numbers, rows: Nested, weights: Row, eps: Any) -> Nested:
    """Over all heads of a token at once."""
    heads, width = len(rows[0]), len(rows[0][0][0])
    found: Nested = [[[] for _ in sequence] for sequence in rows]
    for b, sequence in enumerate(rows):
        for t in range(len(sequence[0])):
            flat = _rms(n, [x for head in sequence for x in head[t]], weights, eps)
            for h in range(heads):
                found[b][h].append(flat[h * width : (h + 1) * width])
    return found


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
            lambda b, h, t, row: _rms(n, row, a["weights"][h * width : (h + 1) * width], n(p["eps"])),
        )
        return {"out": out, "lse": answer["lse"]}
    return {"out": _whole_norm(n, answer["out"], a["weights"], n(p["eps"])), "lse": answer["lse"]}


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
                normed = _rms(n, row, a["weights"], n(p["eps"]))
                out[b][pair].append([x * (1 - start) if not p.get("not_rescaled") else x for x in normed])
    return {"out": out, "lse": lse}


def _forgotten(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Scores plus the sum of ln f from the token behind the key up to the query."""

    def bend(score: Number, b: int, h: int, t: int, s: int) -> Number:
        first, last = s + 1, t + 1
        if p.get("own_gate_of_key"):
            first -= 1
        if p.get("not_of_query"):
            last -= 1
        logs = [n.log(sigmoid(n, a["gates"][b][i][h] + a["gate_bias"][h])) for i in range(first, last)]
        return n.sum([score, *logs])

    return attention(n, a["q"], a["k"], a["v"], see=before, bend=bend)


def _extended(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Each pair turned to the places that its distance, or its chunks, give it."""
    width = len(a["q"][0][0][0])
    thetas, scale = geometric(n, width, p["base"]), reciprocal_root(n, width)
    group, zero = len(a["q"][0]) // len(a["k"][0]), n(0)

    def places(i: int, j: int) -> tuple[int, int]:
        if p["way"] == "self extend":
            each, window = p["group"], p["window"]
            if i - j < window:
                return i, j
            return i // each + window - (0 if p.get("not_moved") else window // each), j // each
        if p["way"] == "plain":
            return i, j
        size, farthest = p["chunk"], p["farthest"]
        apart = i // size - j // size
        if apart == 0:
            return i % size, j % size
        if apart == 1 and not p.get("no_chunk_before"):
            return min(size + i % size, farthest), j % size
        return farthest, j % size

    def bend(_: Number, b: int, h: int, t: int, s: int) -> Number:
        i, j = places(t, s)
        q = turn(n, a["q"][b][h][t], [i * theta for theta in thetas])
        k = turn(n, a["k"][b][h // group][s], [j * theta for theta in thetas])
        return dot(n, q, k) * scale

    return attention(n, a["q"], a["k"], a["v"], see=before, bend=bend, scale=zero + 1)


def _remembered(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Learned rows in front of the tokens', which every query sees."""
    if p.get("left_out"):
        return attention(n, a["q"], a["k"], a["v"], see=before)
    more = len(a["memory_k"][0])
    k = [[rows + head for rows, head in zip(a["memory_k"], heads, strict=True)] for heads in a["k"]]
    v = [[rows + head for rows, head in zip(a["memory_v"], heads, strict=True)] for heads in a["v"]]
    if p.get("masked_like_tokens"):
        return attention(n, a["q"], k, v, see=before)
    return attention(n, a["q"], k, v, see=lambda b, h, t, s: s <= t + more)


def _crossed(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Every query sees its sequence's own memory."""
    lengths = a["lengths"]
    if p.get("causal"):
        return attention(n, a["q"], a["k"], a["v"], see=lambda b, h, t, s: s <= t and s < lengths[b])
    return attention(n, a["q"], a["k"], a["v"], see=lambda b, h, t, s: bool(p.get("all_rows")) or s < lengths[b])


def _merged(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """Own keys, turned and causal, and behind them an encoder's, as they are and all visible."""
    thetas, own = geometric(n, len(a["q"][0][0][0]), p["base"]), len(a["k"][0][0])

    def turned(rows: Nested, first: int = 0) -> Nested:
        return every_row(rows, lambda b, h, t, row: turn(n, row, [(first + t) * theta for theta in thetas]))

    beside = turned(a["encoder_k"]) if p.get("encoder_turned") else a["encoder_k"]
    k, v = (
        [[one + two for one, two in zip(*heads, strict=True)] for heads in zip(mine, theirs, strict=True)]
        for mine, theirs in ((turned(a["k"]), beside), (a["v"], a["encoder_v"]))
    )

    def see(b: int, _h: int, t: int, s: int) -> bool:
        if s >= own:
            return not p.get("encoder_left_out") and (bool(p.get("all_rows")) or s - own < a["lengths"][b])
        return s <= t

    return attention(n, turned(a["q"]), k, v, see=see)


def _tied(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """One projection for keys and values."""
    thetas = geometric(n, len(a["q"][0][0][0]), p["base"])

    def at(sign: int, rows: Nested) -> Nested:
        return every_row(rows, lambda b, h, t, row: turn(n, row, [sign * t * theta for theta in thetas]))

    if p["kind"] == "row":
        q, rows = at(1, a["q"]), at(1, a["row"])
        answer = attention(n, q, rows, rows, see=before)
        return answer if p.get("not_turned_back") else {"out": at(-1, answer["out"]), "lse": answer["lse"]}
    eps = n(p["eps"])
    value = every_row(a["row"], lambda b, h, t, row: _rms(n, row, None, eps))
    key = every_row(value, lambda b, h, t, row: [x * w for x, w in zip(row, a["key_weights"], strict=True)])
    q = every_row(a["q"], lambda b, h, t, row: _rms(n, row, a["query_weights"], eps))
    return attention(n, at(1, q), at(1, key), a["row"] if p.get("raw_values") else value, see=before)


def _path(n: Numbers, a: Mapping[str, Nested], p: Mapping[str, Any]) -> dict[str, Nested]:
    """The query walks back, and is reflected by every token behind the key."""
    group, scale = len(a["q"][0]) // len(a["k"][0]), reciprocal_root(n, len(a["q"][0][0][0]))

    def reflected(b: int, g: int, t: int, row: Row) -> Row:
        direction, strength = a["directions"][b][g][t], 2 * sigmoid(n, a["strengths"][b][g][t][0])
        size = n.sum(x * x for x in direction)
        along = strength * dot(n, direction, row) / size
        return [x - along * y for x, y in zip(row, direction, strict=True)]

    def bend(_: Number, b: int, h: int, t: int, s: int) -> Number:
        row, steps = a["q"][b][h][t], list(range(t, s - (1 if p.get("key_reflects") else 0), -1))
        for step in reversed(steps) if p.get("forwards") else steps:
            row = reflected(b, h // group, step, row)
        return dot(n, row, a["k"][b][h // group][s]) * scale

    return attention(n, a["q"], a["k"], a["v"], see=before, bend=bend)


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


def _worn_difference(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    a_1, b_1, a_2, b_2 = inputs["vectors"]
    weight = differential.learned(a_1, b_1, a_2, b_2, p["initial"])
    if p["pairs"] != "side by side":
        projections = differential.from_halves(projections)
    layer = differential.Differential(projections, weight, p["initial"], inputs["weights"], p["eps"])
    return Worn(layer, x, inputs["q"].shape[1] // 2, 2 * inputs["v"].shape[3])


def _worn_forgotten(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    projections, x, others = picked(inputs, "gates")
    layer = Forgetting(projections, others["gates"], inputs["gate_bias"])
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_extended(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    rotary = Rotary.of(inputs["q"].shape[3], p["base"])
    layer: Any = Grouped(projections, query_key=(rotary,))
    if p["way"] == "self extend":
        layer = Placed(projections, rotary, self_extend(group=p["group"], window=p["window"]))
    if p["way"] == "dual chunk":
        layer = Placed(projections, rotary, dual_chunk(chunk=p["chunk"], farthest=p["farthest"]))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_remembered(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    projections, x, _others = picked(inputs)
    layer = MemoryRows(projections, inputs["memory_k"], inputs["memory_v"])
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_crossed(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    x, memory = (
        np.concatenate([part.swapaxes(1, 2).reshape(len(part), part.shape[2], -1) for part in parts], axis=2)
        for parts in ((q,), (k, v))
    )
    hidden, held = np.eye(x.shape[2]), np.eye(memory.shape[2])
    edge = k.shape[1] * k.shape[3]
    output = hidden[: q.shape[1] * v.shape[3]]
    made = Projections(hidden, held[:, :edge], held[:, edge:], output, q.shape[1], k.shape[1])
    return Worn(Cross(made, memory, memory_lengths=inputs["lengths"].tolist()), x, q.shape[1], v.shape[3])


def _worn_merged(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    projections, x, _ = picked(inputs)
    blank = np.zeros((*inputs["encoder_k"].shape[:1], 4, inputs["encoder_k"].shape[2], inputs["q"].shape[3]))
    _, memory, _others = picked({"q": blank, "k": inputs["encoder_k"], "v": inputs["encoder_v"]})
    rotary = Rotary.of(inputs["q"].shape[3], p["base"])
    layer = Merged(projections, memory, memory_lengths=inputs["lengths"].tolist(), query_key=(rotary,))
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


def _worn_tied(inputs: Mapping[str, Any], p: Mapping[str, Any]) -> Worn:
    rows = {"q": inputs["q"], "k": inputs["row"], "v": inputs["row"][..., :1]}
    picks, x, _ = picked(rows)
    heads, width = inputs["q"].shape[1], inputs["q"].shape[3]
    made = tied.tied(picks.query, picks.key, np.eye(x.shape[2])[: heads * width], heads, inputs["row"].shape[1])
    rotary = Rotary.of(width, p["base"])
    layer: Any = tied.SharedRow(made, query_key=(rotary,), finish=(tied.TurnBack(rotary),))
    if p["kind"] != "row":
        norm = query_key_norm.HeadRmsNorm(inputs["query_weights"], inputs["key_weights"], p["eps"])
        layer = tied.SharedProjection(made, norm, rotation=rotary)
    return Worn(layer, x, heads, width)


def _worn_path(inputs: Mapping[str, Any], _: Mapping[str, Any]) -> Worn:
    projections, x, others = picked(inputs, "directions", "strengths")
    layer = Path(projections, others["directions"], others["strengths"])
    return Worn(layer, x, inputs["q"].shape[1], inputs["v"].shape[3])


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


def _heads(width: int = 6, kv_heads: int = 2, value_width: int = 3, tokens: int = 5) -> dict[str, Any]:
    label = f"dense {width} {kv_heads} {value_width} {tokens} "
    return {
        "q": drawn(label + "q", 1, 4, tokens, width),
        "k": drawn(label + "k", 1, kv_heads, tokens, width),
        "v": drawn(label + "v", 1, kv_heads, tokens, value_width),
    }


def _norms() -> tuple[Recipe, ...]:
    weights = {"query_weights": drawn("norm q", 6), "key_weights": drawn("norm k", 6)}
    whole = {"query_weights": drawn("whole q", 24), "key_weights": drawn("whole k", 12)}
    biases = {"query_biases": drawn("bias q", 6), "key_biases": drawn("bias k", 6)}
    behind, ahead, none = {"order": "rotation first"}, {"order": "norm first"}, {"norm": None}

    def case(
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
            {**_heads(), **(weights if further is None else further)},
            given,
            _normed,
            layer_forms(_worn_normed),
            sibling=sibling and f"variants/norms/{sibling}",
            flags=(NORMS,),
            mistakes=mistakes,
        )

    return (
        case("none", "Rotation alone: the plain case.", none, {}, {}, None),
        case(
            "before-rotation",
            "Qwen3: the norm of each head with its weights, then rotation.",
            {},
            {"behind the rotation": behind, "left out": none},
        ),
        case(
            "behind-rotation",
            "Rotation, then the norm with its weights.",
            behind,
            {"before the rotation": ahead, "left out": none},
            None,
            "before-rotation",
        ),
        case(
            "without-weights",
            "Llama 4 behind its rotation, without weights: the order cannot be told.",
            behind,
            {"left out": none},
            {},
        ),
        case(
            "weights-less-one",
            "Gemma 3 stores w - 1.",
            {"added": 1},
            {"weights as they are": {"added": 0}},
            None,
            "before-rotation",
        ),
        case(
            "large-epsilon",
            "An ε of 1/2 shows that it stands under the root, beside the mean of squares.",
            {"eps": 0.5},
            {"left out": {"eps": 0.0}},
            None,
            "before-rotation",
        ),
        case(
            "layer-norm",
            "The mean is taken off first; weights and biases.",
            {"norm": "layer", "eps": 1e-5},
            {"behind the rotation": behind, "root mean square": {"norm": "rms"}},
            {**weights, **biases},
            "before-rotation",
        ),
        case(
            "whole-projection",
            "OLMo 2: one mean of squares over all heads of a token.",
            {"norm": "whole projection"},
            {"left out": none},
            whole,
            "before-rotation",
        ),
    )


def _told(
    name: str, row: str, operation: str, comment: str, inputs: Any, given: Any, formula: Any, worn: Any, **others: Any
) -> Recipe:
    forms = layer_forms(worn, whole=others.pop("whole", False))
    sibling = others.pop("sibling", None)
    return told(
        f"variants/{name}",
        f"variants/{row}",
        operation,
        comment,
        inputs,
        given,
        formula,
        forms,
        sibling=sibling and f"variants/{sibling}",
        **others,
    )


def _gates() -> tuple[Recipe, ...]:
    words = ("dense/output_gate", "attention with an output gate")
    each = {**_heads(value_width=3), "gates": drawn("gates", 1, 5, 12)}
    by_head = {**_heads(value_width=3), "gates": drawn("gates of heads", 1, 5, 4)}
    fused = {name: x for name, x in _heads(4, 2, 4).items() if name != "q"} | {"fused": drawn("fused", 1, 5, 32)}
    given = {"gate": "sigmoid", "heads": 4}
    normed = {**_heads(), "weights": drawn("sub norm", 12)}
    cosine = {**_heads(), "logit_scale": np.array([0.5, 1.5, 2.25, 6.0])}
    return (
        _told(
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
        _told(
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
        _told(
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
        _told(
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
        _told(
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
        _told(
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


def _differences() -> tuple[Recipe, ...]:
    words = ("dense/differential", "differential attention")
    more = {"vectors": drawn("lambda", 4, 6, limit=0.5), "weights": drawn("pair norm", 6)}
    wide, few = {**_heads(kv_heads=4), **more}, {**_heads(kv_heads=2), **more}
    given = {"initial": 0.2, "eps": 1e-5, "pairs": "side by side"}
    halves = {"pairs": "halves"}
    return (
        _told(
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
        _told(
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
        _told(
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


def _others() -> tuple[Recipe, ...]:
    fading = {**_heads(), "gates": drawn("forget", 1, 5, 4), "gate_bias": drawn("forget bias", 4)}
    long = _heads(tokens=11)
    extended = "attention with extended places"
    plain = {"way": "plain", "base": 100.0}
    memory = {**_heads(), "memory_k": drawn("memory k", 2, 3, 6), "memory_v": drawn("memory v", 2, 3, 3)}
    cross = {
        "q": drawn("cross q", 2, 4, 3, 6),
        "k": drawn("cross k", 2, 2, 7, 6),
        "v": drawn("cross v", 2, 2, 7, 3),
        "lengths": np.array([7, 4]),
    }
    merged = {
        **{
            name: drawn(f"merged {name}", 2, heads, 3, width)
            for name, heads, width in (("q", 4, 6), ("k", 2, 6), ("v", 2, 5))
        },
        "encoder_k": drawn("merged encoder k", 2, 2, 7, 6),
        "encoder_v": drawn("merged encoder v", 2, 2, 7, 5),
        "lengths": np.array([7, 4]),
    }
    row = {"q": drawn("tied q", 1, 4, 5, 6), "row": drawn("tied row", 1, 2, 5, 6)}
    normed_row = {**row, "query_weights": drawn("tied wq", 6), "key_weights": drawn("tied wk", 6)}
    walk = {
        **_heads(width=4),
        "directions": drawn("path w", 1, 2, 5, 4),
        "strengths": drawn("path b", 1, 2, 5, 1),
    }
    shapes = {"query": (4, 6), "key": (4, 3), "value": (4, 2), "output": (4, 4)}
    residual = {"x": drawn("residual x", 1, 5, 4)} | {
        f"{name}_{layer}": drawn(f"residual {name} {layer}", *shape, limit=1.0)
        for layer in range(3)
        for name, shape in shapes.items()
    }
    return (
        _told(
            "places/forgetting",
            "dense/forgetting",
            "attention that forgets",
            "The log of each gate behind the key, the query's own included, is added to the score.",
            fading,
            {},
            _forgotten,
            _worn_forgotten,
            sibling="norms/none",
            flags=(FADING,),
            mistakes={
                "the key's own gate too": {"own_gate_of_key": True},
                "not the query's": {"not_of_query": True},
            },
        ),
        _told(
            "places/plain",
            "dense/grouped",
            extended,
            "Rotary positions as they are: the plain case.",
            long,
            plain,
            _extended,
            _worn_extended,
            flags=(PLACES,),
        ),
        _told(
            "places/self-extend",
            "dense/self_extend",
            extended,
            "Three near keys at their own distance, further ones by groups of two.",
            long,
            {"way": "self extend", "group": 2, "window": 3, "base": 100.0},
            _extended,
            _worn_extended,
            sibling="places/plain",
            flags=(PLACES,),
            mistakes={"a gap behind the near keys": {"not_moved": True}, "another group": {"group": 3}, "plain": plain},
        ),
        _told(
            "places/dual-chunk",
            "dense/dual_chunk",
            extended,
            "Chunks of three positions and no distance beyond four.",
            long,
            {"way": "dual chunk", "chunk": 3, "farthest": 4, "base": 100.0},
            _extended,
            _worn_extended,
            sibling="places/plain",
            flags=(PLACES,),
            mistakes={"one further": {"farthest": 5}, "no chunk before": {"no_chunk_before": True}, "plain": plain},
        ),
        _told(
            "rows/memory",
            "dense/memory_rows",
            "attention with memory rows",
            "Three learned keys and values, which every query sees.",
            memory,
            {},
            _remembered,
            _worn_remembered,
            flags=(MEMORY,),
            mistakes={"hidden like tokens": {"masked_like_tokens": True}, "left out": {"left_out": True}},
        ),
        _told(
            "rows/cross",
            "dense/cross",
            "cross attention",
            "Two sequences with memories of 7 and of 4 rows; all of it is visible to every query.",
            cross,
            {},
            _crossed,
            _worn_crossed,
            flags=(CROSS,),
            mistakes={"causal": {"causal": True}, "rows beyond a memory's end": {"all_rows": True}},
        ),
        _told(
            "rows/merged",
            "dense/merged",
            "merged attention",
            "T5Gemma 2: a decoder's own keys, causal and turned, and an encoder's of 7 and of 4 rows, in one softmax.",
            merged,
            {"base": 100.0},
            _merged,
            _worn_merged,
            sibling="rows/cross",
            flags=(CROSS, MEMORY),
            mistakes={
                "the encoder's keys turned too": {"encoder_turned": True},
                "the encoder left out": {"encoder_left_out": True},
                "rows beyond a memory's end": {"all_rows": True},
            },
        ),
        _told(
            "rows/tied-projection",
            "compressed/tied",
            "attention with tied keys and values",
            "Gemma 4: one projection, normed without weights for values, with weights and turned for keys.",
            normed_row,
            {"kind": "projection", "base": 10000.0, "eps": 1e-6},
            _tied,
            _worn_tied,
            sibling="rows/tied-row",
            flags=(TIED,),
            mistakes={"values not normed": {"raw_values": True}},
        ),
        _told(
            "rows/tied-row",
            "compressed/tied",
            "attention with tied keys and values",
            "DeepSeek-V4: key and value are the same turned row, and the mix is turned back.",
            row,
            {"kind": "row", "base": 10000.0},
            _tied,
            _worn_tied,
            flags=(TIED,),
            mistakes={"not turned back": {"not_turned_back": True}},
        ),
        _told(
            "rows/path",
            "dense/path",
            "attention along a path of reflections",
            "Each token between a key and a query reflects, the query's own first, the key's own not.",
            walk,
            {},
            _path,
            _worn_path,
            flags=(WALK,),
            mistakes={"in the other order": {"forwards": True}, "the key reflects too": {"key_reflects": True}},
        ),
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


def recipes() -> tuple[Recipe, ...]:
    """The cases of dense variants.

    >>> len({recipe.name for recipe in recipes()})
    28
    """
    return _norms() + _gates() + _differences() + _others()
