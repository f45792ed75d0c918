"""Checkpoints whose query and key rows were permuted, so that rotary pairs lie side by side.

    row h·D + 2j + s of the permuted matrix  =  row h·D + s·D/2 + j of the other,      j < D/2, s in {0, 1}

Turning pairs (2j, 2j + 1) of permuted rows gives the scores that turning pairs (j, j + D/2) of the others gives.
Operation ``permuted``: ``x [B, T, M]``, ``query [Hq·D, M]`` and ``key [Hkv·D, M]`` with rows as output features, as
checkpoints have them, ``v [B, Hkv, T, Dv]``; parameters ``heads``, ``kv_heads``, ``base``; causal.  Outputs
``query_permuted`` and ``key_permuted``, then ``out`` and ``lse`` of attention.

Source: llama.cpp's conversion of Llama checkpoints, ``permute`` in ``convert_hf_to_gguf.py``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.flag import Flag
from kvattn.goldens.formulas import attention
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Formula, Recipe, Values, drawn
from kvattn.goldens.recipes._loops import before, every_row, geometric, turn
from kvattn.masks import Causal
from kvattn.one_liners import attend
from kvattn.positions.rotary import Rotary

PERMUTED = Flag(
    "PermutedRows",
    "KNOWN_BUG",
    "Query and key rows of a GGUF file, which are permuted for adjacent pairs, are turned in halves, "
    "or rows that are not permuted are turned in adjacent pairs.",
    ("https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py",),
)


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> [recipe.name for recipe in recipes()]
    ['positions/permuted/grouped', 'positions/permuted/multi-head']
    """
    return (
        _recipe("grouped", "Rows of two query heads and one key head, permuted head by head.", heads=2, kv_heads=1),
        _recipe("multi-head", "Rows of three heads, each with a key of its own.", heads=3, kv_heads=3),
    )


def _recipe(name: str, comment: str, *, heads: int, kv_heads: int) -> Recipe:
    wrong: dict[str, Formula] = {
        "permuted rows turned in halves": _as_if(turned="half", of="permuted"),
        "unpermuted rows turned in adjacent pairs": _as_if(turned="adjacent", of="as they were"),
        "permuted as if all heads were one": _as_if(permuted_over=1),
    }
    return Recipe(
        name=f"positions/permuted/{name}",
        row="positions/rotary",
        operation="permuted",
        comment=comment,
        inputs={
            "x": drawn("hidden states", 1, 4, 5),
            "query": drawn(f"query rows of {name}", heads * 6, 5, limit=1.0),
            "key": drawn(f"key rows of {name}", kv_heads * 6, 5, limit=1.0),
            "v": drawn(f"values of {name}", 1, kv_heads, 4, 7),
        },
        parameters={"heads": heads, "kv_heads": kv_heads, "base": 10000.0},
        formula=_formula,
        ours=_ours,
        flags=(PERMUTED,),
        mistakes=wrong,
    )


def _as_if(**changed: Any) -> Formula:
    return lambda n, a, p: _formula(n, a, {**p, **changed})


def _permuted(rows: Any, heads: int) -> Any:
    width = len(rows) // heads
    return [rows[h * width + s * (width // 2) + j] for h in range(heads) for j in range(width // 2) for s in (0, 1)]


def _formula(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    permuted = {name: _permuted(a[name], p.get("permuted_over", p[count])) for name, count in _COUNTS.items()}
    used = permuted if p.get("of", "as they were") == "permuted" or "permuted_over" in p else a
    layout = "adjacent" if "permuted_over" in p else p.get("turned", "half")

    def turned(name: str) -> Any:
        heads = p[_COUNTS[name]]
        width = len(a[name]) // heads
        rows = [
            [[[_dot(n, w, x) for w in used[name][h * width : (h + 1) * width]] for x in tokens] for h in range(heads)]
            for tokens in a["x"]
        ]
        thetas = geometric(n, width, p["base"])
        return every_row(rows, lambda b, h, t, row: turn(n, row, [t * theta for theta in thetas], layout=layout))

    found = attention(n, turned("query"), turned("key"), a["v"], see=before)
    return {**{f"{name}_permuted": rows for name, rows in permuted.items()}, **found}


_COUNTS = {"query": "heads", "key": "kv_heads"}


def _dot(n: Numbers, row: Any, x: Any) -> Any:
    return n.sum(w * y for w, y in zip(row, x, strict=True))


def _ours(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    """Rows permuted as llama.cpp does it, and turned in adjacent pairs."""
    at = np.arange(a["x"].shape[1])[None]
    rotary = Rotary.of(6, base=p["base"], layout="adjacent")
    rows, turned = {}, {}
    for name, count in _COUNTS.items():
        heads = p[count]
        permuted = a[name].reshape(heads, 2, 3, 5).swapaxes(1, 2).reshape(a[name].shape)
        rows[f"{name}_permuted"] = permuted
        made = (a["x"] @ permuted.T).reshape(1, -1, heads, 6).swapaxes(1, 2)
        turned[name] = rotary.rotate(made, at[:, None])
    found = attend(turned["query"], turned["key"], a["v"], mask=Causal(), q_positions=at, k_positions=at)
    return {**rows, "out": found.out, "lse": found.lse}
