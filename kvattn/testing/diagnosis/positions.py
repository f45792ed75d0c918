"""Where queries and keys are said to stand: ``q_positions`` and ``k_positions``.

Method: `readings`, on keys that lie in another order than their positions, as in a ring, and on queries that
stand in the middle of them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.readings import Reading, read_sight
from kvattn.testing.diagnosis.recipe import FLAT, Built, Sizes
from kvattn.typing import Visible

_ROWS = "np.concatenate([np.array({rows})[:{{B}}], {first} + np.arange({{{n}}}) + np.zeros(({{B}}, 1), int)], 1)"


def _text(rows: str, first: int, n: str) -> str:
    """Rows for three sequences, and what follows them where a call is longer."""
    return _ROWS.format(rows=rows, first=first, n=n) + f"[:, :{{{n}}}] + 2"


KEYS = _text("[[5, 6, 7, 0, 1, 2, 3, 4], [7, 0, 1, 2, 3, 4, 5, 6], [2, 0, 3, 1, 6, 7, 5, 4]]", 8, "S")
"""Keys of three rings."""

QUERIES = _text("[[2, 3, 4], [5, 6, 7], [2, 4, 7]]", 8, "T")
"""Queries that stand among them, those of the last sequence not in a row."""

_SIZES = Sizes(3, 4, 2, 3, 8, 12, 12)


def read_positions(lab: Lab) -> None:
    """Fit where queries and keys stand under ``causal`` and ``window``.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(ignore=("k_positions",)))
    >>> read_positions(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["reads"]
    ('ring-wrap', 'keys in the order in which they are stored')
    """
    if not lab.can("causal", "q_positions"):
        return
    cases = lab.each(_SIZES, FLAT, causal="True", q_positions=QUERIES, k_positions=KEYS)
    if lab.can("causal", "window", "q_positions"):
        cases += lab.each(_SIZES, FLAT, causal="True", window="3", q_positions=QUERIES, k_positions=KEYS)

    def reading(fault_class: str, words: str, places: Callable[[Any, Any], tuple[Any, Any]]) -> Reading:
        def table(built: Built) -> Visible:
            i, j = places(built.options["q_positions"], built.options["k_positions"])
            i, j = np.asarray(i)[..., :, None], np.asarray(j)[..., None, :]
            keep = j <= i
            if "window" in built.options:
                keep = keep & (i - j < built.options["window"] + lab.behaviour.extra_keys)
            keep = np.broadcast_to(keep, (built.q.shape[0], built.q.shape[2], built.k.shape[2]))
            return np.broadcast_to(keep[:, None], (*built.q.shape[:3], built.k.shape[2]))

        return Reading(fault_class, {"argument": "positions", "reads": words}, f"It reads {words}", table)

    def slots(x: Any, start: int = 0) -> Any:
        return np.arange(x.shape[-1]) + start

    readings = [
        reading("ring-wrap", "keys in the order in which they are stored", lambda q, k: (q, slots(k))),
        reading(
            "ring-wrap",
            "keys in the order in which they are stored, from the lowest position",
            lambda q, k: (q, slots(k) + k.min(-1, keepdims=True)),
        ),
        reading("rope-offset", "queries from 0 on in each call", lambda q, k: (slots(q), k)),
        reading("rope-offset", "queries at the end of the keys", lambda q, k: (slots(q, k.shape[-1] - q.shape[-1]), k)),
        reading(
            "rope-offset",
            "queries at the highest positions",
            lambda q, k: (k.max(-1, keepdims=True) - q.shape[-1] + 1 + slots(q), k),
        ),
        reading("chunked-prefill", "neither: queries and keys from 0 on", lambda q, k: (slots(q), slots(k))),
        reading(
            "chunked-prefill",
            "neither: queries at the end of the slots",
            lambda q, k: (slots(q, k.shape[-1] - q.shape[-1]), slots(k)),
        ),
        reading("batch-row-state", "the queries' positions of sequence 0 for all", lambda q, k: (q[:1], k)),
        reading("batch-row-state", "the keys' positions of sequence 0 for all", lambda q, k: (q, k[:1])),
        reading("batch-row-state", "all positions of sequence 0 for all", lambda q, k: (q[:1], k[:1])),
        reading("rope-offset", "queries in a row from the first one's position", lambda q, k: (q[:, :1] + slots(q), k)),
        reading("rope-offset", "queries one later", lambda q, k: (q + 1, k)),
        reading("rope-offset", "queries one earlier", lambda q, k: (q - 1, k)),
    ]
    if not read_sight(lab, "q_positions", cases, readings):
        lab.set_aside("k_positions")
