"""Questions about windows: where they end, and what their positions are."""

import numpy as np

from kvattn.masks import Window
from kvattn.one_liners import attend
from kvattn.positions.rotary import Rotary
from kvattn.testing.disagreements.reading import Disagreement, Reading
from kvattn.typing import Array, Mask

SIX = np.eye(6)[None, None]
"""Values ``[1, 1, 6, 6]``: what comes out are the weights."""

FLAT = np.zeros((1, 1, 6, 1))
"""Queries and keys that all score alike: a query's weight is one over the keys that it sees."""


def _seen(mask: Mask) -> Array:
    weights: Array = attend(FLAT, FLAT, SIX, mask=mask).out[0, 0]
    return weights


def window_end() -> Disagreement:
    """A window of 2 on six tokens: the last row.

    >>> [reading.result[-1].round(2).tolist() for reading in window_end().readings]
    [[0.0, 0.0, 0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.33, 0.33, 0.33]]
    """
    return Disagreement(
        "Does a window of W hold W keys, or the query and W keys before it?",
        "masks/window",
        {"q": FLAT, "k": FLAT, "v": SIX, "window": 2},
        (
            Reading("W keys, the query's own among them", ("transformers", "mlx-lm", "fla"), _seen(Window(2))),
            Reading("W keys before the query's own", ("flash-attn (left, right)", "jax", "onnx"), _seen(Window(3))),
        ),
    )


def window_sides() -> Disagreement:
    """A two-sided window of 4: the third row.

    >>> [reading.result[2].round(2).tolist() for reading in window_sides().readings]
    [[0.2, 0.2, 0.2, 0.2, 0.2, 0.0], [0.17, 0.17, 0.17, 0.17, 0.17, 0.17]]
    """
    return Disagreement(
        "Is a two-sided window of W wide W/2 or W on each side?",
        "masks/window",
        {"q": FLAT, "k": FLAT, "v": SIX, "window": 4},
        (
            Reading("W/2", ("Longformer", "LED", "ModernBERT"), _seen(Window(3, ahead=2))),
            Reading("W", ("jax local_window_size",), _seen(Window(5, ahead=4))),
        ),
    )


def sink_positions() -> Disagreement:
    """One sink, a window of 2, and a query at position 4 that turns with the distance.

    >>> [reading.result.round(3).tolist() for reading in sink_positions().readings]
    [[0.072, 0.402, 0.526], [0.183, 0.354, 0.463]]
    """
    turn, row = Rotary((0.75,)), np.array([[[[1.0, 0.0]]]])
    q = turn.rotate(row, np.array([4]))
    kept = turn.rotate(np.repeat(row, 3, axis=2), np.array([0, 3, 4]))
    closed_up = turn.rotate(np.repeat(row, 3, axis=2), np.array([2, 3, 4]))
    values = np.eye(3)[None, None]
    results = [attend(q, k, values, scale=1.0).out[0, 0, 0] for k in (kept, closed_up)]
    return Disagreement(
        "Beside a window, do attention sinks keep their positions, or close up to the window?",
        "variants/sparse/sinks",
        {"row": row, "frequency": 0.75, "query_position": 4, "kept_positions": np.array([0, 3, 4])},
        (
            Reading("they keep them", ("mlx-lm RotatingKVCache", "TensorRT-LLM"), results[0]),
            Reading("they close up: positions in the cache", ("StreamingLLM",), results[1]),
        ),
    )
