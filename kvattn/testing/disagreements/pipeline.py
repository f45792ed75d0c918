"""Questions about the way from scores to weights: order, masks, empty rows, scale, heads, bases."""

import math

import numpy as np

from kvattn.masks import Causal
from kvattn.one_liners import attend
from kvattn.testing.disagreements.reading import Disagreement, Reading
from kvattn.typing import Array

ONE_HOT = np.eye(3)[None, None]
"""Values ``[1, 1, 3, 3]``: what comes out are the weights."""


def scores(*rows: tuple[float, ...]) -> tuple[Array, Array]:
    """Queries and keys whose products, at scale 1, are the given rows.

    >>> q, k = scores((1.0, 2.0, 3.0))
    >>> (q @ k.swapaxes(-1, -2))[0, 0]
    array([[1., 2., 3.]])
    """
    return np.array(rows)[None, None], np.eye(len(rows[0]))[None, None]


def softcap_and_mask() -> Disagreement:
    """A capped -∞ is a score like others.

    >>> [reading.result.round(3).tolist() for reading in softcap_and_mask().readings]
    [[[0.5, 0.5, 0.0]], [[0.468, 0.468, 0.063]]]
    """
    (q, k), cap = scores((0.0, 0.0, 9.0)), 2.0
    seen = np.array([[True, True, False]])
    ours = attend(q, k, ONE_HOT, scale=1.0, softcap=cap, mask=seen).out
    leak = math.exp(-cap)
    theirs = np.array([[1.0, 1.0, leak]]) / (2.0 + leak)
    return Disagreement(
        "Is a score masked after it is capped, or before?",
        "mods/softcap",
        {"q": q, "k": k, "v": ONE_HOT, "scale": 1.0, "softcap": cap, "mask": seen},
        (
            Reading("after: a masked key has no weight", ("onnx >= 1.22", "transformers gemma2"), ours[0, 0]),
            Reading("before: a masked key has the weight of the lowest score", ("onnx <= 1.21",), theirs),
        ),
    )


def causal_corner() -> Disagreement:
    """Two queries, three keys, and no positions.

    >>> [reading.result.round(2).tolist() for reading in causal_corner().readings]
    [[[0.5, 0.5, 0.0], [0.33, 0.33, 0.33]], [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]]
    """
    q, k = scores((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    last, first = (attend(q, k, ONE_HOT, mask=Causal(), q_positions=at).out[0, 0] for at in ([1, 2], [0, 1]))
    return Disagreement(
        "With fewer queries than keys, which corner does the causal mask hang in?",
        "masks/causal",
        {"q": q, "k": k, "v": ONE_HOT},
        (
            Reading("bottom right: the last query sees all keys", ("flash-attn >= 2.1",), last),
            Reading(
                "top left: the first query sees the first key", ("torch is_causal", "jax", "onnx without a past"), first
            ),
        ),
    )


def empty_row() -> Disagreement:
    """A query that sees nothing.

    >>> [reading.result.round(2).tolist() for reading in empty_row().readings]
    [[[0.0, 0.0, 0.0]], [[0.33, 0.33, 0.33]], [[nan, nan, nan]]]
    """
    q, k = scores((1.0, 2.0, 3.0))
    seen = np.zeros((1, 3), np.bool_)
    ours = attend(q, k, ONE_HOT, mask=seen).out[0, 0]
    return Disagreement(
        "What comes out for a query that sees no key?",
        "core/streaming",
        {"q": q, "k": k, "v": ONE_HOT, "mask": seen},
        (
            Reading("zero", ("torch >= 2.5", "onnx >= 1.23"), ours),
            Reading("the mean of all values", ("jax", "transformers eager"), np.full((1, 3), 1 / 3)),
            Reading("not a number", ("torch.nn.MultiheadAttention with need_weights",), np.full((1, 3), np.nan)),
        ),
    )


def mask_polarity() -> Disagreement:
    """One True in three.

    >>> [reading.result.tolist() for reading in mask_polarity().readings]
    [[[0.0, 1.0, 0.0]], [[0.5, 0.0, 0.5]]]
    """
    q, k = scores((0.0, 0.0, 0.0))
    mask = np.array([[False, True, False]])
    seen, blocked = (attend(q, k, ONE_HOT, mask=one).out[0, 0] for one in (mask, ~mask))
    return Disagreement(
        "Does True in a boolean mask mean that the query may see the key, or that it may not?",
        "masks/explicit",
        {"q": q, "k": k, "v": ONE_HOT, "mask": mask},
        (
            Reading("it may", ("torch scaled_dot_product_attention", "jax", "onnx", "keras"), seen),
            Reading("it may not", ("torch.nn.MultiheadAttention",), blocked),
        ),
    )


def head_map() -> Disagreement:
    """Four query heads, two key/value heads; the value tells which one was read.

    >>> [reading.result.tolist() for reading in head_map().readings]
    [[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    """
    q, k = np.zeros((1, 4, 1, 1)), np.zeros((1, 2, 1, 1))
    v = np.arange(2.0).reshape(1, 2, 1, 1)
    ours = attend(q, k, v).out.ravel()
    tiled = attend(q, np.tile(k, (1, 2, 1, 1)), np.tile(v, (1, 2, 1, 1))).out.ravel()
    return Disagreement(
        "Which key/value head does query head h read, of groups of G?",
        "variants/dense/grouped",
        {"q": q, "k": k, "v": v},
        (
            Reading("h // G", ("torch enable_gqa", "jax", "onnx >= 1.19", "transformers"), ours),
            Reading("h % Hkv", ("onnx 1.18", "x-transformers"), tiled),
        ),
    )


def scale() -> Disagreement:
    """Sixteen features: 1/4, 1 or 1/16.

    >>> [reading.result.round(3).tolist() for reading in scale().readings]
    [[[0.731, 0.269]], [[0.982, 0.018]], [[0.562, 0.438]]]
    """
    q, k, v = np.zeros((1, 1, 1, 16)), np.zeros((1, 1, 2, 16)), np.eye(2)[None, None]
    q[..., 0], k[0, 0, 0, 0] = 2.0, 2.0
    root, one, whole = (attend(q, k, v, scale=by).out[0, 0] for by in (None, 1.0, 1 / 16))
    return Disagreement(
        "What are scores multiplied by?",
        "core/definition",
        {"q": q, "k": k, "v": v},
        (
            Reading("1/sqrt(D)", ("nearly all",), root),
            Reading("1", ("T5", "GPT-Neo", "Gemma-4"), one),
            Reading("1/D", ("Inkling",), whole),
        ),
    )


def log_base() -> Disagreement:
    """Two keys of score 0: ln 2 or 1.

    >>> [reading.result.round(3).tolist() for reading in log_base().readings]
    [[0.693], [1.0]]
    """
    q, k = np.zeros((1, 1, 1, 1)), np.zeros((1, 1, 2, 1))
    ours = attend(q, k, np.zeros((1, 1, 2, 1))).lse[0, 0]
    return Disagreement(
        "In which base is the log-sum-exp?",
        "core/merge",
        {"q": q, "k": k},
        (
            Reading("e", ("flash-attn", "jax", "torch flex_attention"), ours),
            Reading("2", ("FlashInfer",), ours / math.log(2.0)),
        ),
    )
