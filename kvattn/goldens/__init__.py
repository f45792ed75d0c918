"""Recorded cases: inputs, and outputs rounded correctly from exact arithmetic.

`cases` and `load` read them and `judge` compares outputs with theirs, with NumPy alone; `kvattn.goldens.exporting`
writes them for other languages.
How they are made stands in `kvattn.goldens.recipe` and `kvattn.goldens.recording`.
"""

from kvattn.goldens.judging import Judgement, judge
from kvattn.goldens.reading import Case, cases, load

__all__ = ["cases", "load", "Case", "judge", "Judgement"]
