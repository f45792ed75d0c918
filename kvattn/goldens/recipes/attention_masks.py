"""Who may see whom: causal with both alignments, windows, prefixes, documents, padding, arrays, empty rows."""

from typing import Any

import numpy as np

from kvattn.goldens.recipe import Recipe
from kvattn.goldens.recipes._attention import EMPTY, as_if, case, tensors, without
from kvattn.goldens.recipes._incidents import (
    ALIGNMENT,
    BOUNDARY,
    EMPTY_ROW,
    MASK_POLARITY,
    ONNX_CAUSAL_PAST,
    ONNX_EXTERNAL_CACHE,
    WINDOW_BOUND,
)

TOP_LEFT = {"aligned to the top left": as_if(alignment="top_left")}
W_PLUS_ONE = {"W keys beside self": as_if(window_bound="distance")}
NO_WINDOW = {"no window": without("window")}


def recipes() -> tuple[Recipe, ...]:
    """Every recipe of this file.

    >>> len(recipes()) > 50
    True
    """
    return (*_causal(), *_windows(), *_prefixes(), *_documents(), *_padding(), *_arrays(), *_empty())


def _causal() -> tuple[Recipe, ...]:
    square, tall = tensors("square", queries=5), tensors("tall", queries=5, keys=3)
    row = "masks/causal"
    no_mask = {"no mask at all": without("causal")}
    strict = {"a query does not see its own key": as_if(window=99, causal=True, ahead=-1)}
    return (
        case(
            "causal/square",
            "As many queries as keys.",
            row=row,
            inputs=square,
            causal=True,
            mistakes={**no_mask, **strict},
        ),
        case("causal/square-all", "The same without the mask.", row=row, inputs=square, sibling="causal/square"),
        case(
            "causal/fewer-queries",
            "Three new queries over five keys: the last query stands at the last key.",
            row=row,
            flags=(ONNX_CAUSAL_PAST, ALIGNMENT),
            mistakes={**TOP_LEFT, **no_mask},
            sibling="grouped/plain",
            causal=True,
        ),
        case(
            "causal/fewer-queries-top-left",
            "The same, where the first query stands at the first key.",
            row="masks/anchors",
            flags=(ALIGNMENT,),
            sibling="causal/fewer-queries",
            causal=True,
            alignment="top_left",
        ),
        case(
            "causal/more-queries",
            "Five queries over three keys: the first two see nothing.",
            row=row,
            inputs=tall,
            flags=(ALIGNMENT, EMPTY_ROW, ONNX_EXTERNAL_CACHE),
            alternatives=EMPTY,
            mistakes=TOP_LEFT,
            causal=True,
        ),
        case(
            "causal/more-queries-top-left",
            "The same aligned to the top left: every query sees a key.",
            row="masks/anchors",
            inputs=tall,
            flags=(ALIGNMENT,),
            sibling="causal/more-queries",
            causal=True,
            alignment="top_left",
        ),
        case(
            "causal/one-query",
            "One new query sees the whole cache.",
            row=row,
            inputs=tensors("decode", queries=1),
            flags=(ONNX_CAUSAL_PAST, ALIGNMENT),
            mistakes=TOP_LEFT,
            causal=True,
        ),
        case(
            "causal/one-query-top-left",
            "The same aligned to the top left sees one key, which is hardly ever meant.",
            row="masks/anchors",
            inputs=tensors("decode", queries=1),
            flags=(ALIGNMENT,),
            sibling="causal/one-query",
            causal=True,
            alignment="top_left",
        ),
        case(
            "causal/positions-far",
            "Positions near 100,000: only differences matter to a mask.",
            row=row,
            others=_at([[100002, 100003, 100004]], [[100000, 100001, 100002, 100003, 100004]]),
            sibling="grouped/plain",
            causal=True,
        ),
        case(
            "causal/positions-with-gaps",
            "Keys were dropped in between; what is visible follows from positions, not from rows.",
            row=row,
            others=_at([[4, 9, 30]], [[0, 3, 9, 10, 31]]),
            sibling="causal/fewer-queries",
            causal=True,
        ),
        case(
            "causal/keys-out-of-order",
            "A ring buffer holds the newest keys first.",
            row=row,
            others=_at([[5, 6, 7]], [[5, 6, 7, 3, 4]]),
            sibling="causal/fewer-queries",
            causal=True,
            mistakes={"rows taken for positions": without("q_positions", "k_positions")},
        ),
        case(
            "causal/queries-out-of-order",
            "Queries in no order.",
            row=row,
            others=_at([[4, 1, 3]], [[0, 1, 2, 3, 4]]),
            sibling="causal/fewer-queries",
            causal=True,
            mistakes={"rows taken for positions": without("q_positions", "k_positions")},
        ),
        case(
            "causal/chunked-prefill",
            "A chunk of four tokens of two prompts, at different places of a cache kept outside.",
            row=row,
            inputs={
                **tensors("chunk", batch=2, heads=6, kv_heads=3, queries=4, keys=7, width=5, value_width=8),
                **_at([[3, 4, 5, 6], [0, 1, 2, 3]], [[0, 1, 2, 3, 4, 5, 6]] * 2),
                "lengths": np.array([7, 4]),
            },
            flags=(ONNX_EXTERNAL_CACHE, ALIGNMENT),
            mistakes={
                "aligned to the top left": as_if(without("q_positions"), alignment="top_left"),
                "aligned to the end of the buffer": without("q_positions"),
            },
            causal=True,
        ),
        case(
            "causal/decode-of-a-batch",
            "One token each of two prompts of different lengths in one buffer.",
            row=row,
            inputs={
                **tensors("step", batch=2, heads=4, kv_heads=1, queries=1, keys=7, width=5, value_width=3),
                **_at([[6], [2]], [[0, 1, 2, 3, 4, 5, 6]] * 2),
                "lengths": np.array([7, 3]),
            },
            flags=(ONNX_EXTERNAL_CACHE,),
            mistakes={"rows behind a sequence's end are seen": without("lengths", "causal")},
            causal=True,
        ),
    )


def _windows() -> tuple[Recipe, ...]:
    square, row = tensors("square", queries=5), "masks/window"
    return (
        *(
            case(
                f"window/keys-{size}",
                f"{size} visible keys at most, self included.",
                row=row,
                inputs=square,
                flags=(WINDOW_BOUND, *((BOUNDARY,) if size in {1, 4} else ())),
                mistakes=W_PLUS_ONE,
                sibling="causal/square",
                causal=True,
                window=size,
            )
            for size in (1, 2, 3, 4)
        ),
        case(
            "window/distance-2",
            "A window that counts two keys beside self.",
            row=row,
            inputs=square,
            flags=(WINDOW_BOUND,),
            mistakes={"W keys, self included": as_if(window_bound="keys")},
            sibling="window/keys-2",
            causal=True,
            window=2,
            window_bound="distance",
        ),
        case(
            "window/whole",
            "A window as long as the sequence hides nothing.",
            row=row,
            inputs=square,
            causal=True,
            window=5,
        ),
        case("window/longer", "A window longer than the sequence.", row=row, inputs=square, causal=True, window=6),
        case(
            "window/both-sides",
            "Two keys back and one ahead, as encoders do.",
            row=row,
            inputs=square,
            mistakes={"a causal window": as_if(causal=True)},
            sibling="causal/square-all",
            window=3,
            ahead=1,
        ),
        case(
            "window/ahead-only",
            "Self and two keys ahead.",
            row=row,
            inputs=square,
            sibling="window/both-sides",
            window=1,
            ahead=2,
        ),
        case(
            "window/fewer-queries",
            "Three new queries over five keys; the oldest key is out of reach of two.",
            row=row,
            flags=(WINDOW_BOUND, ALIGNMENT),
            mistakes={**W_PLUS_ONE, **NO_WINDOW, **TOP_LEFT},
            sibling="causal/fewer-queries",
            causal=True,
            window=3,
        ),
        case(
            "window/fewer-queries-top-left",
            "The same aligned to the top left.",
            row=row,
            flags=(ALIGNMENT,),
            sibling="window/fewer-queries",
            causal=True,
            window=3,
            alignment="top_left",
        ),
        case(
            "window/one-query",
            "One new query over a cache that is longer than the window.",
            row=row,
            inputs=tensors("decode", queries=1),
            flags=(WINDOW_BOUND,),
            mistakes={**W_PLUS_ONE, **NO_WINDOW},
            sibling="causal/one-query",
            causal=True,
            window=3,
        ),
        case(
            "window/positions-with-gaps",
            "A window is counted in positions, not in rows.",
            row=row,
            others=_at([[4, 9, 30]], [[0, 3, 9, 10, 29]]),
            mistakes={"rows taken for positions": without("q_positions", "k_positions")},
            sibling="window/fewer-queries",
            causal=True,
            window=3,
        ),
        case(
            "window/out-of-reach",
            "A query far ahead of all keys sees nothing.",
            row=row,
            others=_at([[4, 7, 90]], [[0, 1, 2, 3, 4]]),
            flags=(EMPTY_ROW,),
            alternatives=EMPTY,
            causal=True,
            window=3,
        ),
        case(
            "window/ring",
            "A ring of five rows holds positions 5 to 9, the newest written over the oldest.",
            row=row,
            others=_at([[7, 8, 9]], [[8, 9, 5, 6, 7]]),
            sibling="causal/keys-out-of-order",
            causal=True,
            window=3,
        ),
    )


def _prefixes() -> tuple[Recipe, ...]:
    square, row = tensors("square", queries=5), "masks/prefix"
    return (
        case(
            "prefix/two",
            "The first two tokens see each other; the others are causal.",
            row=row,
            inputs=square,
            mistakes={"the prefix is causal": without("prefix"), "a prefix of one more": as_if(prefix=3)},
            sibling="causal/square",
            causal=True,
            prefix=2,
        ),
        case("prefix/zero", "An empty prefix leaves the causal mask.", row=row, inputs=square, causal=True, prefix=0),
        case(
            "prefix/whole",
            "A prefix as long as the sequence hides nothing.",
            row=row,
            inputs=square,
            causal=True,
            prefix=5,
        ),
        case(
            "prefix/fewer-queries",
            "New queries behind a prefix of four: one of them is inside.",
            row=row,
            sibling="causal/fewer-queries",
            mistakes={"the prefix is causal": without("prefix")},
            causal=True,
            prefix=4,
        ),
        case(
            "prefix/window",
            "A window behind a prefix of one that stays visible.",
            row=row,
            inputs=square,
            mistakes={"the prefix leaves the window": without("prefix")},
            sibling="window/keys-2",
            causal=True,
            window=2,
            prefix=1,
        ),
    )


def _documents() -> tuple[Recipe, ...]:
    square, row = tensors("square", queries=5), "masks/document"
    flat = {"documents are ignored": without("documents")}

    def ids(*numbers: int) -> dict[str, Any]:
        return {"documents": np.array([numbers])}

    return (
        case(
            "document/packed",
            "Two documents in one row, causal inside each.",
            row=row,
            inputs={**square, **ids(0, 0, 1, 1, 1)},
            mistakes=flat,
            sibling="causal/square",
            causal=True,
        ),
        case(
            "document/both-ways",
            "Two documents, each seen whole by its own tokens.",
            row=row,
            inputs={**square, **ids(0, 0, 1, 1, 1)},
            mistakes=flat,
            sibling="document/packed",
        ),
        case(
            "document/interleaved",
            "Tokens of a document need not stand together.",
            row=row,
            inputs={**square, **ids(0, 1, 0, 1, 0)},
            mistakes=flat,
            sibling="document/packed",
            causal=True,
        ),
        case(
            "document/each-alone",
            "Every token is a document: each sees itself.",
            row=row,
            inputs={**square, **ids(3, 1, 4, 0, 5)},
            flags=(BOUNDARY,),
            sibling="document/packed",
            causal=True,
        ),
        case(
            "document/none",
            "A token of no document sees nothing and is seen by nothing.",
            row=row,
            inputs={**square, **ids(0, 0, -1, 1, -1)},
            flags=(EMPTY_ROW,),
            alternatives=EMPTY,
            causal=True,
        ),
        case(
            "document/new-queries",
            "Three new queries, the first of them in the old document.",
            row=row,
            others=ids(0, 0, 0, 1, 1),
            mistakes=flat,
            sibling="causal/fewer-queries",
            causal=True,
        ),
        case(
            "document/batch",
            "Sequences of a batch are cut differently.",
            row=row,
            inputs={
                **tensors("cut", batch=2, heads=3, kv_heads=1, queries=5, keys=5, width=4, value_width=6),
                "documents": np.array([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]),
            },
            mistakes=flat,
            causal=True,
        ),
    )


def _padding() -> tuple[Recipe, ...]:
    pair = tensors("pair", batch=2, heads=4, kv_heads=1, queries=3, keys=5, width=6, value_width=7)
    row = "masks/padding"
    return (
        case("padding/none", "A batch of two without padding.", row=row, inputs=pair),
        case(
            "padding/right",
            "The second sequence has three real keys.",
            row=row,
            inputs={**pair, "lengths": np.array([5, 3])},
            mistakes={"padding is seen": without("lengths")},
            sibling="padding/none",
        ),
        case(
            "padding/left",
            "The second sequence begins at its third key.",
            row=row,
            inputs={**pair, "starts": np.array([0, 2])},
            mistakes={"padding is seen": without("starts")},
            sibling="padding/none",
        ),
        case(
            "padding/left-causal",
            "Left padding under a causal mask.",
            row=row,
            inputs={**pair, "starts": np.array([0, 2])},
            mistakes={"padding is seen": without("starts")},
            sibling="padding/left",
            causal=True,
        ),
        case(
            "padding/right-causal",
            "Right padding under a causal mask, each sequence aligned to its own end.",
            row=row,
            inputs={
                **pair,
                **_at([[2, 3, 4], [0, 1, 2]], [[0, 1, 2, 3, 4]] * 2),
                "lengths": np.array([5, 3]),
            },
            flags=(ONNX_EXTERNAL_CACHE,),
            mistakes={"aligned to the end of the buffer": without("q_positions")},
            sibling="padding/right",
            causal=True,
        ),
        case(
            "padding/both",
            "Pads on either side.",
            row=row,
            inputs={**pair, "starts": np.array([1, 2]), "lengths": np.array([4, 3])},
            sibling="padding/left",
        ),
        case(
            "padding/empty-sequence",
            "The second sequence has no real key.",
            row=row,
            inputs={**pair, "lengths": np.array([5, 0])},
            flags=(EMPTY_ROW, BOUNDARY),
            alternatives=EMPTY,
        ),
    )


def _arrays() -> tuple[Recipe, ...]:
    row, seen = "masks/explicit", np.array([[1, 0, 1, 1, 0], [0, 0, 1, 0, 1], [1, 1, 0, 0, 0]], np.bool_)
    heads = np.stack([seen, ~seen, np.roll(seen, 1, 0), np.roll(seen, 2, 1)])[None]
    turned = {"True means hidden": as_if(inverted=True)}
    inverted = {"True means visible": as_if(inverted=False)}
    return (
        case(
            "array/shared",
            "One boolean array for all heads.",
            row=row,
            others={"mask": seen[None, None]},
            flags=(MASK_POLARITY,),
            mistakes=turned,
            sibling="grouped/plain",
        ),
        case(
            "array/inverted",
            "The same array where True means hidden.",
            row=row,
            others={"mask": seen[None, None]},
            flags=(MASK_POLARITY,),
            mistakes=inverted,
            sibling="array/shared",
            inverted=True,
        ),
        case(
            "array/per-head", "An array for each query head.", row=row, others={"mask": heads}, sibling="array/shared"
        ),
        case(
            "array/per-sequence",
            "An array for each sequence.",
            row=row,
            inputs={
                **tensors("pair", batch=2, heads=4, kv_heads=1, queries=3, keys=5, width=6, value_width=7),
                "mask": np.stack([seen, ~seen])[:, None],
            },
            sibling="padding/none",
        ),
        case(
            "array/one-row",
            "One row for all queries, as a padding mask is given.",
            row=row,
            others={"mask": seen[None, None, :1]},
            sibling="array/shared",
        ),
        case(
            "array/causal",
            "A boolean array and causal together: both must agree.",
            row="masks/combine",
            others={"mask": seen[None, None]},
            mistakes={"the array alone": without("causal"), "causal alone": without("mask")},
            sibling="array/shared",
            causal=True,
        ),
        case(
            "array/causal-empty",
            "Composed with causal, the second query sees nothing: 0 times -inf must not come up.",
            row="masks/combine",
            others={"mask": np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 1], [1, 1, 0, 0, 0]], np.bool_)[None, None]},
            flags=(ONNX_EXTERNAL_CACHE, EMPTY_ROW),
            alternatives={"mean of all values": EMPTY["mean of all values"]},
            mistakes={"NaN from 0 times -inf": EMPTY["NaN"]},
            causal=True,
        ),
        case(
            "array/last-key-only",
            "Every query sees the last key alone.",
            row=row,
            others={"mask": np.array([[[[False] * 4 + [True]]]])},
            flags=(BOUNDARY,),
            sibling="grouped/plain",
        ),
        case(
            "array/anti-causal",
            "A query sees its own key and what comes later.",
            row=row,
            inputs={**tensors("square", queries=5), "mask": np.triu(np.ones((5, 5), np.bool_))[None, None]},
            sibling="causal/square",
        ),
        case(
            "array/strictly-causal",
            "A query does not see its own key; the first sees none.",
            row=row,
            inputs={**tensors("square", queries=5), "mask": np.tril(np.ones((5, 5), np.bool_), -1)[None, None]},
            flags=(EMPTY_ROW,),
            alternatives=EMPTY,
            sibling="causal/square",
        ),
    )


def _empty() -> tuple[Recipe, ...]:
    nothing = np.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], np.bool_)[None, None]
    return (
        case(
            "empty-row/one",
            "The second query sees nothing: 0 with lse -inf, or another convention.",
            row="masks/explicit",
            others={"mask": nothing},
            flags=(EMPTY_ROW,),
            alternatives=EMPTY,
            sibling="array/shared",
        ),
        case(
            "empty-row/all",
            "No query sees anything.",
            row="masks/explicit",
            others={"mask": np.zeros((1, 1, 1, 1), np.bool_)},
            flags=(EMPTY_ROW, BOUNDARY),
            alternatives=EMPTY,
        ),
        case(
            "empty-row/one-head",
            "One head sees nothing, the others everything.",
            row="masks/per_head",
            others={"mask": np.array([True, False, True, True]).reshape(1, 4, 1, 1)},
            flags=(EMPTY_ROW,),
            alternatives=EMPTY,
        ),
        case(
            "empty-row/sink",
            "A sink is all that the second query has: 0, and the sink's logit as lse, by every convention.",
            row="variants/sparse/sinks",
            others={"mask": nothing, "sinks": np.array([0.5, -1.0, 2.0, 0.0])},
            sibling="empty-row/one",
            mistakes={"the row is left out": without("sinks")},
        ),
        case(
            "empty-row/bias",
            "A bias of -inf everywhere empties a row too.",
            row="mods/bias",
            others={"bias": np.where(nothing, 0.0, -np.inf)},
            flags=(EMPTY_ROW,),
            alternatives=EMPTY,
            sibling="grouped/plain",
        ),
        case(
            "empty-row/large-bias",
            "A large negative bias on every key is no mask: the weights are those without it.",
            row="mods/bias",
            others={"bias": np.where(nothing, 0.0, -1024.0)},
            sibling="grouped/plain",
        ),
    )


def _at(q_positions: Any, k_positions: Any) -> dict[str, Any]:
    return {"q_positions": np.array(q_positions, ndmin=2), "k_positions": np.array(k_positions, ndmin=2)}
