"""Dynamic NTK: the base grows with the length of the sequence, from the trained length on.

    base'(L)  =  base · (f · L / L0 - (f - 1))^(r/(r-2)),        L = max(length, L0)

Up to the trained length L0 nothing changes; one token more and every frequency but the first does.

Shapes: r/2 float64 frequencies for each length; magnitude 1; r >= 4.
Cached per token: a turned key is turned by the length of that moment, and is wrong at any other.  Either
keep keys as they are before rotation (`kvattn.variants.dense.before_rotation`), or choose one length for
the whole sequence: ``Grouped(query_key=(scheme.rotary_at(most),))``, which is exact.
Cost: that of `Rotary`, once for each length.

Source: the Reddit user emozilla 2023, "Dynamically Scaled RoPE", after bloc97; in Peng et al. 2023 (arXiv
2309.00071) §3.3.

Where libraries differ: transformers takes one length for a whole call, its last position + 1, or the
longest since a call that ended below L0.  So a prompt's first tokens turn by the prompt's length, keys
cached under an earlier base stay as they are, and a call that ends exactly at L0 after a longer one keeps
the longer one's base.  vLLM turns everything by the longest length it was configured for.  Qwen-1 grows
α in steps, 2^ceil(log2(L/L0) + 1) - 1.  A ``dynamic`` configuration with ``alpha`` (Hunyuan) is static:
`kvattn.positions.ntk`.
"""

from dataclasses import dataclass
from typing import Literal

from kvattn.arguments import integer, real
from kvattn.positions.ntk import ntk_frequencies
from kvattn.positions.rotary import Rotary


@dataclass(frozen=True)
class DynamicNTK:
    """Frequencies as a function of the length.

    Parameters
    ----------
    width
        r >= 4, how many features turn.
    factor
        f >= 1: how steeply α grows behind the trained length.
    trained
        L0 >= 1: the longest length that changes nothing.
    base
        Of the frequencies up to there.
    layout, start
        As in `Rotary`.

    Raises
    ------
    ArgumentError
        When a parameter is not of its kind.

    Examples
    --------
    >>> scheme = DynamicNTK(4, factor=2.0, trained=8, base=100.0)
    >>> scheme.alpha_at(8), scheme.alpha_at(16)
    (1.0, 3.0)
    """

    width: int
    factor: float
    trained: int
    base: float = 10000.0
    layout: Literal["half", "adjacent"] = "half"
    start: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", real("factor", self.factor, least=1.0))
        object.__setattr__(self, "trained", integer("trained", self.trained, 1))
        rotary = Rotary(ntk_frequencies(self.width, alpha=1.0, base=self.base), self.layout, start=self.start)
        object.__setattr__(self, "width", rotary.width)
        object.__setattr__(self, "base", float(self.base))
        object.__setattr__(self, "start", rotary.start)

    def alpha_at(self, length: int) -> float:
        """α for a sequence of ``length`` >= 0 tokens.

        >>> DynamicNTK(4, factor=4.0, trained=10).alpha_at(15)  # 4 · 15/10 - 3
        3.0
        """
        longer = max(integer("length", length, 0), self.trained)
        return self.factor * longer / self.trained - (self.factor - 1.0)

    def frequencies_at(self, length: int) -> tuple[float, ...]:
        """The frequencies for a sequence of ``length`` tokens.

        >>> DynamicNTK(4, factor=2.0, trained=8, base=100.0).frequencies_at(8)
        (1.0, 0.1)
        """
        return ntk_frequencies(self.width, alpha=self.alpha_at(length), base=self.base)

    def rotary_at(self, length: int) -> Rotary:
        """The rotation for a sequence of ``length`` tokens.

        >>> scheme = DynamicNTK(4, factor=2.0, trained=8)
        >>> scheme.rotary_at(3) == scheme.rotary_at(8) == Rotary.of(4), scheme.rotary_at(9) == Rotary.of(4)
        (True, False)
        """
        return Rotary(self.frequencies_at(length), self.layout, start=self.start)
