"""A question that libraries answer differently, with inputs on which the answers can be told apart.

Everything is data: the arrays that go in, and for each reading what it says, who follows it and what comes
out.  Inputs are small, and chosen so that most answers are fractions that can be checked with a pencil.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kvattn.typing import Array


class Reading(NamedTuple):
    """One answer.

    Attributes
    ----------
    says
        The reading in a few words.
    who
        Libraries, versions or models that follow it.
    result
        What comes out.
    """

    says: str
    who: tuple[str, ...]
    result: Array


class Disagreement(NamedTuple):
    """One question; the first reading is what kvattn does unless told.

    Attributes
    ----------
    question
        One sentence.
    row
        The file of kvattn that it is about, as in `kvattn.testing.zoo`.
    inputs
        Arrays and numbers that go in, by name.
    readings
        Two or more, all results of one shape, each apart from each by more than 1 in 100 somewhere.
    """

    question: str
    row: str
    inputs: Mapping[str, Any]
    readings: tuple[Reading, ...]

    def told(self, result: Any, tolerance: float = 1e-3) -> str:
        """Name the reading that a result follows.

        Parameters
        ----------
        result
            What an implementation made of ``inputs``.
        tolerance
            How far from a reading it may lie; NaN equals NaN.

        Returns
        -------
        str
            What the reading says; empty when it is none of them.

        Examples
        --------
        >>> readings = Reading("sum", (), np.array([3.0])), Reading("product", (), np.array([2.0]))
        >>> case = Disagreement("What becomes of 1 and 2?", "core/merge", {"a": 1, "b": 2}, readings)
        >>> case.told([2.0001]), case.told([7.0])
        ('product', '')
        """
        found = np.asarray(result, np.float64)
        for reading in self.readings:
            same = found.shape == reading.result.shape
            if same and np.allclose(found, reading.result, rtol=0.0, atol=tolerance, equal_nan=True):
                return reading.says
        return ""
