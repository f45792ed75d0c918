"""NTK-aware scaling: a larger base, so that slow pairs slow down and fast pairs hardly change.

    base'  =  base · α^(r/(r-2)),        θ'_k = base'^(-2k/r) = θ_k · α^(-2k/(r-2))

The fastest pair keeps its frequency, the slowest is divided by α; α is the factor of the length, or a
number that training chose (Hunyuan).

Shapes: r/2 float64 frequencies for a `kvattn.positions.Rotary`; magnitude 1; r >= 4.
Cached per token: nothing beside the turned key; a cached key moves by `Rotary.shift`.
Cost: that of `Rotary`.

Source: the Reddit user bloc97 2023, "NTK-Aware Scaled RoPE"; written down in Peng et al. 2023 (arXiv
2309.00071) §3.1.

Where libraries differ: x-transformers calls α ``base_rescale_factor``.  Hunyuan's configurations say
``dynamic`` and give ``alpha``: static all the same, and a case of its own in transformers' Hunyuan
models; its general ``dynamic`` function does not read ``alpha``.  CodeLlama and others publish the
larger base itself and no α.  `kvattn.positions.dynamic_ntk` lets α grow with the length.
"""

from typing import Literal

from kvattn.arguments import integer, real
from kvattn.positions.rotary import Rotary, geometric


def ntk_base(width: int, *, alpha: float, base: float = 10000.0) -> float:
    """The base whose slowest frequency is that of ``base`` over ``alpha``.

    Parameters
    ----------
    width
        r >= 4, how many features turn.
    alpha
        Above 0; 1 changes nothing.
    base
        Before scaling.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> ntk_base(4, alpha=3.0, base=100.0)  # 100 · 3^(4/2)
    900.0
    """
    r = integer("width", width, 4)
    alpha, base = real("alpha", alpha, above=0.0), real("base", base, above=0.0)
    return float(base * alpha ** (r / (r - 2)))


def ntk_frequencies(width: int, *, alpha: float, base: float = 10000.0) -> tuple[float, ...]:
    """The frequencies of `ntk_base`.

    >>> [round(frequency, 12) for frequency in ntk_frequencies(4, alpha=3.0, base=100.0)]  # 1 and 0.1 / 3
    [1.0, 0.033333333333]
    """
    return geometric(width, ntk_base(width, alpha=alpha, base=base))


def ntk_rotary(
    width: int,
    *,
    alpha: float,
    base: float = 10000.0,
    layout: Literal["half", "adjacent"] = "half",
    start: int = 0,
) -> Rotary:
    """The rotation with these frequencies; ``layout`` and ``start`` as in `Rotary`.

    >>> ntk_rotary(4, alpha=1.0) == Rotary.of(4)
    True
    """
    return Rotary(ntk_frequencies(width, alpha=alpha, base=base), layout, start=start)
