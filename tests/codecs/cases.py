"""What the tests of all codecs share: one codec of each kind, rows to try, exact rounding, and the laws as checks."""

from collections.abc import Callable, Iterator
from fractions import Fraction
import itertools
from typing import Any, NamedTuple

from hypothesis import strategies as st
import numpy as np

from kvattn.codecs import (
    E4M3FNUZ,
    E5M2,
    MXFP4,
    NVFP4,
    PER_CHANNEL,
    PER_HEAD,
    PER_TENSOR,
    PER_TOKEN,
    Q4_0,
    Q8_0,
    Float8,
    Float8Fixed,
    Kivi,
    Minimum,
    Rotated,
    Sharing,
    Symmetric,
    ZeroPoint,
    groups_of,
    token_groups_of,
)


class Case(NamedTuple):
    """A codec, the multiple that widths must be of, the highest power of two its rows may reach, and its repetition.

    ``repeats`` says whether encoding what was decoded, in float64, gives the same numbers in bits.
    """

    codec: Any
    width: int
    highest: int
    repeats: bool


CASES = {
    "int8": Case(Symmetric(8), 1, 120, True),
    "int4 grouped": Case(Symmetric(4, groups_of(4)), 4, 120, True),
    "int2 per channel": Case(Symmetric(2, PER_CHANNEL), 4, 120, True),
    "int8 per token, float16 scales": Case(Symmetric(8, PER_TOKEN, np.float16), 1, 18, True),
    "int8 per head": Case(Symmetric(8, PER_HEAD), 1, 120, True),
    "int4 per tensor": Case(Symmetric(4, PER_TENSOR), 2, 120, True),
    "uint8": Case(ZeroPoint(8), 1, 120, False),
    "uint4 grouped": Case(ZeroPoint(4, groups_of(4)), 4, 120, False),
    "uint2 per channel, float16 scales": Case(ZeroPoint(2, PER_CHANNEL, np.float16), 4, 12, False),
    "minimum 8": Case(Minimum(8), 1, 120, False),
    "minimum 4 grouped": Case(Minimum(4, groups_of(8)), 8, 120, False),
    "kivi keys": Case(Kivi(2, 4, 4).keys, 4, 12, False),
    "kivi values": Case(Kivi(4, 4, 4).values, 4, 12, False),
    "minimum over four tokens": Case(Minimum(8, token_groups_of(4)), 1, 120, False),
    "e4m3": Case(Float8(), 1, 120, True),
    "e5m2 grouped": Case(Float8(E5M2, groups_of(4)), 4, 120, True),
    "e4m3fnuz over heads": Case(Float8(E4M3FNUZ, Sharing(None, 2, None)), 1, 120, True),
    "e4m3 cast": Case(Float8Fixed(), 1, 120, True),
    "e5m2 fixed": Case(Float8Fixed(E5M2, (0.01,)), 1, 120, True),
    "mxfp4": Case(MXFP4(), 32, 124, True),
    "nvfp4": Case(NVFP4(0.003), 16, 120, False),
    "q8_0": Case(Q8_0(), 32, 18, True),
    "q4_0": Case(Q4_0(), 32, 14, True),
    "rotated int8": Case(Rotated(Symmetric(8)), 0, 110, False),
    "rotated nvfp4": Case(Rotated(NVFP4(0.003)), 16, 110, False),
    "rotated kivi keys": Case(Rotated(Kivi(2, 4, 4).keys), 0, 10, False),
}
"""Width 0: a power of two."""

KINDS: dict[str, Callable[[Any, tuple[int, ...]], Any]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "zeros": lambda rng, shape: np.zeros(shape),
    "constant": lambda rng, shape: np.full(shape, rng.uniform(-2, 2)),
    "negative": lambda rng, shape: -np.abs(rng.standard_normal(shape)) - 0.25,
    "far from zero": lambda rng, shape: 3 + 1e-4 * rng.standard_normal(shape),
    "outlier": lambda rng, shape: rng.standard_normal(shape) * np.where(rng.random(shape) < 0.1, 3.0, 0.01),
    "halves": lambda rng, shape: rng.integers(-254, 255, shape) / 254,
    "unequal heads": lambda rng, shape: rng.standard_normal(shape) * 2.0 ** -(20 * np.arange(shape[-3])[:, None, None]),
    "powers": lambda rng, shape: 2.0 ** -rng.integers(0, 12, shape) * rng.choice([-1, 0, 1], shape),
    "mostly zero": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.2),
}


def drawn(kind: str, seed: int, shape: tuple[int, ...], exponent: int, dtype: Any) -> Any:
    """Rows of a kind, times a power of two."""
    numbers = KINDS[kind](np.random.default_rng(seed), shape)
    return np.ldexp(np.clip(numbers, -6, 6), exponent).astype(dtype)


@st.composite
def rows_for(draw: Any, case: Case, least: int = 0) -> Any:
    """Rows that a codec takes: any size from its smallest to its largest, any kind, both dtypes."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    each = case.codec.tokens or 1
    tokens = each * draw(st.integers(least, 3))
    width = case.width * draw(st.integers(1, 3)) if case.width else 0
    if isinstance(case.codec, Rotated):
        width = draw(st.sampled_from([4, 8, 16] if not case.width else [16, 32]))
    shape = (*draw(st.sampled_from([(), (2,)])), draw(st.integers(1, 3)), tokens, width)
    lowest = -150 if dtype == np.float32 else -1074
    spread = st.one_of(st.integers(-14, min(10, case.highest)), st.integers(lowest, case.highest))
    return drawn(draw(st.sampled_from(sorted(KINDS))), draw(st.integers(0, 2**32)), shape, draw(spread), dtype)


def nearest(value: Fraction, precision: int, lowest: int) -> Fraction:
    """Round to a binary format of so many significant bits, ties to even, steps never below ``2**lowest``."""
    if not value:
        return value
    exponent = 0
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    step = Fraction(2) ** max(exponent - precision + 1, lowest)
    return round(value / step) * step  # Python rounds fractions half to even


def single(value: Fraction) -> Fraction:
    """The float32 nearest to a fraction."""
    return nearest(value, 24, -149)


def half(value: Fraction) -> Fraction:
    """The float16 nearest to a fraction."""
    return nearest(value, 11, -24)


def away(value: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    return int(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def boxes(shape: tuple[int, int, int], box: tuple[int, int, int]) -> Iterator[tuple[Any, list[Any]]]:
    """Place of every box among the boxes, and the places of its numbers."""
    for place in itertools.product(*(range(n // b) for n, b in zip(shape, box, strict=True))):
        spans = (range(p * b, (p + 1) * b) for p, b in zip(place, box, strict=True))
        yield place, list(itertools.product(*spans))


def fractions(x: Any) -> Any:
    """Elementwise exact."""
    return np.vectorize(lambda number: Fraction(float(number)), otypes=[object])(x)


def low_bits_first(codes: list[int], bits: int) -> list[int]:
    """Bytes of unsigned codes, in Python integers."""
    each = 8 // bits
    return [sum(c << (bits * n) for n, c in enumerate(codes[at : at + each])) for at in range(0, len(codes), each)]


def within(codec: Any, x: Any, bound: Any = None) -> bool:
    """Whether every number comes back within the bound, in exact terms where float64 would round the difference."""
    back = codec.decode(codec.encode(x), x.dtype)
    limit = codec.error(x) if bound is None else bound
    if back.dtype != x.dtype or back.shape != x.shape or limit.dtype != np.float64 or limit.shape != x.shape:
        return False
    close = np.abs(x.astype(np.float64) - back.astype(np.float64)) <= limit
    return bool(close.all())


def same(a: Any, b: Any) -> bool:
    """Equal in dtype, shape and bits, array for array."""
    return type(a) is type(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )


def cut_is_invisible(codec: Any, x: Any, at: int) -> bool:
    """Whether two parts, encoded apart, join to the codes of the whole."""
    parts = [codec.encode(x[..., :at, :]), codec.encode(x[..., at:, :])]
    joined = type(parts[0])(*(np.concatenate(pair, -2) for pair in zip(*parts, strict=True)))
    return same(joined, codec.encode(x))
