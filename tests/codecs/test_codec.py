"""The laws of every codec: the bound, what a cut shows, what is stored, what is counted, what is refused.

CI draws twelve arrays for each law and codec, ``KVATTN_PROFILE=deep`` 1000.
"""

from math import prod
import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kvattn.caches.pages import unwritten
from kvattn.codecs import (
    E4M3FNUZ,
    MXFP4,
    NVFP4,
    Q4_0,
    Q8_0,
    Float8,
    Float8Fixed,
    Kivi,
    Minimum,
    Rotated,
    Symmetric,
    ZeroPoint,
)
from kvattn.codecs.codec import Bare, Blocks, Codec, Part, Scaled, Shifted, nbytes
from kvattn.counting import counting
from kvattn.errors import ArgumentError, DtypeError, KvattnError, ShapeError
from tests.codecs.cases import CASES, Case, cut_is_invisible, drawn, rows_for, same, within

each = pytest.mark.parametrize("name", CASES)
some = settings(max_examples=1000 if os.environ.get("KVATTN_PROFILE") == "deep" else 12)


def width_of(case: Case) -> int:
    return case.width or 8


@pytest.mark.law("codecs/codec", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/symmetric", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/zero_point", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/minimum", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/kivi", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/float8", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/float8_fixed", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/mxfp4", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/nvfp4", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/q8_0", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/q4_0", "what comes back is within the bound", "bound")
@pytest.mark.law("codecs/hadamard", "what comes back is within the bound", "bound")
@each
@some
@given(data=st.data())
def test_what_comes_back_is_within_the_bound(name: str, data: Any) -> None:
    x = data.draw(rows_for(CASES[name]))
    assert within(CASES[name].codec, x)


@pytest.mark.law("codecs/sharing", "a cut between groups of tokens is invisible", "bits")
@pytest.mark.law("codecs/symmetric", "a cut between groups of tokens is invisible", "bits")
@pytest.mark.law("codecs/zero_point", "a cut between groups of tokens is invisible", "bits")
@pytest.mark.law("codecs/minimum", "a cut between groups of tokens is invisible", "bits")
@pytest.mark.law("codecs/kivi", "a cut between groups of tokens is invisible", "bits")
@pytest.mark.law("codecs/float8", "a cut between groups of tokens is invisible", "bits")
@pytest.mark.law("codecs/float8_fixed", "a cut between tokens is invisible", "bits")
@pytest.mark.law("codecs/mxfp4", "a cut between tokens is invisible", "bits")
@pytest.mark.law("codecs/nvfp4", "a cut between tokens is invisible", "bits")
@pytest.mark.law("codecs/q8_0", "a cut between tokens is invisible", "bits")
@pytest.mark.law("codecs/q4_0", "a cut between tokens is invisible", "bits")
@pytest.mark.law("codecs/hadamard", "a cut shows no more than in the codec inside", "bits")
@each
@some
@given(data=st.data())
def test_a_cut_between_groups_of_tokens_is_invisible(name: str, data: Any) -> None:
    case = CASES[name]
    if case.codec.tokens is None:
        return
    x = data.draw(rows_for(case, least=1))
    at = case.codec.tokens * data.draw(st.integers(0, x.shape[-2] // case.codec.tokens))
    assert cut_is_invisible(case.codec, x, at)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.codec.tokens is None])
def test_a_cut_shows_where_all_tokens_share(name: str) -> None:
    codec = CASES[name].codec
    x = np.ones((1, 2, 4))
    x[:, 1] = 3.0
    whole, first = codec.encode(x), codec.encode(x[:, :1])
    assert whole.scales[0, 0, 0] != first.scales[0, 0, 0]


@each
@some
@given(data=st.data())
def test_a_group_of_tokens_is_whole_or_refused(name: str, data: Any) -> None:
    case = CASES[name]
    if case.codec.tokens in (None, 1):
        return
    x = data.draw(rows_for(case, least=1))
    with pytest.raises(ShapeError, match=f"x must have tokens that are a multiple of {case.codec.tokens}, got"):
        case.codec.encode(x[..., :-1, :])


@each
@some
@given(data=st.data())
def test_codes_depend_on_the_numbers_alone(name: str, data: Any) -> None:
    """Not on the dtype they came in, on who else is in the batch, or on how they lie in memory."""
    codec = CASES[name].codec
    x = data.draw(rows_for(CASES[name]))
    if x.ndim == 3:
        x = x[None]
    codes, before = codec.encode(x), x.copy()
    lying = np.asfortranarray(x)
    assert same(codec.encode(lying), codes)
    assert same(codec.encode(x.astype(np.float64)), codes)
    for b in range(x.shape[0]):
        assert same(codec.encode(x[b]), type(codes)(*(array[b] for array in codes)))
    assert np.array_equal(x, before)
    assert np.array_equal(codec.decode(codes, np.float64).astype(np.float32), codec.decode(codes, np.float32))


@each
@some
@given(data=st.data())
def test_once_rounded_is_enough(name: str, data: Any) -> None:
    """Decoded numbers come back the same, in bits where the format allows, else within the bound of a second turn.

    A scale below its dtype's normal numbers is rounded so coarsely that the largest number may miss the top code.
    """
    case = CASES[name]
    x = data.draw(rows_for(case)).astype(np.float64)
    codes = case.codec.encode(x)
    once = case.codec.decode(codes, np.float64)
    scales = getattr(codes, "scales", np.ones(1, np.float32))
    coarse = scales.dtype.kind == "f" and ((scales > 0) & (scales < np.finfo(scales.dtype).tiny)).any()
    if case.repeats and not coarse:
        assert np.array_equal(case.codec.decode(case.codec.encode(once), np.float64), once)
    else:
        assert within(case.codec, once)


@each
@some
@given(data=st.data())
def test_stored_arrays_are_those_that_are_promised(name: str, data: Any) -> None:
    codec = CASES[name].codec
    x = data.draw(rows_for(CASES[name]))
    codes = codec.encode(x)
    parts = codec.parts(x.shape)
    assert codes._fields == tuple(part.name for part in parts)
    assert [(a.shape, a.dtype) for a in codes] == [(part.shape, np.dtype(part.dtype)) for part in parts]
    assert nbytes(codec, x.shape) == sum(a.nbytes for a in codes)


@pytest.mark.law("codecs/codec", "cost equals count", "integers")
@each
@some
@given(data=st.data())
def test_cost_is_what_is_counted(name: str, data: Any) -> None:
    codec = CASES[name].codec
    x = data.draw(rows_for(CASES[name]))
    with counting() as encoding:
        codes = codec.encode(x)
    with counting() as decoding:
        codec.decode(codes, x.dtype)
    assert encoding.tally == codec.encode_cost(x.shape)
    assert decoding.tally == codec.decode_cost(x.shape)
    if x.shape[-2]:
        assert encoding.arithmetic >= decoding.arithmetic >= prod(x.shape)


@each
def test_what_cannot_be_encoded_is_refused_in_one_sentence(name: str) -> None:
    case = CASES[name]
    codec, width = case.codec, width_of(case)
    x = np.ones((2, 4, width))
    for wrong in (np.nan, np.inf, -np.inf):
        bad = x.copy()
        bad[1, 1, 0] = wrong
        for verb in (codec.encode, codec.error):
            with pytest.raises(ArgumentError, match=f"^x must be finite, got {wrong}$"):
                verb(bad)
    with pytest.raises(DtypeError, match=r"^x must be an array of float64 or float32, got dtype int64$"):
        codec.encode(x.astype(np.int64))
    with pytest.raises(ShapeError, match=r"^x must have shape \[\*, heads >= 1, tokens, width >= 1\], got \(4, \d+\)$"):
        codec.encode(x[0])
    if case.width > 1:
        with pytest.raises(ShapeError, match=r"^x must have a width that is a (multiple of|power of two)"):
            codec.encode(np.ones((2, 4, width + 1)))
    with pytest.raises(DtypeError, match=r"^dtype must be float64 or float32, got"):
        codec.decode(codec.encode(x), np.float16)


@each
def test_codes_of_another_make_are_refused_in_one_sentence(name: str) -> None:
    case = CASES[name]
    codes = case.codec.encode(np.ones((2, 4, width_of(case))))
    for n, part in enumerate(codes._fields):
        arrays = list(codes)
        arrays[n] = arrays[n].astype(np.int16)
        with pytest.raises(DtypeError, match=f"^{part} must have dtype"):
            case.codec.decode(type(codes)(*arrays), np.float64)
        arrays[n] = codes[n][..., :0]
        with pytest.raises(ShapeError, match=r"^(codes|blocks|scales|zeros) must have shape"):
            case.codec.decode(type(codes)(*arrays), np.float64)
    with pytest.raises(ShapeError, match=r"must (be|have)"):
        case.codec.decode((), np.float64)


@pytest.mark.law("codecs/codec", "what a cache has not written reads as NaN", "bits")
@each
def test_what_a_cache_has_not_written_reads_as_nan(name: str) -> None:
    """Every stored array holds what a fresh page holds: NaN, or the number that stands for it in integer fields."""
    case = CASES[name]
    codes = case.codec.encode(np.ones((2, 4, width_of(case))))
    fresh = type(codes)(*(np.full_like(array, unwritten(array.dtype)) for array in codes))
    assert np.isnan(case.codec.decode(fresh, np.float32)).all()


def test_one_zero_formats_have_no_nan_where_a_page_is_fresh() -> None:
    """The exception: E4M3FNUZ under given scales, whose NaN is 0x80 and not 0xFF."""
    fresh = Bare(np.full((1, 1, 1), 255, np.uint8))
    assert Float8Fixed(E4M3FNUZ).decode(fresh, np.float64).item() == -240.0


@each
def test_asking_for_the_bound_is_not_counted(name: str) -> None:
    case = CASES[name]
    with counting() as tally:
        case.codec.error(np.ones((2, 4, width_of(case))))
    assert not tally.flops


@pytest.mark.parametrize("name", ["int8", "int8 per token, float16 scales", "uint8", "minimum 8", "e4m3"])
def test_the_largest_float32_does_not_become_infinite(name: str) -> None:
    codec = CASES[name].codec
    x = np.full((1, 1, 4), np.finfo(np.float32).max)
    if "float16" in name:
        with pytest.raises(ArgumentError, match=r"^x must have scales in the range of float16, got 2.68e[+]36$"):
            codec.encode(x)
    else:
        assert np.isfinite(codec.decode(codec.encode(x), np.float32)).all()
        assert within(codec, x)


@pytest.mark.parametrize("name", ["int8", "uint8", "minimum 8", "e4m3", "q8_0", "q4_0", "mxfp4"])
def test_scales_beyond_their_dtype_are_refused(name: str) -> None:
    x = np.full((1, 1, 32), 1e300)
    x[..., 0] = -1e300
    with pytest.raises(ArgumentError, match=r"^x must (have (scales|minima|numbers) in the range of float|be below 2)"):
        CASES[name].codec.encode(x)


@pytest.mark.parametrize("name", ["int8 per token, float16 scales", "int8", "uint8", "minimum 8", "e4m3"])
def test_the_bound_is_not_loose(name: str) -> None:
    """At least nine tenths of it are reached by ordinary numbers."""
    codec = CASES[name].codec
    x = drawn("normal", 1, (4, 64, 128), 0, np.float64)
    ratio = np.abs(x - codec.decode(codec.encode(x), np.float64)) / codec.error(x)
    assert 0.8 < ratio.max() <= 1.0


def test_every_class_is_among_the_cases() -> None:
    kinds = {type(case.codec) for case in CASES.values()}
    assert kinds == {Symmetric, ZeroPoint, Minimum, Float8, Float8Fixed, MXFP4, NVFP4, Q8_0, Q4_0, Rotated}
    assert issubclass(type(Kivi().keys), Minimum)
    codecs: list[Codec[Any]] = [case.codec for case in CASES.values()]
    assert all(hash(codec) == hash(codec) for codec in codecs)


@pytest.mark.by_hand("codecs/codec")
@pytest.mark.no_peer("codecs/codec", "the seam is ours")
def test_bytes_by_hand() -> None:
    shape = (3, 8, 10, 64)
    rows = 3 * 8 * 10
    assert nbytes(Symmetric(8), shape) == rows * (64 + 4)
    assert nbytes(Symmetric(4, scales=np.float16), shape) == rows * (32 + 2)
    assert nbytes(ZeroPoint(4), shape) == rows * (32 + 4 + 1)
    assert nbytes(Minimum(2), shape) == rows * (16 + 4 + 4)
    assert nbytes(MXFP4(), shape) == rows * 2 * 17
    assert nbytes(NVFP4(1.0), shape) == rows * 4 * 9
    assert nbytes(Q8_0(), shape) == rows * 2 * 34
    assert nbytes(Q4_0(), shape) == rows * 2 * 18
    assert nbytes(Float8Fixed(), shape) == rows * 64


def test_records_name_their_entries() -> None:
    assert Scaled._fields == ("codes", "scales")
    assert Shifted._fields == ("codes", "scales", "zeros")
    assert Bare._fields == ("codes",)
    assert Blocks._fields == ("blocks",)
    assert Part._fields == ("name", "shape", "dtype")
    assert issubclass(ShapeError, KvattnError)
