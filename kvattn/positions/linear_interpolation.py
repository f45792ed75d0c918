"""Linear interpolation of rotary positions: every frequency divided by one factor.

    θ'_k  =  θ_k / f,        θ_k = base^(-2k/r)

A position p turns as p / f did, so f times the trained length meets only angles that were trained.

Shapes: r/2 float64 frequencies for a `kvattn.positions.Rotary`; magnitude 1.
Cached per token: nothing beside the turned key; a cached key moves by `Rotary.shift`.
Cost: that of `Rotary`.

Source: Chen et al. 2023 (arXiv 2306.15595) §3.2 eq. 4; found at the same time by the Reddit user kaiokendev.

Where libraries differ: the paper divides positions, transformers frequencies, MLX takes ``scale=1/f``:
one angle, whose last bits differ.  llama.cpp stores ``rope_freq_scale``, which is 1/f.
"""

from typing import Literal

from kvattn.arguments import real
from kvattn.positions.rotary import Rotary, geometric


def linear_frequencies(width: int, *, factor: float, base: float = 10000.0) -> tuple[float, ...]:
    """The paper's frequencies over ``factor``.

    Parameters
    ----------
    width
        r, how many features turn.
    factor
        f >= 1: how many times the trained length.
    base
        Of the frequencies, as in `kvattn.positions.rotary.geometric`.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> linear_frequencies(4, factor=4.0, base=100.0)
    (0.25, 0.025)
    """
    frequencies = geometric(width, base)
    factor = real("factor", factor, least=1.0)
    return tuple(frequency / factor for frequency in frequencies)


def linear_rotary(
    width: int,
    *,
    factor: float,
    base: float = 10000.0,
    layout: Literal["half", "adjacent"] = "half",
    start: int = 0,
) -> Rotary:
    """The rotation with these frequencies; ``layout`` and ``start`` as in `Rotary`.

    >>> linear_rotary(2, factor=8).frequencies
    (0.125,)
    """
    return Rotary(linear_frequencies(width, factor=factor, base=base), layout, start=start)
