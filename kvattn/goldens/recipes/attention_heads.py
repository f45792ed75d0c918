"""Heads and sizes: who reads whose keys, the smallest and the oddest shapes, calls that must be refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvattn.goldens.recipe import Recipe, Values, drawn
from kvattn.goldens.recipes._attention import EMPTY, as_if, case, ours, tensors
from kvattn.goldens.recipes._incidents import BAD_ARGUMENT, BOUNDARY, ONNX_TILE


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 20
    True
    """
    tile = {"key/value heads tiled": as_if(head_map="tile")}
    one = {"batch": 1, "heads": 1, "kv_heads": 1}
    return (
        case("grouped/plain", "Four query heads share two key/value heads; the sibling of most other cases."),
        case(
            "grouped/multi-head",
            "Every query head has a key/value head of its own.",
            inputs=tensors("multi-head", heads=3, kv_heads=3, queries=2, keys=4),
        ),
        case(
            "grouped/multi-query",
            "All query heads read the one key/value head.",
            inputs=tensors("multi-query", heads=3, kv_heads=1, queries=2, keys=4),
        ),
        case(
            "grouped/group-of-three",
            "Query heads 0, 1 and 2 read key/value head 0, the next three head 1.",
            inputs=tensors("three", heads=6, kv_heads=2, queries=3, keys=4, width=5),
            flags=(ONNX_TILE,),
            mistakes=tile,
        ),
        case(
            "grouped/group-of-seven",
            "Fourteen query heads over two: a group size that is no power of two.",
            inputs=tensors("seven", heads=14, kv_heads=2, queries=1, keys=4, width=3, value_width=5),
            flags=(ONNX_TILE,),
            mistakes=tile,
        ),
        case(
            "grouped/heads-apart",
            "Values of the two key/value heads share no feature, so the output names the head that was read.",
            inputs={**tensors(), "v": _apart()},
            flags=(ONNX_TILE,),
            mistakes=tile,
            sibling="grouped/plain",
        ),
        case(
            "grouped/heads-tiled",
            "The same, where query head h reads key/value head h % Hkv, as a tile of the heads does.",
            inputs={**tensors(), "v": _apart()},
            flags=(ONNX_TILE,),
            mistakes={"key/value heads repeated": as_if(head_map="grouped")},
            sibling="grouped/heads-apart",
            head_map="tile",
        ),
        case(
            "grouped/batch-of-two",
            "Two sequences that must not see each other.",
            inputs=tensors("batch", batch=2, heads=6, kv_heads=3, queries=4, keys=5, width=7, value_width=8),
        ),
        case("grouped/one-query", "A single query, as in decoding.", inputs=tensors("decode", queries=1)),
        case("grouped/one-key", "A single key: the output is its value.", inputs=tensors("one key", keys=1)),
        case(
            "grouped/two-keys",
            "Two keys.",
            inputs=tensors("two keys", kv_heads=1, queries=5, keys=2),
            flags=(BOUNDARY,),
        ),
        case(
            "grouped/more-queries",
            "More queries than keys, without a mask.",
            inputs=tensors("more", queries=5, keys=3),
            flags=(BOUNDARY,),
        ),
        case(
            "grouped/width-one", "D = 1: a score is one product.", inputs=tensors("narrow", width=1), flags=(BOUNDARY,)
        ),
        case("grouped/value-width-one", "Dv = 1.", inputs=tensors("thin", value_width=1), flags=(BOUNDARY,)),
        case(
            "grouped/wide-values",
            "Dv is larger than D.",
            inputs=tensors("wide values", width=6, value_width=11),
            flags=(BOUNDARY,),
        ),
        case(
            "grouped/narrow-values",
            "Dv is smaller than D, as where latent attention is expanded.",
            inputs=tensors("narrow values", width=11, value_width=7),
            flags=(BOUNDARY,),
        ),
        case("grouped/no-query", "No query: nothing comes out.", inputs=tensors("none", queries=0), flags=(BOUNDARY,)),
        case(
            "grouped/no-key",
            "No key: 0 with lse -inf, and no error.",
            inputs=tensors("no key", keys=0),
            flags=(BOUNDARY,),
            alternatives={"NaN": EMPTY["NaN"]},
            value_width=7,
        ),
        *(
            case(
                f"grouped/keys-{keys}",
                f"{keys} keys: around a block of 64 or 256.",
                inputs=tensors(f"{keys} keys", **one, queries=2, keys=keys, width=3, value_width=1),
                flags=(BOUNDARY,),
            )
            for keys in (63, 64, 65, 255, 256, 257)
        ),
        *(
            case(
                f"grouped/width-{width}",
                f"D = {width}: around a vector register or a head's usual width.",
                inputs=tensors(f"width {width}", **one, queries=2, keys=3, width=width, value_width=5),
                flags=(BOUNDARY,),
            )
            for width in (15, 16, 17, 64, 128)
        ),
        *(_refused(name, comment, changed) for name, comment, changed in _BAD),
    )


def _apart() -> Any:
    v = drawn("v of plain", 1, 2, 5, 7)
    v[0, 0, :, 4:] = 0.0
    v[0, 1, :, :4] = 0.0
    return v


_BAD: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("heads-do-not-divide", "Five query heads cannot share two key/value heads.", {"q": drawn("bad", 1, 5, 3, 6)}),
    ("widths-differ", "A query of six features meets keys of four.", {"k": drawn("bad", 1, 2, 5, 4)}),
    ("lengths-differ", "Five keys, four values.", {"v": drawn("bad", 1, 2, 4, 7)}),
    ("kv-heads-differ", "Two heads of keys, four of values.", {"v": drawn("bad", 1, 4, 5, 7)}),
    ("batches-differ", "One sequence of queries, two of keys.", {"k": drawn("bad", 2, 2, 5, 6)}),
    ("sinks-do-not-fit", "Two sinks for four query heads.", {"sinks": drawn("bad", 2)}),
    ("bias-does-not-fit", "A bias for four keys where there are five.", {"bias": drawn("bad", 1, 4, 3, 4)}),
    ("mask-does-not-fit", "A mask for two queries where there are three.", {"mask": np.ones((1, 1, 2, 5), np.bool_)}),
    ("sink-is-nan", "A sink that is no number.", {"sinks": np.array([0.5, np.nan, 1.0, 2.0])}),
)


def _refused(name: str, comment: str, changed: Mapping[str, Any]) -> Recipe:
    return Recipe(
        name=f"dense/refused/{name}",
        row="variants/dense/grouped",
        operation="attention",
        comment=comment,
        inputs={**tensors(), **changed},
        parameters={},
        formula=_nothing,
        ours=ours,
        flags=(BAD_ARGUMENT,),
        result="invalid",
    )


def _nothing(*_: Any) -> Values:
    return {}
