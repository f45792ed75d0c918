"""KIVI: keys per channel over groups of tokens, values per token over groups of channels, the newest tokens whole.

    keys     Minimum over g tokens, one channel          settled: T - T mod R, the others whole
    values   Minimum over one token, g channels          settled: max(0, T - R), the last R whole

Keys have outlier channels, so that a scale for each channel fits them; values have none.  A group of keys needs all
its tokens, so keys wait until R of them are there; values wait for uniformity.  R is a multiple of g, so groups of
settled keys start at multiples of g however tokens came.

Shapes: keys and values ``[*, H, T, D]``; stored as `kvattn.codecs.minimum` has them, scales and minima in float16.
Cached per settled token and head: D · bits / 8 bytes and 4 D / g bytes of scales and minima, for keys and for values
alike; what is not settled, the row as it came.
Cost: that of the two codecs, once a token.

Error: that of the two codecs where settled, none in the residual.

Source: Liu et al. 2024 (KIVI, 2402.02750) §3 and algorithm 1.
Where libraries differ: QuantizedCache of transformers quantises everything again, from what it gave back, whenever its
residual is full, and settles the residual of keys and values together; KIVI's own code packs keys along tokens.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from kvattn.arguments import integer
from kvattn.codecs.codec import nbytes
from kvattn.codecs.minimum import Minimum
from kvattn.codecs.packing import width_of
from kvattn.codecs.sharing import groups_of, token_groups_of
from kvattn.errors import ArgumentError


@dataclass(frozen=True)
class Kivi:
    """The pair of codecs, and how many tokens each may take.

    Parameters
    ----------
    bits
        2, 4 or 8.
    group
        Tokens that share a key's scale in each channel; channels that share a value's scale.
    residual
        Newest tokens that are kept whole, a multiple of the group.

    Raises
    ------
    ArgumentError
        Other bits, a group below 1, a residual that is no multiple of it.

    Examples
    --------
    >>> kivi = Kivi(bits=2, group=32, residual=128)
    >>> kivi.settled_keys(300), kivi.settled_values(300)
    (256, 172)
    """

    bits: int = 2
    group: int = 32
    residual: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", width_of(self.bits))
        object.__setattr__(self, "group", integer("group", self.group, 1))
        object.__setattr__(self, "residual", integer("residual", self.residual, 1))
        if self.residual % self.group:
            raise ArgumentError(f"residual must be a multiple of the group, {self.group}, got {self.residual}")

    @property
    def keys(self) -> Minimum:
        """The codec of settled keys.

        >>> Kivi().keys.tokens
        32
        """
        return Minimum(self.bits, token_groups_of(self.group), np.float16)

    @property
    def values(self) -> Minimum:
        """The codec of settled values.

        >>> Kivi().values.tokens
        1
        """
        return Minimum(self.bits, groups_of(self.group), np.float16)

    def settled_keys(self, tokens: int) -> int:
        """How many of the first keys are codes, once so many tokens are there.

        >>> [Kivi().settled_keys(n) for n in (127, 128, 255)]
        [0, 128, 128]
        """
        there = integer("tokens", tokens, 0)
        return there - there % self.residual

    def settled_values(self, tokens: int) -> int:
        """How many of the first values are codes, once so many tokens are there.

        >>> [Kivi().settled_values(n) for n in (128, 129, 255)]
        [0, 1, 127]
        """
        return max(0, integer("tokens", tokens, 0) - self.residual)

    def nbytes(self, heads: int, tokens: int, width: int, itemsize: int) -> int:
        """Bytes of keys and values of one sequence, the residual in numbers of ``itemsize`` bytes.

        >>> Kivi().nbytes(heads=1, tokens=300, width=64, itemsize=2), 2 * 300 * 64 * 2
        (32288, 76800)
        """
        total = 0
        settled = self.settled_keys(tokens), self.settled_values(tokens)
        for codec, done in zip((self.keys, self.values), settled, strict=True):
            total += nbytes(codec, (heads, done, width)) + prod((heads, tokens - done, width, itemsize))
        return total
