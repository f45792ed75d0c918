"""What every codec can do: rows of numbers become codes and scales, and come back within a stated bound.

    decode(encode(x)) = x̂,   |x - x̂| <= error(x),   elementwise, for every finite x that `encode` takes

Shapes: x ``[*, heads, tokens, width]``, float64 or float32; every stored array has heads, tokens and width as
its last axes too, the ones that share a number counted once.  Leading axes never share anything: batch mates
are invisible.  `Codec.parts` with one token is what a cache keeps per token.

A codec is a frozen value.  Rows with NaN or infinity are refused, so is a group whose scale the stored dtype
cannot hold; formats with a largest number and a scale given beforehand saturate, and the bound says by how much.
Codes depend on the numbers alone, not on whether they came as float64 or float32.  Cutting along tokens is
invisible, in bits, at multiples of `Codec.tokens`.

Cost: `Codec.encode_cost` and `Codec.decode_cost`, elementwise arithmetic in closed form, charged when it is done;
moving bits about is not arithmetic.
Source: none; the seam is ours.
Where libraries differ: most choose the axis by a number and infer group sizes from what is left over; here
`kvattn.codecs.sharing` names both, and what does not divide is refused.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar

from numpy.typing import DTypeLike, NDArray

from kvattn.counting import Tally
from kvattn.typing import Array

C = TypeVar("C", bound=tuple[Any, ...])


class Part(NamedTuple):
    """One stored array: the name of its entry, its shape, and its dtype as NumPy writes it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Scaled(NamedTuple):
    """Codes, and the scale by which each group of them is multiplied."""

    codes: NDArray[Any]
    scales: NDArray[Any]


class Shifted(NamedTuple):
    """Codes, scales, and what stands at zero: a zero point's code, or the number that code 0 means."""

    codes: NDArray[Any]
    scales: NDArray[Any]
    zeros: NDArray[Any]


class Bare(NamedTuple):
    """Codes whose scales are known beforehand, ``[*, heads, tokens, width]``."""

    codes: NDArray[Any]


class Blocks(NamedTuple):
    """Bytes of whole blocks, scales inside, ``[*, heads, tokens, bytes]``."""

    blocks: NDArray[Any]


class Codec(Protocol[C]):
    """How rows become codes and scales; nothing needs to inherit from it."""

    @property
    def tokens(self) -> int | None:
        """How many neighbouring tokens share a number: 1 where each stands alone, None where all do."""

    def encode(self, x: Array) -> C:
        """Codes of rows ``[*, heads, tokens, width]``."""

    def decode(self, codes: C, dtype: DTypeLike) -> Array:
        """Rows again, in float64 or float32, never beyond its largest finite number."""

    def error(self, x: Array) -> Array:
        """Bound on ``abs(x - decode(encode(x), x.dtype))``, elementwise, float64."""

    def parts(self, shape: Sequence[int]) -> tuple[Part, ...]:
        """The stored arrays of rows of this shape, in the order of the NamedTuple."""

    def encode_cost(self, shape: Sequence[int]) -> Tally:
        """What `encode` counts."""

    def decode_cost(self, shape: Sequence[int]) -> Tally:
        """What `decode` counts."""


def nbytes(codec: Codec[Any], shape: Sequence[int]) -> int:
    """Bytes that rows of this shape take when stored, scales included.

    Parameters
    ----------
    codec
        Any codec.
    shape
        ``[*, heads, tokens, width]``.

    Raises
    ------
    ShapeError
        A shape that the codec refuses.

    Examples
    --------
    >>> from kvattn.codecs import Symmetric
    >>> nbytes(Symmetric(4), (2, 10, 64))  # 20 rows of 32 bytes, a float32 scale each
    720
    """
    return sum(prod(part.shape) * int(part.dtype[-1]) for part in codec.parts(shape))
