"""Draft trees: ``parents`` says whose child each of the last T keys is.

Method: `readings`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.places import lineage
from kvattn.testing.diagnosis.readings import Reading, read_sight, without
from kvattn.testing.diagnosis.recipe import FLAT, Built, Sizes
from kvattn.typing import Visible

PARENTS = "np.append([-1, 0, 0, 1, -1, 4, 2], np.arange(6, 6 + {T}))[:{T}]"
"""Two roots, siblings, a cousin line."""

_SIZES = (Sizes(2, 4, 2, 7, 11, 14, 14), Sizes(2, 4, 2, 5, 5, 14, 14))


def read_parents(lab: Lab) -> None:
    """Fit what ``parents=`` shows.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"parents": "s <= n - T + t"}))
    >>> read_parents(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('spec-tree', {'argument': 'parents', 'reads': 'all earlier slots'})
    """

    def reading(words: str, draft: Callable[[Any], Any], context: bool = True) -> Reading:
        def table(built: Built) -> Visible:
            length, count = built.q.shape[2], built.k.shape[2]
            keep = np.full((length, count), context)
            keep[:, count - length :] = draft(np.asarray(built.options["parents"]))
            return np.broadcast_to(keep, (*built.q.shape[:3], count))

        return Reading("spec-tree", {"argument": "parents", "reads": words}, f"A draft query sees {words}", table)

    def strided(stride: int, parents: Any) -> Any:
        """Rows laid down ``stride`` apart and read T apart."""
        length = len(parents)
        flat = np.zeros(length * stride, np.bool_)
        for t, row in enumerate(lineage(parents)):
            flat[t * stride : t * stride + length] = row
        return np.stack([flat[t * length : (t + 1) * length] for t in range(length)])

    def siblings(parents: Any) -> Any:
        return lineage(parents) | (parents[:, None] == parents)

    every = Reading(
        "spec-tree", {"argument": "parents", "reads": "every slot"}, "parents= changes nothing", without(lab, "parents")
    )
    readings = [
        every,
        reading("all earlier slots", lambda p: np.tri(len(p), dtype=bool)),
        reading("its parent and itself", lambda p: (p[:, None] == np.arange(len(p))) | np.eye(len(p), dtype=bool)),
        reading("its ancestors, not itself", lambda p: lineage(p) & ~np.eye(len(p), dtype=bool)),
        reading("its ancestors, itself and its siblings", siblings),
        reading("its descendants", lambda p: lineage(p).T),
        reading("the tree, without what stands before it", lineage, context=False),
        *(
            reading(f"rows of a tree mask read at the wrong stride (T for {w})", partial(strided, w))
            for w in (8, 16, 32)
        ),
    ]
    read_sight(lab, "parents", [lab.case(sizes, FLAT, parents=PARENTS) for sizes in _SIZES], readings)
