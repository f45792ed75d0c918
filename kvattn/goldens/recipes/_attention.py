"""The operation ``attention``: one formula for every convention of masks, caps, biases, sinks and heads.

Inputs ``q [B, Hq, T, D]``, ``k [B, Hkv, S, D]``, ``v [B, Hkv, S, Dv]``; where given, ``q_positions [B, T]``,
``k_positions [B, S]``, ``sinks [Hq]``, ``slopes [Hq]``, ``documents [B, N]`` by position, ``lengths [B]`` and
``starts [B]`` of the real keys, ``bias`` and ``mask`` (True = may see) with every dimension whole or 1.

Parameters, each left out where it has the value named first here:

    scale        1/sqrt(D), or a number
    softcap      none, or a number
    causal       false: a query sees keys at its own position and before it
    alignment    "bottom_right": without positions the last query stands at the last key; or "top_left"
    window       none, or W: keys at distance 0 .. W-1;  ahead: 0, or how many keys after the query, too
    window_bound "keys", or "distance": keys at distance 0 .. W
    prefix       none, or P: keys at positions below P are visible to all
    order        ["scale", "softcap", "bias", "mask"]
    head_map     "grouped": query head h reads h // G; or "tile": h % Hkv
    empty        "zero", "nan" or "mean": a row that sees no key
    lse_base     "e" or "2"
    sink_count   1;  sinks_in_lse: true

Outputs ``out [B, Hq, T, Dv]`` and ``lse [B, Hq, T]``.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any

import numpy as np

from kvattn.core.merge import base2_from_natural
from kvattn.goldens.flag import Flag
from kvattn.goldens.formulas import capped, dot, mixed, reciprocal_root, softmax
from kvattn.goldens.numbers import Number, Numbers
from kvattn.goldens.recipe import Formula, Recipe, Values, drawn
from kvattn.masks import Causal, Document, Explicit, Padding, Prefix, Window
from kvattn.one_liners import attend
from kvattn.positions.alibi import Alibi

STAGES = ("scale", "softcap", "bias", "mask")
"""What happens to a score, in order."""


def attention(n: Numbers, a: Values, p: Mapping[str, Any]) -> dict[str, Any]:
    """The formula, in loops."""
    q, k, v = a["q"], a["k"], a["v"]
    group, kv_heads = len(q[0]) // len(k[0]), len(k[0])
    width = p.get("value_width") or len(v[0][0][0])
    scale = n(p["scale"]) if "scale" in p else reciprocal_root(n, len(q[0][0][0]) if q[0][0] else 1)
    at_q, at_k = places(a, p)
    out: list[Any] = [[[] for _ in heads] for heads in q]
    lse: list[Any] = [[[] for _ in heads] for heads in q]
    for b, heads in enumerate(q):
        for h, rows in enumerate(heads):
            g = h // group if p.get("head_map", "grouped") == "grouped" else h % kv_heads
            for t, row in enumerate(rows):
                left = []
                for s, key in enumerate(k[b][g]):
                    sees = visible(a, p, at_q[b][t], at_k[b][s], b, h, t, s)
                    if sees or p.get("order", STAGES)[-1] != "mask":
                        score = _bent(n, a, p, dot(n, row, key), sees, scale, at_q[b][t] - at_k[b][s], (b, h, t, s))
                        left += [] if score is None else [(score, s)]
                sink = a["sinks"][h] if "sinks" in a else -math.inf
                sinks = [] if isinstance(sink, float) else [sink] * p.get("sink_count", 1)
                weights, total = softmax(n, [score for score, _ in left], sinks)
                if not p.get("sinks_in_lse", True):
                    total = softmax(n, [score for score, _ in left])[1]
                mix = mixed(n, weights, [v[b][g][s] for _, s in left], width)
                if not left and not sinks:
                    mix = _of_nothing(n, v[b][g], mix, p.get("empty", "zero"))
                out[b][h].append(mix)
                lse[b][h].append(total if p.get("lse_base", "e") == "e" or total == -math.inf else total / n.log(n(2)))
    if not q[0][0]:  # no lists to tell the width
        return {"out": np.zeros((len(q), len(q[0]), 0, width)), "lse": lse}
    return {"out": out, "lse": lse}


def places(a: Values, p: Mapping[str, Any]) -> tuple[Any, Any]:
    """Positions of queries and keys: those given, or as the alignment says."""
    batch, length, held = len(a["q"]), len(a["q"][0][0]), len(a["k"][0][0])
    first = held - length if p.get("alignment", "bottom_right") == "bottom_right" else 0
    at_q = a.get("q_positions", [[first + t for t in range(length)] for _ in range(batch)])
    return at_q, a.get("k_positions", [list(range(held)) for _ in range(batch)])


def visible(a: Values, p: Mapping[str, Any], i: int, j: int, b: int, h: int, t: int, s: int) -> bool:
    """Whether the query at position i may see the key at position j."""
    size = p.get("window", math.inf) + (p.get("window_bound", "keys") == "distance")
    near = -p.get("ahead", 0) <= i - j < size if "window" in p else True
    before = j <= i or not p.get("causal", False)
    early = j < p.get("prefix", -math.inf)
    same = "documents" not in a or a["documents"][b][i] == a["documents"][b][j] >= 0
    real = a["starts"][b] <= j if "starts" in a else True
    real = real and (j < a["lengths"][b] if "lengths" in a else True)
    shown = "mask" not in a or pick(a["mask"], b, h, t, s) is not p.get("inverted", False)
    return bool(((near and before) or early) and same and real and shown)


def pick(array: Any, *place: int) -> Any:
    """The element of nested lists, where a dimension of size 1 stands for all."""
    for number in place:
        array = array[number if len(array) > 1 else 0]
    return array


def _bent(
    n: Numbers, a: Values, p: Mapping[str, Any], score: Number, sees: bool, scale: Number, distance: int, place: Any
) -> Number | None:
    """The score after all stages; None for -inf."""
    for stage in p.get("order", STAGES):
        if stage == "scale":
            score = None if score is None else score * scale
        elif stage == "softcap" and "softcap" in p:
            cap = n(p["softcap"])
            score = -cap if score is None else capped(n, score, cap)
        elif stage == "bias" and score is not None:
            bias = pick(a["bias"], *place) if "bias" in a else 0
            score = None if isinstance(bias, float) else score + bias
            if "slopes" in a and score is not None:
                score = score - a["slopes"][place[1]] * distance
        elif stage == "mask":
            score = score if sees else None
    return score


def _of_nothing(n: Numbers, values: Any, zeros: Any, convention: str) -> Any:
    if convention == "mean":
        return [n.sum(row[d] for row in values) / len(values) for d in range(len(zeros))]
    return [math.nan] * len(zeros) if convention == "nan" else zeros


def ours(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    """The same by `kvattn.attend`; conventions that are not its own are turned into them first."""
    q, k, v = a["q"], a["k"], a["v"]
    batch, heads, length, held = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    first = held - length if p.get("alignment", "bottom_right") == "bottom_right" else 0
    at_q = a.get("q_positions", np.tile(np.arange(first, first + length), (batch, 1)))
    at_k = a.get("k_positions", np.tile(np.arange(held), (batch, 1)))
    if p.get("head_map") == "tile":
        k, v = (np.concatenate([x] * (heads // x.shape[1]), axis=1) for x in (k, v))
    masks: list[Any] = []
    if "window" in p:
        masks.append(Window(p["window"] + (p.get("window_bound") == "distance"), ahead=p.get("ahead", 0)))
    if p.get("causal"):
        masks.append(Causal())
    if "prefix" in p:
        masks = [_both(masks) | Prefix(p["prefix"])]
    if "documents" in a:
        masks.append(Document(a["documents"]))
    if "lengths" in a or "starts" in a:
        masks.append(Padding(a.get("lengths"), a.get("starts")))
    if "mask" in a:
        seen = ~a["mask"] if p.get("inverted") else a["mask"]
        if not masks:
            masks.append(seen)
        else:
            masks.append(Explicit(np.broadcast_to(seen, (*seen.shape[:2], length, held)), at_q, at_k))
    bias = a.get("bias")
    if "slopes" in a:
        bias = Alibi(a["slopes"])
    given = {name: p[name] for name in ("scale", "softcap") if name in p}
    sinks = a["sinks"] + math.log(p.get("sink_count", 1)) if "sinks" in a else None
    found = attend(q, k, v, mask=_both(masks), bias=bias, sinks=sinks, q_positions=at_q, k_positions=at_k, **given)
    lse = found.lse
    if not p.get("sinks_in_lse", True):
        lse = attend(q, k, v, mask=_both(masks), bias=bias, q_positions=at_q, k_positions=at_k, **given).lse
    return {"out": found.out, "lse": lse if p.get("lse_base", "e") == "e" else base2_from_natural(lse)}


def _both(masks: list[Any]) -> Any:
    whole = None
    for mask in masks:
        whole = mask if whole is None else whole & mask
    return whole


def as_if(formula: Formula = attention, /, only: str | None = None, **changed: Any) -> Formula:
    """The formula under other parameters; ``only`` one of its outputs."""

    def other(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
        found = formula(n, a, {**p, **changed})
        return found if only is None else {only: found[only]}

    return other


def without(*names: str) -> Formula:
    """The formula that forgets these inputs and parameters."""

    def other(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
        return attention(
            n, {x: y for x, y in a.items() if x not in names}, {x: y for x, y in p.items() if x not in names}
        )

    return other


def tensors(
    label: str = "plain",
    *,
    batch: int = 1,
    heads: int = 4,
    kv_heads: int = 2,
    queries: int = 3,
    keys: int = 5,
    width: int = 6,
    value_width: int = 7,
) -> dict[str, Any]:
    """Queries, keys and values of sizes that differ from each other."""
    return {
        "q": drawn(f"q of {label}", batch, heads, queries, width),
        "k": drawn(f"k of {label}", batch, kv_heads, keys, width),
        "v": drawn(f"v of {label}", batch, kv_heads, keys, value_width),
    }


def case(
    name: str,
    comment: str,
    *,
    row: str = "variants/dense/grouped",
    inputs: Mapping[str, Any] | None = None,
    flags: tuple[Flag, ...] = (),
    sibling: str | None = None,
    alternatives: Mapping[str, Formula] | None = None,
    mistakes: Mapping[str, Formula] | None = None,
    result: str | None = None,
    others: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Recipe:
    """A case of the operation, of the plain tensors with ``others`` beside unless ``inputs`` are given."""
    return Recipe(
        name=f"dense/{name}",
        row=row,
        operation="attention",
        comment=comment,
        inputs={**(tensors() if inputs is None else inputs), **(others or {})},
        parameters=parameters,
        formula=attention,
        ours=ours,
        flags=flags,
        result=result or ("acceptable" if alternatives else "valid"),
        alternatives=alternatives or {},
        mistakes=mistakes or {},
        sibling=sibling and f"dense/{sibling}",
    )


EMPTY: dict[str, Callable[..., Any]] = {
    "NaN": as_if(only="out", empty="nan"),
    "mean of all values": as_if(only="out", empty="mean"),
}
"""What else a row that sees no key may legally be."""
