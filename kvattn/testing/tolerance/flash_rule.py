"""FlashAttention's rule: at most twice the error of a reference that computes in the same dtype.

    max |out - exact| <= ratio · max |reference - exact| + atol,    atol = 2 · max |(exact + 0.3) - 0.3 - exact|

``reference`` is plain attention in the dtype, and ``atol``, computed in it, the rounding of numbers about 0.3: what is
left where the reference happens to be exact.

What it cannot do.  One largest error is compared with another, so that a wrong element that is small, or a row of small
values beside one of large ones, passes.  The bound depends on what the reference does, not on what the tested code is
meant to do: a reference that rounds after every operation gives room for almost anything.  Nothing follows for the
log-sum-exp.  `kvattn.testing.tolerance.judge` is elementwise, and says what it cannot see.

Source: FlashAttention's tests (``tests/test_flash_attn.py``, ``hopper/test_flash_attn.py``): ratio 2, 3 with softcap.
"""

from typing import Any, NamedTuple

import numpy as np

from kvattn.arguments import real
from kvattn.errors import ShapeError
from kvattn.testing.formats import format_of


class FlashRule(NamedTuple):
    """What the rule says of one result.

    Attributes
    ----------
    holds
        Whether the error is within the bound.
    error, bound
        Largest error, and what it may be.

    Examples
    --------
    >>> FlashRule(True, 0.1, 0.25)
    FlashRule(holds=True, error=0.1, bound=0.25)
    """

    holds: bool
    error: float
    bound: float


def flash_rule(found: Any, reference: Any, exact: Any, *, store: str, ratio: float = 2.0) -> FlashRule:
    """Apply FlashAttention's rule.

    Parameters
    ----------
    found, reference, exact
        Outputs of the tested code, of plain attention in its dtype, and of attention in a wider one; of one shape.
    store
        Format of the first two.
    ratio
        How much larger than the reference's the error may be.

    Returns
    -------
    FlashRule
        NaN where not all three have it never holds.

    Raises
    ------
    ShapeError
        Where shapes differ.

    Examples
    --------
    >>> flash_rule([1.0, 0.52], [1.0, 0.49], [1.0, 0.5], store="float16").holds
    True
    >>> flash_rule([1.0, 0.53], [1.0, 0.49], [1.0, 0.5], store="float16").holds
    False
    """
    got, plain, right = (np.asarray(x).astype(np.float64) for x in (found, reference, exact))
    for name, array in (("found", got), ("reference", plain)):
        if array.shape != right.shape:
            raise ShapeError(f"{name} must have exact's shape {right.shape}, got {array.shape}")
    ratio, kind = real("ratio", ratio, above=0.0), format_of(store)
    with np.errstate(invalid="ignore"):
        back = kind.round(kind.round(kind.round(right) + 0.3) - 0.3)
        atol = 2 * float(np.abs(back - kind.round(right)).max(initial=0.0))
        error = float(np.where(got == right, 0.0, np.abs(got - right)).max(initial=0.0))
        bound = ratio * float(np.where(plain == right, 0.0, np.abs(plain - right)).max(initial=0.0)) + atol
    return FlashRule(error <= bound, error, bound)
