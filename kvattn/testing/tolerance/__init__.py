"""How far correct code may stand from the exact answer, derived from shapes, formats and the data itself.

`bounds` gives two elementwise distances for one attention call: the worst case, beyond which code is wrong, and the
statistical one, within which it is right; between them it is suspect.  `judge` compares a result with them, tests
whether its errors lean one way, and says what it could not have seen.  All hold for whatever computes in the stated
`kvattn.testing.arithmetic.Arithmetic`.  `flash_rule` is FlashAttention's rule, for those who want it.

Labels as [T11] tie a line to its step of the derivation.
"""

from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.tolerance.bounding import Bounds, bounds
from kvattn.testing.tolerance.flash_rule import FlashRule, flash_rule
from kvattn.testing.tolerance.judging import Element, Verdict, judge
from kvattn.testing.tolerance.mean_error import MeanError
from kvattn.testing.tolerance.power import Power

__all__ = [
    "Arithmetic",
    "Bounds",
    "Element",
    "FlashRule",
    "MeanError",
    "Power",
    "Verdict",
    "bounds",
    "flash_rule",
    "judge",
]
