"""Layouts and accounts: rows of all heads, packed projections, the four stages of a score, and the size of a cache.

Operation ``attention_rows``: ``q [B, T, Hq·D]``, ``k [B, S, Hkv·D]``, ``v [B, S, Hkv·Dv]``, head by head in each row;
parameters ``heads`` and ``kv_heads``; outputs ``out [B, T, Hq·Dv]`` and ``lse [B, Hq, T]``.
Operation ``attention_packed``: ``qkv [B, T, Hkv·(G·D + D + Dv)]``, each key/value head with its queries before it.
Operation ``attention_stages``: inputs of ``attention``; outputs ``scaled``, ``capped``, ``biased`` and ``weights``
``[B, Hq, T, S]``; what the mask hides is -inf in ``biased`` and 0 in ``weights``.
Operation ``cache_bytes``: how many bytes a cache holds, by a model's sizes; ``latent_cache_bytes``: of latent rows.
"""

from collections.abc import Mapping
import math
from typing import Any

import numpy as np

from kvattn.caches.contiguous import Contiguous
from kvattn.caches.rows import key_value, latent
from kvattn.goldens.formulas import capped, dot, reciprocal_root, softmax
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Formula, Recipe, Values, drawn
from kvattn.goldens.recipes._attention import attention, ours, pick, places, tensors, visible
from kvattn.goldens.recipes._incidents import CACHE_SIZE, ONNX_RESHAPE, ONNX_STAGES, ONNX_TILE


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 10
    True
    """
    return (*_in_rows(), *_in_stages(), *_sizes())


def _in_rows() -> tuple[Recipe, ...]:
    def rows(name: str, comment: str, heads: int, kv_heads: int, **parameters: Any) -> Recipe:
        wrong: dict[str, Formula] = {"reshaped without the transpose": _reshaped}
        if 1 < kv_heads < heads:
            wrong["key/value heads tiled"] = lambda n, a, p: _of_rows(n, a, {**p, "head_map": "tile"})
        return Recipe(
            name=f"dense/rows/{name}",
            row="variants/dense/projections",
            operation="attention_rows",
            comment=comment,
            inputs={
                "q": drawn("rows of q", 1, 3, heads * 6),
                "k": drawn("rows of k", 1, 5, kv_heads * 6),
                "v": drawn("rows of v", 1, 5, kv_heads * 7),
            },
            parameters={"heads": heads, "kv_heads": kv_heads, **parameters},
            formula=_of_rows,
            ours=_ours_of_rows,
            flags=(ONNX_RESHAPE, *((ONNX_TILE,) if 1 < kv_heads < heads else ())),
            mistakes=wrong,
        )

    packed = Recipe(
        name="dense/rows/packed-by-group",
        row="variants/dense/projections",
        operation="attention_packed",
        comment="One fused row for each token, two queries, a key and a value for each of two key/value heads.",
        inputs={"qkv": drawn("packed rows", 1, 4, 2 * (2 * 3 + 3 + 5))},
        parameters={"heads": 4, "kv_heads": 2, "width": 3, "value_width": 5, "packing": "group"},
        formula=_of_packed,
        ours=_ours_packed,
        mistakes={
            "read as all queries, all keys, all values": lambda n, a, p: _of_packed(n, a, {**p, "packing": "kind"})
        },
    )
    return (
        rows("multi-head", "Rows of four heads side by side.", 4, 4),
        rows("grouped", "Rows of four query heads and two key/value heads.", 4, 2),
        rows("multi-query", "Rows of four query heads and one key/value head.", 4, 1),
        rows("causal", "The same over cached keys, causal.", 4, 2, causal=True),
        packed,
        Recipe(
            name="dense/rows/packed-by-kind",
            row="variants/dense/projections",
            operation="attention_packed",
            comment="The same numbers, where all queries come first, then all keys, then all values.",
            inputs=packed.inputs,
            parameters={**packed.parameters, "packing": "kind"},
            formula=_of_packed,
            ours=_ours_packed,
            mistakes={"read group by group": _of_packed_by_group},
            sibling="dense/rows/packed-by-group",
        ),
    )


def _split(rows: Any, heads: int) -> Any:
    """``[B][T][H·D]`` to ``[B][H][T][D]``."""
    width = len(rows[0][0]) // heads
    return [[[row[h * width : (h + 1) * width] for row in tokens] for h in range(heads)] for tokens in rows]


def _of_rows(n: Numbers, a: Values, p: Mapping[str, Any], split: Any = _split) -> Values:
    parts = {"q": split(a["q"], p["heads"]), "k": split(a["k"], p["kv_heads"]), "v": split(a["v"], p["kv_heads"])}
    found = attention(n, parts, {x: y for x, y in p.items() if x not in {"heads", "kv_heads"}})
    out = [[[x for head in heads for x in head[t]] for t in range(len(heads[0]))] for heads in found["out"]]
    return {"out": out, "lse": found["lse"]}


def _reshaped(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    def flat(rows: Any, heads: int) -> Any:
        tokens, width = len(rows[0]), len(rows[0][0]) // heads
        numbers = [[x for row in sequence for x in row] for sequence in rows]
        starts = [[(h * tokens + t) * width for t in range(tokens)] for h in range(heads)]
        return [[[sequence[first : first + width] for first in head] for head in starts] for sequence in numbers]

    return _of_rows(n, a, p, flat)


def _ours_of_rows(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    def split(rows: Any, heads: int) -> Any:
        return rows.reshape(*rows.shape[:2], heads, -1).swapaxes(1, 2)

    parts = {"q": split(a["q"], p["heads"]), "k": split(a["k"], p["kv_heads"]), "v": split(a["v"], p["kv_heads"])}
    found = ours(parts, {x: y for x, y in p.items() if x not in {"heads", "kv_heads"}})
    return {"out": found["out"].swapaxes(1, 2).reshape(*a["q"].shape[:2], -1), "lse": found["lse"]}


def _places_in_packed(p: Mapping[str, Any]) -> dict[str, list[int]]:
    """For queries, keys and values: where each head's features begin in a fused row."""
    heads, kv_heads, width, wide = p["heads"], p["kv_heads"], p["width"], p["value_width"]
    group = heads // kv_heads
    if p["packing"] == "kind":
        first = heads * width
        return {
            "q": [h * width for h in range(heads)],
            "k": [first + g * width for g in range(kv_heads)],
            "v": [first + kv_heads * width + g * wide for g in range(kv_heads)],
        }
    each = (group + 1) * width + wide
    return {
        "q": [h // group * each + h % group * width for h in range(heads)],
        "k": [g * each + group * width for g in range(kv_heads)],
        "v": [g * each + (group + 1) * width for g in range(kv_heads)],
    }


def _of_packed(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    wide = {"q": p["width"], "k": p["width"], "v": p["value_width"]}
    parts = {
        name: [[[row[first : first + wide[name]] for row in tokens] for first in starts] for tokens in a["qkv"]]
        for name, starts in _places_in_packed(p).items()
    }
    return attention(n, parts, {})


def _of_packed_by_group(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    return _of_packed(n, a, {**p, "packing": "group"})


def _ours_packed(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    rows, heads, kv_heads, width = a["qkv"], p["heads"], p["kv_heads"], p["width"]
    batch, tokens = rows.shape[:2]
    if p["packing"] == "kind":
        q, k, v = np.split(rows, [heads * width, (heads + kv_heads) * width], axis=-1)
    else:
        groups = rows.reshape(batch, tokens, kv_heads, -1)
        q, k, v = np.split(groups, [heads // kv_heads * width, (heads // kv_heads + 1) * width], axis=-1)
    parts = [
        x.reshape(batch, tokens, count, -1).swapaxes(1, 2) for x, count in ((q, heads), (k, kv_heads), (v, kv_heads))
    ]
    return ours(dict(zip("qkv", parts, strict=True)), {})


def _in_stages() -> tuple[Recipe, ...]:
    bias = {"bias": drawn("bias", 1, 4, 3, 5)}

    def stages(name: str, comment: str, others: Mapping[str, Any], **parameters: Any) -> Recipe:
        swapped = {"capped and biased scores in each other's place": _swapped}
        return Recipe(
            name=f"dense/stages/{name}",
            row="mods/softcap",
            operation="attention_stages",
            comment=comment,
            inputs={**tensors(), **others},
            parameters=parameters,
            formula=_stages,
            ours=_ours_stages,
            flags=(ONNX_STAGES,),
            mistakes=swapped,
        )

    return (
        stages("all", "Scaled, capped, biased and normalised scores, each handed out.", bias, softcap=1.5),
        stages("causal", "The same under a causal mask, which shows in the last two.", bias, softcap=1.5, causal=True),
        stages("no-cap", "Without a cap the first two are the same.", bias, causal=True),
        stages(
            "no-bias",
            "Without a bias the mask alone separates the second from the third.",
            {},
            softcap=1.5,
            causal=True,
        ),
    )


def _stages(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    q, k = a["q"], a["k"]
    scale = n(p["scale"]) if "scale" in p else reciprocal_root(n, len(q[0][0][0]))
    at_q, at_k = places(a, p)
    group = len(q[0]) // len(k[0])
    found: dict[str, Any] = {name: [] for name in ("scaled", "capped", "biased", "weights")}
    for b, heads in enumerate(q):
        for sequences in found.values():
            sequences.append([])
        for h, rows in enumerate(heads):
            keys = k[b][h // group]
            scaled = [[dot(n, row, key) * scale for key in keys] for row in rows]
            cap = n(p["softcap"]) if "softcap" in p else None
            bent = [[x if cap is None else capped(n, x, cap) for x in row] for row in scaled]
            biased: list[Any] = []
            weights: list[Any] = []
            for t, row in enumerate(bent):
                sees = [visible(a, p, at_q[b][t], at_k[b][s], b, h, t, s) for s in range(len(keys))]
                told = [x + (pick(a["bias"], b, h, t, s) if "bias" in a else 0) for s, x in enumerate(row)]
                biased.append([x if seen else -math.inf for x, seen in zip(told, sees, strict=True)])
                share = iter(softmax(n, [x for x, seen in zip(told, sees, strict=True) if seen])[0])
                weights.append([next(share) if seen else 0.0 for seen in sees])
            for sequences, rows_of in zip(found.values(), (scaled, bent, biased, weights), strict=True):
                sequences[b].append(rows_of)
    return found


def _swapped(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    found = _stages(n, a, p)
    return {**found, "capped": found["biased"], "biased": found["capped"]}


def _ours_stages(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    """By `kvattn.attend` alone: of one key the log-sum-exp is its score, and weights are the mix of unit vectors."""
    keys = a["k"].shape[2]
    units = np.broadcast_to(np.eye(keys), (*a["k"].shape[:2], keys, keys))

    def scores(b: Mapping[str, Any], parameters: Mapping[str, Any], of_all: bool) -> Any:
        one = []
        for s in range(keys):
            seen = np.zeros((1, 1, 1, keys), np.bool_)
            seen[..., s] = True
            one.append(
                ours({**b, "v": units, "mask": seen}, {x: y for x, y in parameters.items() if of_all or x != "causal"})
            )
        return np.stack([found["lse"] for found in one], axis=-1)

    bare = {name: a[name] for name in ("q", "k")}
    return {
        "scaled": scores(bare, {x: y for x, y in p.items() if x != "softcap"}, of_all=False),
        "capped": scores(bare, p, of_all=False),
        "biased": scores({x: y for x, y in a.items() if x != "v"}, p, of_all=True),
        "weights": ours({**a, "v": units}, p)["out"],
    }


def _sizes() -> tuple[Recipe, ...]:
    def model(name: str, comment: str, **parameters: int) -> Recipe:
        return Recipe(
            name=f"dense/cache-size/{name}",
            row="caches/contiguous",
            operation="cache_bytes",
            comment=comment,
            inputs={"tokens": np.array([1, 3, 7])},
            parameters=parameters,
            formula=_bytes,
            ours=_ours_bytes,
            flags=(CACHE_SIZE,),
            mistakes={
                "hidden / heads taken for the head's width": _bytes_by_division,
                "query heads counted": lambda n, a, p: _bytes(n, a, {**p, "kv_heads": p["heads"]}),
            },
        )

    return (
        model(
            "width-apart",
            "Heads of 128 features where hidden / heads is 80, as in Qwen3-4B: 36 layers, 8 of 32 heads cached.",
            layers=36,
            hidden=2560,
            heads=32,
            kv_heads=8,
            width=128,
            value_width=128,
            itemsize=2,
        ),
        model(
            "value-width-apart",
            "Keys of 192 features and values of 128, as where latent attention is cached expanded; 2 of its layers.",
            layers=2,
            hidden=4096,
            heads=32,
            kv_heads=16,
            width=192,
            value_width=128,
            itemsize=4,
        ),
        model(
            "multi-query",
            "One key/value head for sixteen query heads; 3 layers.",
            layers=3,
            hidden=2048,
            heads=16,
            kv_heads=1,
            width=256,
            value_width=256,
            itemsize=4,
        ),
        Recipe(
            name="dense/cache-size/latent",
            row="variants/compressed/latent",
            operation="latent_cache_bytes",
            comment="A latent of 512 numbers and 64 turned ones for each token, once for all heads; 3 layers.",
            inputs={"tokens": np.array([1, 3, 7])},
            parameters={
                "layers": 3,
                "heads": 16,
                "width": 192,
                "value_width": 128,
                "latent": 512,
                "turned": 64,
                "itemsize": 2,
            },
            formula=_latent_bytes,
            ours=_ours_latent_bytes,
            flags=(CACHE_SIZE,),
            mistakes={
                "keys and values of every head counted": lambda n, a, p: _bytes(n, a, {**p, "kv_heads": p["heads"]}),
                "the turned part left out": lambda n, a, p: _latent_bytes(n, a, {**p, "turned": 0}),
                "the latent counted as key and as value": lambda n, a, p: _latent_bytes(
                    n, a, {**p, "turned": p["latent"]}
                ),
            },
        ),
    )


def _bytes(_: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    token = p["layers"] * p["kv_heads"] * (p["width"] + p["value_width"]) * p["itemsize"]
    return {"bytes": [token * tokens for tokens in a["tokens"]]}


def _bytes_by_division(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    width = p["hidden"] // p["heads"]
    return _bytes(n, a, {**p, "width": width, "value_width": width})


def _latent_bytes(_: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    token = p["layers"] * (p["latent"] + p["turned"]) * p["itemsize"]
    return {"bytes": [token * tokens for tokens in a["tokens"]]}


def _ours_latent_bytes(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    row, found = p["latent"] + p["turned"], []
    for tokens in a["tokens"].tolist():
        cache = Contiguous.start(latent(row, np.float16), room=tokens).append(
            [np.zeros((1, 1, tokens, row), np.float16)]
        )
        found.append(p["layers"] * (cache.nbytes - cache.padded))
    return {"bytes": np.array(found)}


def _ours_bytes(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    dtype = {2: np.float16, 4: np.float32}[p["itemsize"]]
    schema = key_value(p["kv_heads"], p["width"], p["value_width"], dtype)
    found = []
    for tokens in a["tokens"].tolist():
        rows = [np.zeros((1, p["kv_heads"], tokens, width), dtype) for width in (p["width"], p["value_width"])]
        cache = Contiguous.start(schema, room=tokens).append(rows)
        found.append(p["layers"] * (cache.nbytes - cache.padded))
    return {"bytes": np.array(found)}
