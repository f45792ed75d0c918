"""GGUF's blocks in fractions, each operation rounded to float32 as ggml does it."""

from fractions import Fraction
import struct
from typing import Any

from tests.codecs.cases import away, fractions, half, single


def scale_bytes(scale: Fraction, negative_zero: bool = False) -> list[int]:
    """The float16 of a scale, little-endian."""
    return list(struct.pack("<e", -0.0 if negative_zero else float(half(scale))))


def inverse(scale: Fraction) -> Fraction:
    """1 / scale in float32, 0 where there is none."""
    if not scale:
        return Fraction(0)
    found = single(1 / scale)
    return Fraction(0) if found >= Fraction(2) ** 128 else found


def q8_0(block: list[Fraction]) -> list[int]:
    """34 bytes."""
    scale = single(max(map(abs, block)) / 127)
    codes = [away(single(x * inverse(scale))) for x in block]
    return scale_bytes(scale) + [code % 256 for code in codes]


def q4_0(block: list[Fraction]) -> list[int]:
    """18 bytes."""
    most = max(block, key=abs)  # the first of several
    scale = single(most / -8)
    back = single(1 / scale) if scale and abs(1 / scale) < Fraction(2) ** 128 else Fraction(0)
    codes = [min(15, int(single(single(x * back) + Fraction(17, 2)))) for x in block]
    nibbles = [low + 16 * high for low, high in zip(codes[:16], codes[16:], strict=True)]
    return scale_bytes(scale, negative_zero=half(scale) == 0 and most >= 0) + nibbles


def by_hand(rule: Any, x: Any) -> list[int]:
    """Bytes of all blocks, one after the other."""
    return [byte for block in fractions(x).reshape(-1, 32) for byte in rule(list(block))]
