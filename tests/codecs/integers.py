"""The integer codecs in fractions: one box of numbers at a time, in loops."""

from fractions import Fraction
from typing import Any

import numpy as np

from tests.codecs.cases import boxes, fractions, half, low_bits_first, single

SHAPE = (2, 4, 8)
BOXES = [(1, 1, 8), (2, 1, 8), (1, 4, 1), (1, 4, 8), (2, 4, 8), (1, 1, 4), (1, 2, 1)]


def symmetric_box(box: list[Fraction], bits: int, kept: Any) -> tuple[list[int], Fraction, Fraction]:
    """Codes in two's complement, scale, and 0."""
    top = 2 ** (bits - 1) - 1
    scale = kept(max(map(abs, box)) / top)
    codes = [max(-top, min(top, round(x / scale))) if scale else 0 for x in box]
    return [code % 2**bits for code in codes], scale, Fraction(0)


def zero_point_box(box: list[Fraction], bits: int, kept: Any) -> tuple[list[int], Fraction, Fraction]:
    """Codes, scale, zero point."""
    top = 2**bits - 1
    low, high = min([*box, Fraction(0)]), max([*box, Fraction(0)])
    scale = kept((high - low) / top)
    zero = max(0, min(top, round(-low / scale))) if scale else 0
    return [max(0, min(top, round(x / scale) + zero)) if scale else zero for x in box], scale, Fraction(zero)


def minimum_box(box: list[Fraction], bits: int, kept: Any) -> tuple[list[int], Fraction, Fraction]:
    """Codes, scale, minimum."""
    top = 2**bits - 1
    low, scale = kept(min(box)), kept((max(box) - min(box)) / top)
    return [max(0, min(top, round((x - low) / scale))) if scale else 0 for x in box], scale, low


def by_hand(rule: Any, x: Any, bits: int, box: Any, dtype: Any) -> tuple[Any, Any, Any]:
    """Bytes, scales and zeros of rows ``[H, T, D]``, box by box."""
    exact, kept = fractions(x), single if dtype == np.float32 else half
    places = tuple(n // b for n, b in zip(x.shape, box, strict=True))
    codes = np.zeros(x.shape, int)
    scales, zeros = np.zeros(places), np.zeros(places)
    for place, members in boxes(x.shape, box):
        found, scale, zero = rule([exact[at] for at in members], bits, kept)
        scales[place], zeros[place] = float(scale), float(zero)
        for at, code in zip(members, found, strict=True):
            codes[at] = code
    heads, tokens, _ = x.shape
    packed = [[low_bits_first(codes[h, t].tolist(), bits) for t in range(tokens)] for h in range(heads)]
    return np.array(packed, np.uint8), scales, zeros


def sharing_of(box: Any) -> tuple[Any, ...]:
    """None where a box takes the whole axis, its size elsewhere."""
    return tuple(None if n == b else b for n, b in zip(SHAPE, box, strict=True))


def rows(kind: int) -> Any:
    """Float32 rows: ordinary, with ties, one-sided, with a box of zeros, tiny."""
    rng = np.random.default_rng(kind)
    x = rng.standard_normal(SHAPE)
    if kind == 1:
        x = rng.integers(-14, 15, SHAPE) / 2
        x[..., 0] = 7.0  # scale 1 with four bits around zero: halves are ties
    if kind == 2:
        x = np.abs(x) + 3
        x[0, 1] = 0.0
    if kind == 3:
        x = np.ldexp(x, -20)
    return x.astype(np.float32)
