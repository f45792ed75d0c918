"""Faults planted in attention, to see a check name them.

`Planted` is an attention in plain NumPy with fields that plant one fault each; `wrapped` holds attention with bad
manners.  ``MUTANTS`` is the table: functions with one fault, and the class and parameters under which a check must
report each; those of ``ODD`` stand in no list, and must be caught and described.
"""

from kvattn.testing.planted.attention import Planted
from kvattn.testing.planted.kernels import KERNELS
from kvattn.testing.planted.manners import BATCH, MEMORY, STATE, TAILS
from kvattn.testing.planted.mutant import Mutant
from kvattn.testing.planted.odd import ODD
from kvattn.testing.planted.scores import CAPS, HEADS, SCALES, SLOPES
from kvattn.testing.planted.sights import (
    DOCUMENTS,
    MASKS,
    PADDING,
    PAGES,
    PLACES,
    REGIONS,
    TREES,
    TRIANGLE,
    WINDOW,
)
from kvattn.testing.planted.sums import (
    DROPOUT,
    EMPTY,
    FACTORS,
    FILLS,
    LSE,
    MERGES,
    PRECISION,
    SINKS,
)

MUTANTS: tuple[Mutant, ...] = (
    *(*HEADS, *SCALES, *CAPS, *SLOPES),
    *(*TRIANGLE, *WINDOW, *MASKS, *PADDING, *REGIONS, *DOCUMENTS, *TREES, *PLACES, *PAGES),
    *(*SINKS, *LSE, *MERGES, *EMPTY, *FILLS, *FACTORS, *DROPOUT, *PRECISION),
    *(*STATE, *MEMORY, *BATCH, *TAILS, *KERNELS),
)
"""Mutants that must be named."""

__all__ = ["MUTANTS", "ODD", "Mutant", "Planted"]
