"""A Hadamard rotation before any codec: an outlier's size is shared out over all channels.

    y = H x / sqrt(D),   H[i, j] = (-1)^popcount(i & j)        x̂ = H decode(encode(y)) / sqrt(D)

H is symmetric and H H = D, so the rotation is its own inverse.  Queries rotated alike leave scores as they are; here
the rows come back unrotated.  Additions are those of the butterfly, strides 1, 2, 4, …, D/2, in float64, whatever came
beside: cutting is as invisible as in the codec inside.

Shapes: x ``[*, H, T, D]``, D a power of two; what is stored, the codec inside says.
Cached per token: what the codec inside keeps.
Cost: D log2 D additions and D products a row, each way, and the codec's own.

Error: with b the codec's bound on y, ``Σ b / sqrt(D) + (log2 D + 3) · 2^-51 · Σ |x|``, the same for all channels of a
row, plus one rounding to the dtype given back.  An outlier A among numbers up to a
raises no y above (A + (D - 1) a) / sqrt(D), where without rotation the largest number is A.

Source: Sylvester's construction; Ashkboos et al. 2024 (QuaRot, 2404.00456) §3 and §4.
Where libraries differ: QuaRot and TurboQuant draw a sign for each channel first; who rotates queries too need not turn
keys back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Generic

import numpy as np
from numpy.typing import DTypeLike

from kvattn.codecs._shared import given_back, read, shaped, with_rounding
from kvattn.codecs.codec import C, Codec, Part
from kvattn.counting import Tally, charge
from kvattn.errors import ShapeError
from kvattn.typing import Array


def hadamard(x: Array) -> Array:
    """Rows times the orthonormal Hadamard matrix, along the last axis, in float64.

    Raises
    ------
    ShapeError
        A width that is no power of two.

    Examples
    --------
    >>> hadamard(np.array([8.0, 0.0, 0.0, 2.0]))
    array([5., 3., 3., 5.])
    """
    rows = np.asarray(x, np.float64)
    charge(_cost(rows.shape))
    return _turned(rows)


def power_of_two(shape: Sequence[int]) -> int:
    """The width of rows, where it is a power of two.

    >>> power_of_two((3, 12))
    Traceback (most recent call last):
    kvattn.errors.ShapeError: x must have a width that is a power of two, got 12
    """
    width = shape[-1] if shape else 0
    if width < 1 or width & (width - 1):
        raise ShapeError(f"x must have a width that is a power of two, got {width}")
    return width


@dataclass(frozen=True)
class Rotated(Generic[C]):
    """A codec behind the rotation.

    Parameters
    ----------
    codec
        Any codec.

    Examples
    --------
    >>> from kvattn.codecs import Symmetric
    >>> x = np.array([[[16.0, 1.0, 1.0, 1.0]]])
    >>> for codec in (Symmetric(4), Rotated(Symmetric(4))):
    ...     print(codec.decode(codec.encode(x), np.float64).round(1))
    [[[16.  0.  0.  0.]]]
    [[[17.   0.7  0.7  0.7]]]
    """

    codec: Codec[C]

    @property
    def tokens(self) -> int | None:
        """As in the codec inside.

        >>> from kvattn.codecs import Symmetric
        >>> Rotated(Symmetric(8)).tokens
        1
        """
        return self.codec.tokens

    def encode(self, x: Array) -> C:
        """Codes of the rotated rows.

        Raises
        ------
        ShapeError
            Fewer than three axes, a width that is no power of two, or what the codec refuses.
        DtypeError
            Neither float64 nor float32.
        ArgumentError
            NaN or infinity, or what the codec refuses.

        Examples
        --------
        >>> from kvattn.codecs import Symmetric
        >>> Rotated(Symmetric(8)).encode(np.array([[[8.0, 0.0, 0.0, 0.0]]])).codes
        array([[[127, 127, 127, 127]]], dtype=int8)
        """
        return self.codec.encode(hadamard(read(x)))

    def decode(self, codes: C, dtype: DTypeLike) -> Array:
        """Decoded in float64, turned back, rounded once to ``dtype``.

        >>> from kvattn.codecs import Symmetric
        >>> codec = Rotated(Symmetric(8))
        >>> codec.decode(codec.encode(np.array([[[8.0, 0.0, 0.0, 0.0]]])), np.float32)
        array([[[8., 0., 0., 0.]]], dtype=float32)
        """
        return given_back(hadamard(self.codec.decode(codes, np.float64)), dtype)

    def error(self, x: Array) -> Array:
        """The codec's bounds, summed over a row, over sqrt(D).

        >>> from kvattn.codecs import Symmetric
        >>> Rotated(Symmetric(8)).error(np.array([[[254.0, 0.0, 0.0, 0.0]]])).round(4)
        array([[[1., 1., 1., 1.]]])
        """
        rows = read(x)
        width = power_of_two(rows.shape)
        inner = self.codec.error(_turned(rows)).sum(-1, keepdims=True) / sqrt(width)
        turning = (width.bit_length() + 2) * 2.0**-51 * np.abs(rows).sum(-1, keepdims=True)
        bound = np.broadcast_to(inner * (1 + 2.0**-40) + turning, rows.shape)
        return with_rounding(bound, rows, np.asarray(x).dtype)

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """As in the codec inside.

        >>> from kvattn.codecs import Symmetric
        >>> Rotated(Symmetric(4)).parts((8, 1, 64)) == Symmetric(4).parts((8, 1, 64))
        True
        """
        power_of_two(shaped(shape))
        return self.codec.parts(shape)

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """The rotation and the codec's.

        >>> from kvattn.codecs import Symmetric
        >>> Rotated(Symmetric(8)).encode_cost((1, 2, 4))
        Tally(arithmetic=74)
        """
        return _cost(shape) + self.codec.encode_cost(shape)

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """The rotation and the codec's.

        >>> from kvattn.codecs import Symmetric
        >>> Rotated(Symmetric(8)).decode_cost((1, 2, 4))
        Tally(arithmetic=32)
        """
        return _cost(shape) + self.codec.decode_cost(shape)


def _turned(rows: Array) -> Array:
    """The butterfly and the division by the root, not counted."""
    width, stride = rows.shape[-1], 1
    while stride < width:
        pairs = rows.reshape(*rows.shape[:-1], width // (2 * stride), 2, stride)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        rows = np.stack([first + second, first - second], -2).reshape(rows.shape)
        stride *= 2
    turned: Array = rows * (1.0 / sqrt(width))
    return turned


def _cost(shape: Sequence[int]) -> Tally:
    """Additions and products of one rotation."""
    return Tally(arithmetic=prod(shape) * power_of_two(shape).bit_length())
