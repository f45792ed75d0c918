"""Proportional RoPE (p-RoPE): only the fastest share of the pairs turns, at the frequencies of the full width.

    θ'_k  =  base^(-2k/D) / f   for k < a = ⌊share · D / 2⌋,        0 for a <= k < D/2

All D features are paired, k with k + D/2; pairs behind the first a stand still and carry no position.

Shapes: D/2 float64 frequencies for a `kvattn.positions.Rotary` of the full width; magnitude 1.
Cached per token: nothing beside the turned key; a cached key moves by `Rotary.shift`.
Cost: that of a `Rotary` over all D features: a pair at rest is multiplied by 1 and 0.

Source: Barbero et al. 2024 (arXiv 2410.06205), "p-RoPE"; as built: Gemma 4's released code.

Where libraries differ: partial rotation (GPT-NeoX) turns the first r features, pairs k with k + r/2 and
divides the exponent by r: other pairs, other frequencies, for the same ``partial_rotary_factor``, which is the
name of the share in transformers.  There and here the share is multiplied in floating point before the
floor, so that a product just below a whole number loses a pair.
"""

from typing import Literal

from kvattn.arguments import real
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary, geometric


def proportional_frequencies(
    width: int, *, share: float, factor: float = 1.0, base: float = 10000.0
) -> tuple[float, ...]:
    """The first frequencies of the full width, then zeros.

    Parameters
    ----------
    width
        D, all features of a head.
    share
        p in 0 .. 1: how much of the width turns.
    factor
        f >= 1, as in linear interpolation.
    base
        Of the frequencies.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> proportional_frequencies(8, share=0.5, base=10000.0)
    (1.0, 0.1, 0.0, 0.0)
    """
    frequencies = geometric(width, base)
    share, factor = real("share", share, least=0.0), real("factor", factor, least=1.0)
    if share > 1.0:
        raise ArgumentError(f"share must be a finite number in 0 .. 1, got {share:g}")
    turning = int(share * 2 * len(frequencies) // 2)
    return tuple(frequency / factor if pair < turning else 0.0 for pair, frequency in enumerate(frequencies))


def proportional_rotary(
    width: int,
    *,
    share: float,
    factor: float = 1.0,
    base: float = 10000.0,
    layout: Literal["half", "adjacent"] = "half",
    start: int = 0,
) -> Rotary:
    """The rotation with these frequencies; ``layout`` and ``start`` as in `Rotary`.

    >>> import numpy as np
    >>> proportional_rotary(4, share=0.5).rotate(np.ones((1, 4)), np.array([1])).round(3)
    array([[-0.301,  1.   ,  1.382,  1.   ]])
    """
    return Rotary(proportional_frequencies(width, share=share, factor=factor, base=base), layout, start=start)
