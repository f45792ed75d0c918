"""How close two forms of one function must be: a first-order bound from shape, dtype and data.

Every rounding on the way from input to output is, to first order, a relative change of at most u
(half an ulp of 1) in one intermediate number.  Along a path of n roundings the changes add to at
most ``n·u`` relative to what flows there, and what flows there depends on the input with the
conditioning κ that the data themselves show.  So::

    |found - wanted|  <=  2 · n · u · (κ + |wanted|),      κ = max over probes of |f(x(1 + δε)) - f(x)| / δ

with ε random in [-1, 1] and δ small but far above u; 2 because both sides round.  Signs alone would
miss that two numbers cancel whenever they draw the same one.  κ is measured on the
function under test's *definition*, at the precision of the data, with `PROBES` draws: a
lower estimate of the worst case, times `SAFETY`.  What the bound cannot see: an error smaller than
about ``n·u·κ``; at n = 100 in float64 that is 1e-14 relative.
"""

from collections.abc import Callable

import numpy as np

from kvattn.typing import Array

PROBES = 4
"""Draws tried."""

SAFETY = 8.0
"""How much larger the true conditioning may be than the largest probe."""


def conditioned_bound(function: Callable[[Array], Array], x: Array, depth: int) -> Array:
    """The elementwise bound on the difference of two forms of ``function`` at ``x``.

    Parameters
    ----------
    function
        A pure function of one array.
    x
        Where.
    depth
        Roundings on the longest path, n.

    Returns
    -------
    array
        Of the function's output shape, float64; 0 where the output is not finite.

    Examples
    --------
    >>> bound = conditioned_bound(lambda x: x.sum(keepdims=True), np.array([1.0, -1.0]), depth=2)
    >>> bool(1e-15 < bound[0] < 1e-13)
    True
    """
    return conditioned_bounds(lambda x: (function(x),), x, depth)[0]


def conditioned_bounds(function: Callable[[Array], tuple[Array, ...]], x: Array, depth: int) -> tuple[Array, ...]:
    """The same for a function of several results, evaluated once for all of them.

    >>> [bound.shape for bound in conditioned_bounds(lambda x: (x, x.sum(keepdims=True)), np.ones(3), depth=2)]
    [(3,), (1,)]
    """
    unit = float(np.finfo(x.dtype).eps) / 2
    step = float(np.sqrt(np.finfo(x.dtype).eps))
    middle = function(x)
    draws = np.random.default_rng(0)
    moved = [np.zeros(part.shape) for part in middle]
    with np.errstate(invalid="ignore"):
        for _ in range(PROBES):
            nudged = function(x * (1 + step * draws.uniform(-1.0, 1.0, x.shape)).astype(x.dtype))
            for place, (there, here) in enumerate(zip(nudged, middle, strict=True)):
                apart = np.abs(np.where(here == -np.inf, 0.0, there - here))
                moved[place] = np.maximum(moved[place], np.where(np.isfinite(apart), apart, 0.0))
    return tuple(
        np.where(np.isfinite(here), 2 * depth * unit * (SAFETY * far / step + np.abs(here) + _typical(here)), 0.0)
        for far, here in zip(moved, middle, strict=True)
    )


def _typical(values: Array) -> Array:
    """Size of a row's largest number: elements of a row mix, and cancel, what is as large as that."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    return np.broadcast_to(finite.max(axis=-1, keepdims=True), values.shape) if values.size else finite
