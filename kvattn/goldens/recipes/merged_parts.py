"""Partial results joined by their log-sum-exps: in either base, with empty parts, and whole attention in parts.

    lse = ln Σ_p e^(lse_p),      out = Σ_p e^(lse_p - lse) out_p

Operation ``merge``: inputs ``out [P, ..., Dv]`` and ``lse [P, ...]`` of P parts; ``base`` "e" or "2", in and out.
Operation ``attention_in_parts``: inputs of ``attention``, ``cuts`` of the keys and the ``base`` of the parts; outputs
are those of all keys together.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from kvattn.core.merge import base2_from_natural, merge, natural_from_base2
from kvattn.goldens.formulas import softmax
from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Formula, Recipe, Values, drawn
from kvattn.goldens.recipes import _attention
from kvattn.goldens.recipes._attention import attention, tensors
from kvattn.goldens.recipes._incidents import LSE_BASE, STATE_LAYOUT
from kvattn.typing import Attended


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 15
    True
    """
    two = {"out": drawn("outs", 2, 3, 5, 7), "lse": drawn("lses", 2, 3, 5)}
    empty = {"out": two["out"].copy(), "lse": two["lse"].copy()}
    empty["out"][1, :, :2], empty["lse"][1, :, :2] = 0.0, -np.inf
    odd = {"out": empty["out"].copy(), "lse": empty["lse"]}
    odd["out"][1, :, :2] = np.nan
    square = {"out": drawn("square outs", 2, 4, 4, 3), "lse": drawn("square lses", 2, 4, 4)}
    far = np.stack([two["lse"][0], two["lse"][1] - 1000.0])
    plain = _even_parts
    return (
        _merge("two-parts", "Two parts of three heads and five rows.", two, mistakes={"the mean of the parts": plain}),
        _merge(
            "base-2",
            "The same numbers, where the log-sum-exps are to base 2.",
            two,
            flags=(LSE_BASE,),
            mistakes={"read as natural": _as_if(base="e")},
            sibling="two-parts",
            base="2",
        ),
        _merge(
            "base-e",
            "Natural log-sum-exps that would be read as base 2.",
            {"out": drawn("outs e", 2, 3, 5, 7), "lse": drawn("lses e", 2, 3, 5, limit=8.0)},
            flags=(LSE_BASE,),
            mistakes={"read as base 2": _as_if(base="2")},
        ),
        _merge("three-parts", "Three parts.", {"out": drawn("outs 3", 3, 2, 4, 5), "lse": drawn("lses 3", 3, 2, 4)}),
        _merge("seven-parts", "Seven parts.", {"out": drawn("outs 7", 7, 2, 3, 4), "lse": drawn("lses 7", 7, 2, 3)}),
        _merge("one-part", "One part is itself.", {"out": two["out"][:1], "lse": two["lse"][:1]}),
        _merge(
            "empty-part",
            "Two rows of the second part saw nothing: (0, -inf) is the identity.",
            empty,
            sibling="two-parts",
        ),
        _merge("empty-part-not-a-number", "The same, where those rows hold NaN.", odd),
        _merge(
            "all-empty",
            "Both parts saw nothing: 0 and -inf.",
            {"out": np.zeros((2, 3, 5, 7)), "lse": np.full((2, 3, 5), -np.inf)},
        ),
        _merge(
            "base-2-empty",
            "An empty part to base 2.",
            empty,
            flags=(LSE_BASE,),
            mistakes={"read as natural": _as_if(base="e")},
            sibling="empty-part",
            base="2",
        ),
        _merge("far-apart", "A part that weighs e^-1000.", {"out": two["out"], "lse": far}, sibling="two-parts"),
        _merge(
            "large",
            "Log-sum-exps near 800: exponentials taken without a maximum overflow.",
            {"out": two["out"], "lse": two["lse"] + 800.0},
        ),
        _merge(
            "equal",
            "Parts of equal weight: the mean.",
            {"out": two["out"], "lse": np.zeros((2, 3, 5))},
            sibling="two-parts",
        ),
        _merge(
            "heads-and-tokens",
            "Four heads and four tokens: lse [heads, tokens] must not be read as [tokens, heads].",
            square,
            flags=(STATE_LAYOUT,),
            mistakes={"log-sum-exps transposed": _transposed},
        ),
        *_in_parts(),
    )


def _merge(
    name: str,
    comment: str,
    inputs: Mapping[str, Any],
    *,
    flags: tuple[Flag, ...] = (),
    mistakes: Mapping[str, Formula] | None = None,
    sibling: str | None = None,
    **parameters: Any,
) -> Recipe:
    return Recipe(
        name=f"dense/merge/{name}",
        row="execution/split",
        operation="merge",
        comment=comment,
        inputs=inputs,
        parameters=parameters,
        formula=_merged,
        ours=_ours,
        flags=flags,
        mistakes=mistakes or {},
        sibling=sibling and f"dense/merge/{sibling}",
    )


def _merged(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    two = n.log(n(2))
    unit = two if p.get("base", "e") == "2" else n(1)
    rows = [
        [(out[h][t], lse[h][t]) for out, lse in zip(a["out"], a["lse"], strict=True)] for h, t in _rows(a["lse"][0])
    ]
    found = [_row(n, row, unit) for row in rows]
    shape = len(a["lse"][0]), len(a["lse"][0][0])
    return {
        name: [[found[h * shape[1] + t][place] for t in range(shape[1])] for h in range(shape[0])]
        for place, name in enumerate(("out", "lse"))
    }


def _rows(lse: Any) -> list[tuple[int, int]]:
    return [(h, t) for h in range(len(lse)) for t in range(len(lse[0]))]


def _row(n: Numbers, parts: Any, unit: Any) -> tuple[Any, Any]:
    held = [(out, lse * unit) for out, lse in parts if not isinstance(lse, float)]
    weights, total = softmax(n, [lse for _, lse in held])
    width = len(parts[0][0])
    out = [n.sum(w * row[d] for w, (row, _) in zip(weights, held, strict=True)) for d in range(width)]
    return out if held else [0.0] * width, total if isinstance(total, float) else total / unit


def _as_if(**changed: Any) -> Formula:
    return _attention.as_if(_merged, **changed)


def _even_parts(n: Numbers, a: Values, _: Mapping[str, Any]) -> Values:
    """The plain mean of the parts."""
    first, *others = a["out"]

    def mean(h: int, t: int, d: int) -> Any:
        return n.sum([first[h][t][d], *(out[h][t][d] for out in others)]) / len(a["out"])

    return {"out": [[[mean(h, t, d) for d in range(len(row))] for t, row in enumerate(x)] for h, x in enumerate(first)]}


def _transposed(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    return _merged(n, {"out": a["out"], "lse": [[list(row) for row in zip(*lse, strict=True)] for lse in a["lse"]]}, p)


def _ours(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    base2 = p.get("base", "e") == "2"
    parts = [Attended(o, natural_from_base2(x) if base2 else x) for o, x in zip(a["out"], a["lse"], strict=True)]
    whole = merge(*parts)
    return {"out": whole.out, "lse": base2_from_natural(whole.lse) if base2 else whole.lse}


def _in_parts() -> tuple[Recipe, ...]:
    wrong: dict[str, Formula] = {
        "the parts' log-sum-exps read in the other base": _base_mixed_up,
        "parts added without weights": _parts_added,
    }

    def case(name: str, comment: str, cuts: list[int], **others: Any) -> Recipe:
        sinks, parameters = others.pop("sinks", None), others
        return Recipe(
            name=f"dense/parts/{name}",
            row="execution/split",
            operation="attention_in_parts",
            comment=comment,
            inputs={**tensors(), **({} if sinks is None else {"sinks": sinks})},
            parameters={"cuts": cuts, **parameters},
            formula=lambda n, a, p: attention(n, a, {x: y for x, y in p.items() if x not in {"cuts", "base"}}),
            ours=_ours_in_parts,
            flags=(LSE_BASE,),
            mistakes=wrong if sinks is None else {**wrong, "the sink in every part": _sink_everywhere},
        )

    return (
        case("two", "Keys 0 to 1 and 2 to 4 apart, then joined: the same as all at once.", [0, 2, 5]),
        case("each-key", "Every key a part of its own.", [0, 1, 2, 3, 4, 5]),
        case("with-an-empty-part", "A part without keys.", [0, 2, 2, 5]),
        case(
            "chunked-prefix",
            "A causal chunk over a cached prefix: parts in which some rows see nothing.",
            [0, 3, 4, 5],
            causal=True,
        ),
        case("window", "Parts that lie outside the window of some rows.", [0, 2, 4, 5], causal=True, window=2),
        case("sinks", "The sink belongs in one part only.", [0, 2, 5], sinks=np.array([0.5, -1.25, 2.0, 0.125])),
        case("softcap", "Capped scores in parts.", [0, 3, 5], softcap=1.5),
    )


def _pieces(n: Numbers, a: Values, p: Mapping[str, Any], sinks: str = "first") -> list[Values]:
    """Attention over each part, at the places that the keys have in the whole."""
    cuts = p["cuts"]
    found: list[Values] = []
    plain = {x: y for x, y in p.items() if x not in {"cuts", "base"}}
    at_q, _ = _attention.places(a, p)
    for first, last in pairwise(cuts):
        part = {
            **a,
            "k": [[head[first:last] for head in heads] for heads in a["k"]],
            "v": [[head[first:last] for head in heads] for heads in a["v"]],
            "q_positions": at_q,
            "k_positions": [list(range(first, last))],
        }
        if sinks == "first" and first != 0:
            part.pop("sinks", None)
        found.append(attention(n, part, {**plain, "value_width": len(a["v"][0][0][0])}))
    return found


def _joined(n: Numbers, parts: list[Values], unit: Any) -> Values:
    each = [{"out": part["out"][0], "lse": part["lse"][0]} for part in parts]
    rows = {(h, t): [(x["out"][h][t], x["lse"][h][t]) for x in each] for h, t in _rows(each[0]["lse"])}
    found = {place: _row(n, row, unit) for place, row in rows.items()}
    heads, length = len(each[0]["lse"]), len(each[0]["lse"][0])
    return {
        name: [[[found[h, t][number] for t in range(length)] for h in range(heads)]]
        for number, name in enumerate(("out", "lse"))
    }


def _base_mixed_up(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    return _joined(n, _pieces(n, a, p), 1 / n.log(n(2)))


def _sink_everywhere(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    return _joined(n, _pieces(n, a, p, sinks="every"), n(1))


def _parts_added(n: Numbers, a: Values, p: Mapping[str, Any]) -> Values:
    parts = [part["out"][0] for part in _pieces(n, a, p)]

    def added(h: int, t: int, d: int) -> Any:
        terms = [out[h][t][d] for out in parts]
        return n.sum(term for term in terms if not isinstance(term, float))

    return {"out": [[[[added(h, t, d) for d in range(7)] for t in range(3)] for h in range(4)]]}


def _ours_in_parts(a: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    plain = {x: y for x, y in p.items() if x not in {"cuts", "base"}}
    length, held = a["q"].shape[2], a["k"].shape[2]
    parts = []
    for first, last in pairwise(p["cuts"]):
        part = {
            **a,
            "k": a["k"][:, :, first:last],
            "v": a["v"][:, :, first:last],
            "q_positions": np.arange(held - length, held)[None],
            "k_positions": np.arange(first, last)[None],
        }
        if first:
            part.pop("sinks", None)
        parts.append(Attended(**_attention.ours(part, plain)))
    return merge(*parts)._asdict()
