"""LongRoPE: each pair has its own divisor, from one list up to the trained length and from another beyond.

    θ'_k  =  θ_k / λ_k,      λ = short where length <= L0, long where length > L0
    magnitude  =  √(1 + ln f / ln L0)         f: how many times the trained length

The lists are searched for, not computed, and come with a model.

Shapes: r/2 float64 frequencies and a magnitude for each of the two stages; r = 2 · len(short).
Cached per token: a key turned by the short list is wrong under the long one.  Either keep keys as they are before
rotation (`kvattn.variants.dense.before_rotation`), or choose the stage once for the whole sequence:
``Grouped(query_key=(scheme.rotary_at(most),))``, which is exact.
Cost: that of `Rotary`, once for each stage in use.

Source: Ding et al. 2024 (arXiv 2402.13753) §3; magnitude and the two lists: Phi-3's released
configuration and code (2404.14219).

Where libraries differ: transformers looks at each call's last position, vLLM at the longest length it was configured
for, llama.cpp at the room in the context; ``<`` in place of ``<=`` takes the long list one token early.
mlx-lm's ``SuScaledRoPE`` always takes the long list.  PhiMoE has an explicit magnitude for each stage
(``short_mscale``, ``long_mscale``); its code in transformers 5.23 switches that magnitude with the length while its
frequencies stay those of the short list.  f may be given, or be the ratio of two lengths.
"""

from dataclasses import dataclass
import math
from typing import Literal

from kvattn.arguments import integer, optional_real, real, reals
from kvattn.errors import ArgumentError
from kvattn.positions.rotary import Rotary, geometric


@dataclass(frozen=True)
class LongRope:
    """Two lists of factors, and the length that chooses.

    Parameters
    ----------
    short, long
        λ up to the trained length and beyond, one number above 0 for each pair.
    trained
        L0 >= 2, the longest length of the short list.
    factor
        f >= 1, of which the magnitude is made.
    base
        Of the frequencies before division.
    short_magnitude, long_magnitude
        In place of the formula.
    layout, start
        As in `Rotary`.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind, or the lists differ in length.

    Examples
    --------
    >>> scheme = LongRope(short=(1.0, 2.0), long=(1.0, 8.0), trained=64, factor=8.0, base=100.0)
    >>> [scheme.frequencies_at(length)[1] for length in (64, 65)]
    [0.05, 0.0125]
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained: int
    factor: float
    base: float = 10000.0
    short_magnitude: float | None = None
    long_magnitude: float | None = None
    layout: Literal["half", "adjacent"] = "half"
    start: int = 0

    def __post_init__(self) -> None:
        for name in ("short", "long"):
            found = reals(name, getattr(self, name))
            object.__setattr__(self, name, tuple(real(f"{name}[{n}]", x, above=0.0) for n, x in enumerate(found)))
        if len(self.short) != len(self.long):
            raise ArgumentError(f"long must have one factor for each of {len(self.short)} pairs, got {len(self.long)}")
        object.__setattr__(self, "trained", integer("trained", self.trained, 2))
        object.__setattr__(self, "factor", real("factor", self.factor, least=1.0))
        object.__setattr__(self, "base", real("base", self.base, above=0.0))
        for name in ("short_magnitude", "long_magnitude"):
            object.__setattr__(self, name, optional_real(name, getattr(self, name), above=0.0))
        object.__setattr__(self, "start", self.rotary_at(0).start)

    def frequencies_at(self, length: int) -> tuple[float, ...]:
        """The frequencies for a sequence of ``length`` tokens.

        >>> LongRope((1.0,), (4.0,), trained=8, factor=4.0).frequencies_at(9)
        (0.25,)
        """
        divisors = self.long if self._beyond(length) else self.short
        frequencies = geometric(2 * len(divisors), self.base)
        return tuple(frequency / divisor for frequency, divisor in zip(frequencies, divisors, strict=True))

    def magnitude_at(self, length: int) -> float:
        """The factor on cosine and sine for a sequence of ``length`` tokens.

        >>> scheme = LongRope((1.0,), (4.0,), trained=8, factor=8.0, short_magnitude=1.25)
        >>> scheme.magnitude_at(8), scheme.magnitude_at(9)  # 1.25 and √(1 + ln 8 / ln 8)
        (1.25, 1.4142135623730951)
        """
        explicit = self.long_magnitude if self._beyond(length) else self.short_magnitude
        return math.sqrt(1.0 + math.log(self.factor) / math.log(self.trained)) if explicit is None else explicit

    def rotary_at(self, length: int) -> Rotary:
        """The rotation for a sequence of ``length`` tokens.

        >>> scheme = LongRope((1.0,), (4.0,), trained=8, factor=1.0)
        >>> scheme.rotary_at(8) == Rotary.of(2), scheme.rotary_at(9) == Rotary((0.25,))
        (True, True)
        """
        return Rotary(self.frequencies_at(length), self.layout, self.magnitude_at(length), self.start)

    def _beyond(self, length: int) -> bool:
        return integer("length", length, 0) > self.trained
