"""Llama-3 scaling: three bands of wavelengths, kept, interpolated, and a smooth passage between them.

    w_k  =  2π / θ_k                              wavelength of pair k, in tokens
    t_k  =  clip((L0 / w_k - low) / (high - low), 0, 1)
    θ'_k =  (1 - t_k) · θ_k / f  +  t_k · θ_k

A pair that turns more than ``high`` times in the trained length L0 keeps its frequency, one that turns less than
``low`` times is divided by f.

Shapes: r/2 float64 frequencies for a `kvattn.positions.Rotary`; magnitude 1.
Cached per token: nothing beside the turned key; a cached key moves by `Rotary.shift`.
Cost: that of `Rotary`.

Source: Llama 3.1's released code, ``apply_scaling``; the model: Grattafiori et al. 2024 (arXiv 2407.21783).

Where libraries differ: the released code and transformers ask for the three bands with if and else; at
the bands' edges both branches give the same number, so the clip above says the same.  Llama 3.1 has
f = 8, Llama 3.2 has 32, both low = 1, high = 4, L0 = 8192.  A first version in transformers computed the
scaled frequencies and returned the others.
"""

import math
from typing import Literal

from kvattn.arguments import integer, real
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary, geometric


def llama3_frequencies(
    width: int,
    *,
    factor: float = 8.0,
    trained: int = 8192,
    low: float = 1.0,
    high: float = 4.0,
    base: float = 500000.0,
) -> tuple[float, ...]:
    """Llama-3's frequencies.

    Parameters
    ----------
    width
        r, how many features turn.
    factor
        f >= 1.
    trained
        L0 >= 1, in tokens.
    low, high
        Turns in the trained length (``low_freq_factor``, ``high_freq_factor``); 0 < low < high.
    base
        Of the frequencies.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> scaled = llama3_frequencies(8, base=10000.0, trained=1024)
    >>> [round(after / before, 3) for after, before in zip(scaled, geometric(8, 10000.0))]
    [1.0, 1.0, 0.309, 0.125]
    """
    frequencies = geometric(width, base)
    factor, trained = real("factor", factor, least=1.0), integer("trained", trained, 1)
    low, high = real("low", low, above=0.0), real("high", high)
    if high <= low:
        raise ArgumentError(f"high must be above low, {low:g}, got {high:g}")
    kept = [
        min(max((trained * frequency / (2.0 * math.pi) - low) / (high - low), 0.0), 1.0) for frequency in frequencies
    ]
    return tuple(
        (1.0 - share) * frequency / factor + share * frequency
        for share, frequency in zip(kept, frequencies, strict=True)
    )


def llama3_rotary(
    width: int,
    *,
    factor: float = 8.0,
    trained: int = 8192,
    low: float = 1.0,
    high: float = 4.0,
    base: float = 500000.0,
    layout: Literal["half", "adjacent"] = "half",
    start: int = 0,
) -> Rotary:
    """The rotation with these frequencies; ``layout`` and ``start`` as in `Rotary`.

    Released weights are in the ``adjacent`` layout; transformers permutes them to ``half``.

    >>> llama3_rotary(4, factor=1.0, base=100.0) == Rotary.of(4, base=100.0)
    True
    """
    frequencies = llama3_frequencies(width, factor=factor, trained=trained, low=low, high=high, base=base)
    return Rotary(frequencies, layout, start=start)
