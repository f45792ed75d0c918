"""Rounding beside ml_dtypes and NumPy: every pattern, every tie, both neighbours of every tie, and a dense sample.

From float32 all agree to the bit.  From float64 ml_dtypes goes by way of float32, and what lies just off a tie is
taken for the tie: `test_ml_dtypes_rounds_float64_twice` shows it, and that no other difference is left.
"""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.formats import FORMATS
from kvattn.typing import Array
from tests.testing.test_formats import same

pytestmark = pytest.mark.peer

THEIRS = {
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float8_e4m3": "float8_e4m3fn",
    "float8_e5m2": "float8_e5m2",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
    "float6_e2m3": "float6_e2m3fn",
    "float6_e3m2": "float6_e3m2fn",
    "float4_e2m1": "float4_e2m1fn",
}
HAVE_NAN = tuple(name for name in THEIRS if FORMATS[name].kind.nan is not None)


def dtype_of(name: str) -> Any:
    if name == "float16":
        return np.float16
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="rounding is compared with ml_dtypes, of the peers extra")
    return getattr(ml_dtypes, THEIRS[name])


def unsigned(name: str) -> Any:
    return np.uint16 if FORMATS[name].kind.bits == 16 else np.uint8


def ties(name: str) -> Array:
    """Midpoints of neighbours, and the one beyond the largest number; float32 holds them all."""
    kind = FORMATS[name].kind
    numbers = FORMATS[name].number(np.arange(1 << (kind.bits - 1), dtype=np.uint32))
    finite = np.sort(numbers[np.isfinite(numbers)])
    middle = np.append((finite[1:] + finite[:-1]) / 2, finite[-1] + (finite[-1] - finite[-2]) / 2)
    assert np.array_equal(middle.astype(np.float32), middle)
    return np.concatenate([middle, -middle])


def cast(x: Any, name: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        found: Array = np.asarray(x).astype(dtype_of(name)).astype(np.float64)
    return found


@pytest.mark.parametrize("name", THEIRS)
def test_every_pattern_is_the_same_number(name: str) -> None:
    codes = np.arange(1 << FORMATS[name].kind.bits, dtype=unsigned(name))
    with np.errstate(invalid="ignore"):
        theirs = codes.view(dtype_of(name)).astype(np.float64)
    assert same(FORMATS[name].number(codes), theirs)
    real = ~np.isnan(theirs)
    assert np.array_equal(FORMATS[name].pattern(theirs[real]), codes[real])


@pytest.mark.parametrize("name", THEIRS)
def test_every_tie_and_its_neighbours_round_the_same(name: str) -> None:
    middle = ties(name).astype(np.float32)
    with np.errstate(over="ignore"):
        sides = [middle, *(np.nextafter(middle, np.float32(end)) for end in (np.inf, -np.inf))]
    for x in sides:
        assert same(FORMATS[name].round(x), cast(x, name))
        finite = np.isfinite(cast(x, name))
        theirs = x[finite].astype(dtype_of(name)).view(unsigned(name))
        assert np.array_equal(FORMATS[name].pattern(x[finite]), theirs)


@pytest.mark.parametrize("name", THEIRS)
def test_any_float32_rounds_the_same(name: str) -> None:
    draw = np.random.default_rng(1)
    anywhere = draw.integers(0, 1 << 32, 500_000, dtype=np.uint32).view(np.float32)
    low = 127 - FORMATS[name].kind.bias - FORMATS[name].kind.mantissa - 2
    near = (draw.integers(max(low, 1) << 23, 255 << 23, 500_000, dtype=np.uint32)).view(np.float32)
    x = np.concatenate([anywhere, near, -near, np.array([0.0, -0.0, np.inf, -np.inf], np.float32)])
    x = np.where(np.isnan(x), np.float32(np.nan), x) if name in HAVE_NAN else x[~np.isnan(x)]  # none that signals
    assert same(FORMATS[name].round(x), cast(x, name))


def test_numpy_rounds_float64_once() -> None:
    draw = np.random.default_rng(4)
    x = draw.standard_normal(200_000) * 2.0 ** draw.integers(-160, 140, 200_000)
    with np.errstate(over="ignore", under="ignore"):
        assert same(FORMATS["float32"].round(x), x.astype(np.float32).astype(np.float64))
    off = np.concatenate([np.nextafter(ties("float16"), end) for end in (np.inf, -np.inf)])
    assert same(FORMATS["float16"].round(off), cast(off, "float16"))


@pytest.mark.parametrize("name", [name for name in THEIRS if name != "float16"])
def test_ml_dtypes_rounds_float64_twice(name: str) -> None:
    """A fault of its casts: one of the two float64 numbers beside each tie goes the wrong way, and nothing else."""
    middle = ties(name)
    off = np.concatenate([np.nextafter(middle, end) for end in (np.inf, -np.inf)])
    theirs, ours = cast(off, name), FORMATS[name].round(off)
    assert same(theirs, FORMATS[name].round(off.astype(np.float32)))
    differ = (theirs != ours) & ~(np.isnan(theirs) & np.isnan(ours))
    saturates = FORMATS[name].beyond == FORMATS[name].kind.largest  # then both go there
    assert differ.sum() == middle.size - 2 * saturates
    away = np.concatenate([np.nextafter(middle.astype(np.float32), np.float32(end)) for end in (np.inf, -np.inf)])
    assert same(cast(away.astype(np.float64), name), FORMATS[name].round(away))
