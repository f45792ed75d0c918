"""Join attention over parts of the keys into attention over all of them.

With parts ``(out_p, lse_p)``::

    m = max_p lse_p,   w_p = exp(lse_p - m),   out = Σ w_p out_p / Σ w_p,   lse = m + log Σ w_p

This is a commutative monoid with identity ``(0, -inf)``, the attention of a row that sees no key:
any split of the keys, empty parts too, in any order, gives the whole within a few roundings.
A sink belongs in one part only.

Cost: per row and part one exponential and ``2·Dv`` operations.
Source: Milakov & Gimelshein 2018 (1805.02867) §3.1; Dao et al. 2022 (2205.14135) §3.1.
Where libraries differ: FlashInfer's state holds the log to base 2; `natural_from_base2` converts.
"""

import math

import numpy as np

from kvattn.axes import sizes
from kvattn.counting import Tally, charge
from kvattn.errors import ArgumentError, DtypeError, ShapeError
from kvattn.typing import Array, Attended


def merge(*parts: Attended) -> Attended:
    """Attention over the union of the parts' keys.

    Parameters
    ----------
    *parts
        At least one; each ``out [..., T, Dv]`` and ``lse [..., T]``, of equal shapes and dtype, with
        no key in two of them.

    Returns
    -------
    Attended
        Of the same shapes.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        No part, or parts that differ in shape or dtype or are not of floating numbers.

    Examples
    --------
    >>> left = Attended(np.array([[1.0]]), np.array([0.0]))
    >>> right = Attended(np.array([[4.0]]), np.array([math.log(2)]))
    >>> merged = merge(left, right)
    >>> float(merged.out[0, 0]), round(float(np.exp(merged.lse[0])), 12)
    (3.0, 3.0)
    """
    if not parts:
        raise ArgumentError("merge must be given at least one part, got none")
    if not parts[0].out.ndim:
        raise ShapeError("out of part 0 must have shape [..., T, Dv], got ()")
    for number, part in enumerate(parts):
        letters = " ".join(str(n) for n in parts[0].lse.shape)
        sizes((f"lse of part {number}", part.lse, letters))
        sizes((f"out of part {number}", part.out, f"{letters} {parts[0].out.shape[-1]}"))
        if part.out.dtype.kind != "f" or part.lse.dtype.kind != "f":
            raise DtypeError(f"part {number} must be floating-point, got {part.out.dtype} and {part.lse.dtype}")
        if part.out.dtype != parts[0].out.dtype or part.lse.dtype != parts[0].lse.dtype:
            raise DtypeError(
                f"part {number} must have the dtypes of part 0, {parts[0].out.dtype} and {parts[0].lse.dtype}, "
                f"got {part.out.dtype} and {part.lse.dtype}"
            )
    top = np.maximum.reduce([part.lse for part in parts])
    shift = np.where(top == -np.inf, 0.0, top).astype(top.dtype, copy=False)
    out = np.zeros_like(parts[0].out)
    total = np.zeros_like(top)
    with np.errstate(invalid="ignore", under="ignore"):
        for part in parts:
            weight = np.exp(part.lse - shift)
            # an empty part's out may hold anything: it has weight 0, and 0 times NaN is NaN
            out += np.where(weight[..., None] == 0.0, 0.0, weight[..., None] * part.out).astype(out.dtype, copy=False)
            total += weight
        divisor = np.where(total == 0.0, 1.0, total).astype(total.dtype, copy=False)
        lse = np.where(total == 0.0, -np.inf, shift + np.log(divisor)).astype(total.dtype, copy=False)
        mixed = out / divisor[..., None]
    charge(merge_cost(top.size, parts=len(parts), width=out.shape[-1]))
    return Attended(mixed, lse)


def merge_cost(rows: int, *, parts: int, width: int) -> Tally:
    """What `merge` counts for so many rows of ``width`` values.

    >>> merge_cost(1, parts=2, width=4)
    Tally(arithmetic=27, transcendental=3)
    """
    return Tally(transcendental=rows * (parts + 1), arithmetic=rows * (parts * (3 + 2 * width) + width + 1))


def natural_from_base2(lse: Array) -> Array:
    """The natural log-sum-exp from one taken to base 2.

    >>> natural_from_base2(np.array([1.0])) == math.log(2)
    array([ True])
    """
    return lse * math.log(2.0)


def base2_from_natural(lse: Array) -> Array:
    """The base-2 log-sum-exp, as FlashInfer keeps it, from the natural one.

    >>> base2_from_natural(np.array([math.log(8)])).round(12)
    array([3.])
    """
    return lse / math.log(2.0)
