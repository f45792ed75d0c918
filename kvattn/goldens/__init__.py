"""Recorded cases: inputs, and outputs rounded correctly from exact arithmetic.

`cases` and `load` read them, with NumPy alone; `kvattn.goldens.exporting` writes them for other languages.
How they are made stands in `kvattn.goldens.recipe` and `kvattn.goldens.recording`.
"""

from kvattn.goldens.reading import Case, cases, load

__all__ = ["Case", "cases", "load"]
