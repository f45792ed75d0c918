"""Cases that a finding of another step explains: drawn cases do not tell them a second time.

A tail, or a tile whose sums are not scaled down, shows in every call that is long enough, under any keywords.  A case
that fails is made as small as it goes; where it stays long enough for what was found, that is what it shows.  An exp
from which no maximum is taken off has no digits left in float16 once a weight is below its smallest normal number.

Shapes: those of a case.
"""

import numpy as np

from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import Recipe, Sizes
from kvattn.testing.diagnosis.tails import EDGES

_LETTERS = {"keys": "S", "queries": "T", "channels": "D"}

_SMALLEST, _LARGEST = np.log(2.0**-14), np.log(65504.0)
"""Scores whose exponentials are float16's smallest normal and its largest number."""


def explained(lab: Lab, recipe: Recipe) -> bool:
    """Say whether what was found already shows in a case, if anything is wrong with it.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted())
    >>> lab.add("tile-tail", {"axis": "keys", "tile": 16, "rest": 1}, "The last key is lost.", reproduce="f(q, k, v)")
    >>> [explained(lab, lab.case(Sizes(S=n))) for n in (16, 17, 18)]
    [False, True, False]
    """
    return any(
        _in_tail(finding, recipe.sizes) or (_of_range(finding) and _out_of_range(lab, recipe))
        for finding in lab.findings
    )


def _in_tail(finding: Finding, sizes: Sizes) -> bool:
    read = finding.parameters
    tile = read.get("tile")
    if not isinstance(tile, int):
        return False
    if finding.fault_class == "lse-merge" and "running" in read:
        return tile < sizes.S
    if finding.fault_class != "tile-tail" or read.get("axis") not in _LETTERS:
        return False
    count, rest = int(getattr(sizes, _LETTERS[read["axis"]])), read.get("rest")
    first = min(read.get("wrong_at", [tile + 1]))
    if count <= max((n for n in EDGES if n < first), default=0):  # what is right at the number before begins behind it
        return False
    return rest is None or (count % tile != 0 if rest == "any" else bool(count % tile == rest))


def _of_range(finding: Finding) -> bool:
    return finding.fault_class == "precision" and finding.parameters.get("stage") == "range of exp"


def _out_of_range(lab: Lab, recipe: Recipe) -> bool:
    """Say whether an exponential of some score is none that the lab's numbers hold with all their digits."""
    options = dict(recipe.options)
    if lab.dtype != "float16" or "block_table" in options:
        return False
    built = recipe.build()
    scores = lab.scores(built) * lab.behaviour.used_scale(recipe.sizes, built.options.get("scale"))
    return bool(scores.min() < _SMALLEST or scores.max() > _LARGEST)
