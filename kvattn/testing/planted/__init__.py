"""Faults planted in attention, to see a check name them.

`Planted` is an attention in plain NumPy with fields that plant one fault each; `MUTANTS` is a table of
functions with the class and the parameters under which a check must report each.
"""

from kvattn.testing.planted.attention import Planted

__all__ = ["Planted"]
