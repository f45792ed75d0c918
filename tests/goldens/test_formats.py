"""Bit patterns of small formats mean what IEEE 754 and the OCP say; tests/peers asks ml_dtypes for every one."""

import math

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.goldens.formats import FORMATS, Bits, decoded


def value(name: str, pattern: int) -> float:
    """By the words of the standards, for one pattern."""
    form = FORMATS[name]
    mantissa, rest = pattern % 2**form.mantissa, pattern // 2**form.mantissa
    exponent, sign = rest % 2**form.exponent, -1.0 if rest // 2**form.exponent else 1.0
    ones, full = exponent == 2**form.exponent - 1, mantissa == 2**form.mantissa - 1
    if name == "float8_e4m3fn" and ones and full:
        return math.nan
    if name not in {"float8_e4m3fn", "float4_e2m1fn"} and ones:
        return math.nan if mantissa else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(mantissa, 1 - form.bias - form.mantissa)
    return sign * math.ldexp(2**form.mantissa + mantissa, exponent - form.bias - form.mantissa)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "float32"])
def test_every_pattern(name: str) -> None:
    bits = np.arange(2 ** FORMATS[name].bits, dtype=np.uint16)
    wanted = np.array([value(name, pattern) for pattern in bits.tolist()])
    assert np.array_equal(decoded(Bits(name, bits)), wanted, equal_nan=True)


def test_numpys_own_formats_agree() -> None:
    halves = np.arange(2**16, dtype=np.uint16)
    assert np.array_equal(decoded(Bits("float16", halves)), halves.view(np.float16).astype(np.float64), equal_nan=True)
    singles = np.arange(0, 2**32, 65521).astype(np.uint32)
    with np.errstate(invalid="ignore"):
        wanted = singles.view(np.float32).astype(np.float64)
    assert np.array_equal(decoded(Bits("float32", singles)), wanted, equal_nan=True)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"dtype must be one of float32, bfloat16, .*, got 'int3'"):
        decoded(Bits("int3", np.zeros(1, np.uint8)))
