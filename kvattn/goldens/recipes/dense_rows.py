"""Dense attention whose keys are not one for each token: memory rows, an encoder's, tied ones, reflected ones.

Inputs ``q``, ``k``, ``v``, causal but for cross attention; expected ``out`` and ``lse``.

- "attention with memory rows": ``memory_k``, ``memory_v [Hkv, m, ..]``.
- "cross attention": ``lengths [B]`` of k and v.
- "merged attention": ``encoder_k``, ``encoder_v [B, Hkv, S, ..]`` of ``lengths``; own queries and keys turn in halves
  with ``base``.
- "attention with tied keys and values": ``row [B, Hkv, T, D]`` in both places; ``kind`` row (turned, mix turned back)
  or projection (normed: ``query_weights``, ``key_weights``, ``eps``); ``base``.
- "attention along a path of reflections": ``directions [B, Hkv, T, D]``, not of unit length, and ``strengths``,
  before 2σ.

Sources: Sukhbaatar et al. 2019 (arXiv 1907.01470) §3; Yang et al. 2025 (2505.16381).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.formulas import attention, dot, reciprocal_root, sigmoid
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._dense import case, drawn_heads, root_mean_square
from kvattn.goldens.recipes._forms import Worn, picked
from kvattn.goldens.recipes._loops import Nested, Row, before, every_row, geometric, turn
from kvattn.positions.rotary import Rotary
from kvattn.variants.compressed import tied
from kvattn.variants.dense import query_key_norm
from kvattn.variants.dense.cross import Cross
from kvattn.variants.dense.memory_rows import MemoryRows
from kvattn.variants.dense.merged import Merged
from kvattn.variants.dense.path import Path
from kvattn.variants.dense.projections import Projections

MEMORY = Flag("FurtherRows", "BASIC", "Turns, masks or forgets keys that do not belong to tokens.")

CROSS = Flag(
    "CrossRows",
    "CACHE_STATE",
    "Hides later keys from earlier queries, or reads beyond a sequence's own memory.",
    ("jax-ml/jax#23349", "huggingface/transformers#28357"),
)

TIED = Flag("TiedRows", "BASIC", "Takes the value before the norm, or leaves the key's turn in it.")

WALK = Flag("Reflections", "BASIC", "Reflects in another order, or at the key's own token.")


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
    value = every_row(a["row"], lambda b, h, t, row: root_mean_square(n, row, None, eps))
    key = every_row(value, lambda b, h, t, row: [x * w for x, w in zip(row, a["key_weights"], strict=True)])
    q = every_row(a["q"], lambda b, h, t, row: root_mean_square(n, row, a["query_weights"], eps))
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


# what kvattn computes


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


# cases


def recipes() -> tuple[Recipe, ...]:
    """The cases of further, tied and reflected rows.

    >>> len({recipe.name for recipe in recipes()})
    6
    """
    memory = {**drawn_heads(), "memory_k": drawn("memory k", 2, 3, 6), "memory_v": drawn("memory v", 2, 3, 3)}
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
        **drawn_heads(width=4),
        "directions": drawn("path w", 1, 2, 5, 4),
        "strengths": drawn("path b", 1, 2, 5, 1),
    }
    return (
        case(
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
        case(
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
        case(
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
        case(
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
        case(
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
        case(
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
    )
