"""Which numbers share a scale: a box of heads, tokens and channels.

    scales[H / h, T / t, D / w]  belongs to  x[H, T, D],   boxes of h heads, t tokens and w channels

None means all of them: ``Sharing(1, None, 1)`` has one scale for each head and channel, over all tokens at hand.

Shapes: x ``[*, heads, tokens, width]``, scales ``[*, H/h, T/t, D/w]``; no tokens, no scales.
Cached per token: (H/h) (1/t) (D/w) scales.  Cost: none.

Source: per token and per channel as Xiao et al. 2023 (SmoothQuant, 2211.10438) §2 have them; groups as in
Liu et al. 2024 (KIVI, 2402.02750) §3.
Where libraries differ: in mlx-lm groups run along the width (`groups_of`); in KIVI's keys along tokens
(`token_groups_of`); vLLM's ``per_token_head`` is `PER_TOKEN_HEAD`, and its fp8 scales, given beforehand, are
`kvattn.codecs.float8_fixed`.  "Per token" without "head" means one scale across heads here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvattn.arguments import integer
from kvattn.codecs._shared import shaped
from kvattn.errors import ShapeError
from kvattn.typing import Array


@dataclass(frozen=True)
class Sharing:
    """Boxes of so many heads, tokens and channels; None for all.

    Raises
    ------
    ArgumentError
        A size below 1; later ShapeError, where it does not divide.

    Examples
    --------
    >>> Sharing(width=32).shape((2, 8, 5, 64))
    (2, 8, 5, 2)
    """

    heads: int | None = 1
    tokens: int | None = 1
    width: int | None = None

    def __post_init__(self) -> None:
        for name in ("heads", "tokens", "width"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, integer(name, getattr(self, name), 1))

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the scales of rows ``[*, heads, tokens, width]``.

        Raises
        ------
        ShapeError
            A size that is no multiple of the box's.

        Examples
        --------
        >>> PER_CHANNEL.shape((8, 5, 64)), PER_CHANNEL.shape((8, 0, 64))
        ((8, 1, 64), (8, 0, 64))
        """
        full = shaped(shape)
        return (*full[:-3], *(count for count, _ in self._boxes(full)))

    def reduce(self, by: np.ufunc, x: Array) -> Array:
        """The extreme of every box, in the shape of the scales; ``by`` is ``numpy.maximum`` or ``numpy.minimum``.

        >>> PER_CHANNEL.reduce(np.maximum, np.array([[[1.0, 2.0], [3.0, 0.0]]]))
        array([[[3., 2.]]])
        """
        found: Array = by.reduce(x.reshape(self._split(x.shape)), axis=(-5, -3, -1))
        return found

    def spread(self, scales: NDArray[np.generic], shape: Sequence[int]) -> Array:
        """Each number's scale, in the shape of the rows.

        >>> Sharing(width=2).spread(np.array([[[1.0, 2.0]]]), (1, 1, 4))
        array([[[1., 1., 2., 2.]]])
        """
        split = self._split(shape)
        wide: Array = np.broadcast_to(scales[..., :, None, :, None, :, None], split).reshape(tuple(shape))
        return wide

    def _boxes(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """How many boxes along each axis, and how long."""
        found = []
        words = ("heads that are", "tokens that are", "a width that is")
        for words_of, size, wanted in zip(words, shape[-3:], (self.heads, self.tokens, self.width), strict=True):
            each = wanted or max(size, 1)
            if size % each:
                raise ShapeError(f"x must have {words_of} a multiple of {each}, got {size}")
            found.append((size // each, each))
        return found

    def _split(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (*shape[:-3], *(n for box in self._boxes(shape) for n in box))


PER_TOKEN_HEAD = Sharing(1, 1, None)
"""One scale for each token and head."""

PER_TOKEN = Sharing(None, 1, None)
"""One scale for each token, over all heads."""

PER_CHANNEL = Sharing(1, None, 1)
"""One scale for each head and channel, over all tokens at hand."""

PER_HEAD = Sharing(1, None, None)
"""One scale for each head, over all tokens at hand."""

PER_TENSOR = Sharing(None, None, None)
"""One scale for all heads, tokens and channels at hand of one sequence."""


def groups_of(width: int) -> Sharing:
    """One scale for every ``width`` neighbouring channels of a token and head.

    >>> groups_of(64)
    Sharing(heads=1, tokens=1, width=64)
    """
    return Sharing(1, 1, integer("width", width, 1))


def token_groups_of(tokens: int) -> Sharing:
    """One scale for every head and channel of ``tokens`` neighbouring tokens: KIVI's keys.

    >>> token_groups_of(32)
    Sharing(heads=1, tokens=32, width=1)
    """
    return Sharing(1, integer("tokens", tokens, 1), 1)
