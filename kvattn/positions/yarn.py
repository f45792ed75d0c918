"""YaRN: fast pairs keep their frequency, slow pairs are interpolated, those between mix the two.

    turns(n)  =  r · ln(L0 / (2π n)) / (2 ln base)                  the pair that turns n times in L0 positions
    low, high =  ⌊turns(fast)⌋, ⌈turns(slow)⌉, clamped to 0 and r - 1;   high = low becomes low + 0.001
    ramp_k    =  clip((k - low) / (high - low), 0, 1)
    θ'_k      =  ramp_k · θ_k / f  +  (1 - ramp_k) · θ_k
    magnitude =  m(mscale) / m(mscale_all_dim),      m(s) = 0.1 · s · ln f + 1

With the paper's mscale = 1 and mscale_all_dim = 0 the magnitude is 0.1 · ln f + 1, on queries and keys alike.

Shapes: r/2 float64 frequencies and a magnitude for a `kvattn.positions.Rotary`.
Cached per token: nothing beside the turned key, magnitude included; a cached key moves by `Rotary.shift`, without
multiplying by the magnitude again.
Cost: that of `Rotary`.

Source: Peng et al. 2023 (arXiv 2309.00071) §3.2, by parts, and §3.4, the magnitude; mscale: DeepSeek-V2's
released code (2405.04434).

Where libraries differ: gpt-oss does not round low and high, ``truncate=False``; mlx-lm always rounds.  The clamp is to
r - 1 although pairs end at r/2 - 1, in the paper's code and everywhere since.  With an explicit ``attention_factor``
that is the magnitude.  transformers takes the ratio only when both numbers are given and not 0, and the plain
0.1 · ln f + 1 otherwise: a file with ``mscale`` 0.707 alone means m(0.707) in DeepSeek's code and m(1) there; other
engines have read both as the plain formula.  DeepSeek also multiplies the softmax scale by m(mscale_all_dim)²
(`yarn_scale_factor`), in transformers' V2 and Mistral-4 since mid-2026.  The paper's f may be given as the ratio of
two lengths.  transformers 5.23 reads ``truncate`` beside the layer types, not inside them.
"""

import math
from typing import Literal

from kvattn.arguments import integer, real
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary, geometric


def yarn_range(
    width: int,
    *,
    trained: int,
    base: float = 10000.0,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, float]:
    """The numbers of the pairs between which frequencies mix, ``low < high``.

    Parameters
    ----------
    width, trained, base, fast, slow, truncate
        As in `yarn_frequencies`.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind, or the clamps leave a range upside down.

    Examples
    --------
    >>> yarn_range(128, trained=4096)
    (20.0, 46.0)
    """
    pairs = len(geometric(width, base))
    trained, base = integer("trained", trained, 1), real("base", base, above=1.0)
    slow = real("slow", slow, above=0.0)
    fast = real("fast", fast, least=slow)
    if not isinstance(truncate, bool):
        raise ArgumentError(f"truncate must be True or False, got {truncate!r}")
    low, high = (pairs * math.log(trained / (2 * math.pi * turns)) / math.log(base) for turns in (fast, slow))
    if truncate:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, 2.0 * pairs - 1.0)
    if high < low:
        raise ArgumentError(
            f"trained must be a length in which some pair turns between {slow:g} and {fast:g} times, got {trained}"
        )
    return low, high + 0.001 if high == low else high


def yarn_frequencies(
    width: int,
    *,
    factor: float,
    trained: int,
    base: float = 10000.0,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
) -> tuple[float, ...]:
    """YaRN's frequencies.

    Parameters
    ----------
    width
        r, how many features turn.
    factor
        f >= 1: how many times the trained length.
    trained
        L0 >= 1, in tokens.
    base
        Of the frequencies, above 1.
    fast, slow
        Turns in the trained length from which on a pair is left alone, and up to which it is interpolated
        (``beta_fast``, ``beta_slow``); fast >= slow.
    truncate
        Whether the range is rounded outwards to whole pairs.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> yarn = yarn_frequencies(8, factor=4.0, trained=64, base=100.0)
    >>> [round(after / before, 3) for after, before in zip(yarn, geometric(8, 100.0))]
    [1.0, 0.75, 0.5, 0.25]
    """
    frequencies = geometric(width, base)
    factor = real("factor", factor, least=1.0)
    low, high = yarn_range(width, trained=trained, base=base, fast=fast, slow=slow, truncate=truncate)
    ramps = [min(max((pair - low) / (high - low), 0.0), 1.0) for pair in range(len(frequencies))]
    return tuple(
        ramp * frequency / factor + (1.0 - ramp) * frequency for ramp, frequency in zip(ramps, frequencies, strict=True)
    )


def yarn_magnitude(factor: float, *, mscale: float = 1.0, mscale_all_dim: float = 0.0) -> float:
    """The factor on cosine and sine, m(mscale) / m(mscale_all_dim).

    Raises
    ------
    ArgumentError
        When factor is below 1 or a number below 0.

    Examples
    --------
    >>> round(yarn_magnitude(16.0), 3), yarn_magnitude(40.0, mscale=0.707, mscale_all_dim=0.707)
    (1.277, 1.0)
    """
    above = _m("mscale", mscale, factor)
    return above / _m("mscale_all_dim", mscale_all_dim, factor)


def yarn_scale_factor(factor: float, *, mscale_all_dim: float) -> float:
    """What DeepSeek multiplies the softmax scale 1/√D with, m(mscale_all_dim)².

    >>> round(yarn_scale_factor(40.0, mscale_all_dim=1.0), 6)
    1.873854
    """
    return _m("mscale_all_dim", mscale_all_dim, factor) ** 2


def yarn_rotary(
    width: int,
    *,
    factor: float,
    trained: int,
    base: float = 10000.0,
    fast: float = 32.0,
    slow: float = 1.0,
    truncate: bool = True,
    magnitude: float | None = None,
    layout: Literal["half", "adjacent"] = "half",
    start: int = 0,
) -> Rotary:
    """The rotation with these frequencies, and the paper's magnitude unless another is given.

    >>> yarn_rotary(8, factor=1.0, trained=64, layout="adjacent") == Rotary.of(8, layout="adjacent")
    True
    """
    frequencies = yarn_frequencies(
        width, factor=factor, trained=trained, base=base, fast=fast, slow=slow, truncate=truncate
    )
    return Rotary(frequencies, layout, yarn_magnitude(factor) if magnitude is None else magnitude, start)


def _m(name: str, number: float, factor: float) -> float:
    number = real(name, number, least=0.0)
    return 0.1 * number * math.log(real("factor", factor, least=1.0)) + 1.0
