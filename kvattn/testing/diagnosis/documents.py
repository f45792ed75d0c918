"""Packed documents: ``segments`` says to which document each key belongs; the queries are the last T.

Method: `readings`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.readings import Reading, read_sight, without
from kvattn.testing.diagnosis.recipe import FLAT, Built, Sizes
from kvattn.typing import Visible

SEGMENTS = (
    "np.array([[0, 0, 0, 1, 1, 2, 2, 2, 2], [0, 1, 1, 1, 1, 1, 2, 3, 3], [4] * 9])"
    "[:{B}, np.maximum(np.arange({S}) + 9 - {S}, np.arange({S}) * 9 // {S} * ({S} > 9))]"
)
"""Documents of three sequences, of unequal lengths."""

_SIZES = (Sizes(3, 4, 2, 9, 9, 12, 12), Sizes(3, 4, 2, 4, 9, 12, 12))


def read_segments(lab: Lab) -> None:
    """Fit what ``segments=`` shows.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(ignore=("segments",)))
    >>> read_segments(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('varlen', {'argument': 'segments', 'reads': 'no documents'})
    """
    triangle = {"causal": "True"} if lab.can("causal", "segments") else {}

    def reading(words: str, sees: Callable[[Any, Any], Any]) -> Reading:
        def table(built: Built) -> Visible:
            owner = np.asarray(built.options["segments"])
            keep = sees(owner, built.q.shape[2]) & without(lab, "segments")(built)
            return np.asarray(keep)

        return Reading("varlen", {"argument": "segments", "reads": words}, f"segments= reads as {words}", table)

    def same(owner: Any, t: int) -> Any:
        return owner[:, None, -t:, None] == owner[:, None, None, :]

    def shifted(owner: Any, t: int, by: int) -> Any:
        """Every document begins later by so many keys."""
        edges = np.diff(owner, axis=1, prepend=owner[:, :1]) != 0
        number = np.stack([np.cumsum(np.roll(row, by) & (np.arange(row.size) >= max(by, 0))) for row in edges])
        return number[:, None, -t:, None] == number[:, None, None, :]

    readings = [
        Reading(
            "varlen",
            {"argument": "segments", "reads": "no documents"},
            "segments= changes nothing: queries see other documents",
            without(lab, "segments"),
        ),
        reading(
            "the first T keys' documents for the queries", lambda o, t: o[:, None, :t, None] == o[:, None, None, :]
        ),
        reading("documents that begin one key late", lambda o, t: shifted(o, t, 1)),
        reading("documents that begin one key early", lambda o, t: shifted(o, t, -1)),
        reading("own and earlier documents", lambda o, t: o[:, None, -t:, None] >= o[:, None, None, :]),
        reading("own and later documents", lambda o, t: o[:, None, -t:, None] <= o[:, None, None, :]),
        reading("other documents only", lambda o, t: o[:, None, -t:, None] != o[:, None, None, :]),
        reading("documents, 0 being padding", lambda o, t: same(o, t) & (o != 0)[:, None, None, :]),
        reading(
            "own document and the one before", lambda o, t: (o[:, None, -t:, None] - o[:, None, None, :]) // 2 == 0
        ),
    ]
    first = Reading(
        "batch-row-state",
        {"argument": "segments", "of": "sequence 0"},
        "The documents of the first sequence hold for all",
        lambda built: (
            same(
                np.broadcast_to(np.asarray(built.options["segments"])[:1], np.shape(built.options["segments"])),
                built.q.shape[2],
            )
            & without(lab, "segments")(built)
        ),
    )
    lost = Reading(
        "mask-dropped",
        {"argument": "causal", "with": ["segments"]},
        "With segments= causal is lost",
        lambda built: (
            same(np.asarray(built.options["segments"]), built.q.shape[2])
            & np.ones((*built.q.shape[:3], built.k.shape[2]), np.bool_)
        ),
    )
    cases = [case for sizes in _SIZES for case in lab.each(sizes, FLAT, **triangle, segments=SEGMENTS)]
    cases += [case for sizes in _SIZES for case in lab.each(sizes, FLAT, segments=SEGMENTS) if triangle]
    read_sight(lab, "segments", cases, [*readings, first, lost] if triangle else [*readings, first])
