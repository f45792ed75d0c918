"""Wrong codecs, each of which a check of tests/codecs must reject: many are real, with the thread's number.

Each mutant stands beside the codec it was made from, and the same check lets that one through.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.codecs import (
    E2M1,
    E4M3FN,
    E5M2,
    MXFP4,
    NVFP4,
    PER_CHANNEL,
    Q4_0,
    Q8_0,
    Codec,
    Float8,
    Float8Fixed,
    Kivi,
    Minimum,
    Part,
    Rotated,
    Scaled,
    SmallFloat,
    Symmetric,
    ZeroPoint,
    groups_of,
    hadamard,
    nbytes,
)
from kvattn.codecs.packing import pack, unpack
from tests.codecs import ggml, integers, test_kivi, test_mxfp4, test_small_float
from tests.codecs.cases import KINDS, cut_is_invisible, drawn, within

SHAPE = (3, 4, 32)


def bound(codec: Any, right: Any) -> bool:
    """What comes back is within the right codec's bound, for rows of every kind and three sizes."""
    sizes = (-20, 0, 8)
    rows = [drawn(kind, 3, SHAPE, size, np.float32) for kind in KINDS for size in sizes]
    return all(within(codec, x, right.error(x)) for x in rows)


def cut(codec: Any, _: Any) -> bool:
    """Cuts between tokens do not show, and a token of a cache needs no other."""
    return all(cut_is_invisible(codec, drawn("normal", seed, SHAPE, 0, np.float32), 2) for seed in range(3))


def stored_bytes(codec: Any, _: Any) -> bool:
    """What is promised is what is stored."""
    x = drawn("normal", 0, SHAPE, 0, np.float32)
    return nbytes(codec, x.shape) == sum(int(array.nbytes) for array in codec.encode(x))


def hand(rule: Any, box: Any) -> Callable[[Any, Any], bool]:
    """Codes, scales and zeros are those of the fractions."""

    def check(codec: Any, right: Any) -> bool:
        for kind in range(4):
            x = integers.rows(kind)
            packed, scales, zeros = integers.by_hand(rule, x, right.bits, box, right.scales)
            found = codec.encode(x)
            alike = np.array_equal(found.codes.view(np.uint8), packed)
            alike &= np.array_equal(found.scales.astype(float), scales)
            alike &= rule is integers.symmetric_box or np.array_equal(found.zeros.astype(float), zeros)
            if not alike:
                return False
        return True

    return check


def gguf(rule: Any) -> Callable[[Any, Any], bool]:
    """Bytes are those of the fractions."""

    def check(codec: Any, _: Any) -> bool:
        rows = [drawn(kind, 1, (2, 2, 32), 0, np.float32) for kind in ("normal", "halves", "negative", "powers")]
        ties = np.arange(-15.5, 16.5, dtype=np.float32)
        ties[0] = 127.0
        rows.append(ties.reshape(1, 1, 32))
        return all(codec.encode(x).blocks.ravel().tolist() == ggml.by_hand(rule, x) for x in rows)

    return check


def mx_hand(codec: Any, _: Any) -> bool:
    x = drawn("normal", 1, (2, 2, 32), 0, np.float32)
    packed, scales = test_mxfp4.by_hand_rows(x)
    found = codec.encode(x)
    return np.array_equal(found.codes, packed) and np.array_equal(found.scales, scales)


@dataclass(frozen=True)
class Wrong:
    """A codec with one verb replaced."""

    right: Any
    encoded: Callable[[Any, Any], Any] = lambda right, x: right.encode(x)
    decoded: Callable[[Any, Any, Any], Any] = lambda right, codes, dtype: right.decode(codes, dtype)
    parted: Callable[[Any, Any], Any] = lambda right, shape: right.parts(shape)

    @property
    def tokens(self) -> int | None:
        return 1

    def encode(self, x: Any) -> Any:
        return self.encoded(self.right, x)

    def decode(self, codes: Any, dtype: Any) -> Any:
        return self.decoded(self.right, codes, dtype)

    def parts(self, shape: Any) -> tuple[Part, ...]:
        return self.parted(self.right, shape)  # type: ignore[no-any-return]


def with_scales(right: Any, x: Any, change: Callable[[Any], Any]) -> Scaled:
    """Symmetric codes made with other scales."""
    scales = change(right.encode(x).scales)
    wide = np.maximum(right.sharing.spread(scales.astype(np.float64), x.shape), 1e-300)
    codes = np.clip(np.rint(x / wide), -right.top, right.top).astype(np.int8)
    return Scaled(codes if right.bits == 8 else pack(codes, right.bits), scales)


def rounded(right: Any, x: Any, rule: Callable[[Any], Any]) -> Scaled:
    """Symmetric codes with another rounding."""
    scales = right.encode(x).scales
    wide = right.sharing.spread(scales.astype(np.float64), x.shape)
    units = np.divide(x.astype(np.float64), wide, out=np.zeros(x.shape), where=wide > 0)
    codes = np.clip(rule(units), -right.top, right.top).astype(np.int8)
    return Scaled(pack(codes, right.bits), scales)


def swapped(packed: Any) -> Any:
    return (packed << np.uint8(4)) | (packed >> np.uint8(4))


def head_zero(codes: Any) -> Any:
    return codes._replace(scales=np.repeat(codes.scales[..., :1, :, :], codes.scales.shape[-3], -3))


def half_up(units: Any) -> Any:
    return np.floor(units + 0.5)


def across_heads(right: Any, x: Any) -> Any:
    """Groups of 24 over heads and channels laid end to end, written as groups of the head's own."""
    return right.encode(np.roll(x, 8, axis=-1))


def adjacent(right: Any, x: Any) -> Any:
    """Neighbouring channels in one byte of q4_0."""
    blocks = right.encode(x).blocks.reshape(-1, 18).copy()
    codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], -1)
    blocks[:, 2:] = pack(codes, 4)
    return right.encode(x)._replace(blocks=blocks.reshape(right.encode(x).blocks.shape))


def from_size(right: Any, x: Any) -> Any:
    """The size of the largest number in place of the number: q4_0 with a negative scale always."""
    return right.encode(np.where(np.abs(x) == np.abs(x).max(-1, keepdims=True), np.abs(x), x).astype(x.dtype))


def even_q8(right: Any, x: Any) -> Any:
    """Ties to even in q8_0."""
    blocks = right.encode(x).blocks.reshape(-1, 34).copy()
    scales = np.abs(x.reshape(-1, 32)).max(-1, keepdims=True) / np.float32(127)
    inverse = np.float32(1) / np.maximum(scales, np.float32(1e-30))
    blocks[:, 2:] = np.rint(x.reshape(-1, 32) * inverse).astype(np.int8).view(np.uint8)
    return right.encode(x)._replace(blocks=blocks.reshape(right.encode(x).blocks.shape))


def scale_rounded_first(right: Any, x: Any) -> Any:
    """q8_0 codes made with the float16 scale."""
    blocks = right.encode(x).blocks.reshape(-1, 34).copy()
    scales = np.maximum(blocks[:, :2].copy().view("<f2").astype(np.float32), np.float32(1e-7))
    size = np.abs(x.reshape(-1, 32)) / scales
    blocks[:, 2:] = np.clip(np.copysign(np.floor(size + 0.5), x.reshape(-1, 32)), -127, 127).astype(np.int8).view("u1")
    return right.encode(x)._replace(blocks=blocks.reshape(right.encode(x).blocks.shape))


def one_higher(right: Any, x: Any) -> Any:
    """MXFP4 with the exponent that keeps everything below 4."""
    codes = moved(right.encode(x), 1)
    wide = np.repeat(codes.scales.astype(int), 32, -1) - 127
    return codes._replace(codes=pack(E2M1.encode(np.ldexp(x.astype(np.float64), -wide)), 4))


def beyond_is_nan(right: Any, x: Any) -> Any:
    codes = right.encode(x)
    wide = np.abs(x) > right.kind.largest * right.scales[0]
    return codes._replace(codes=np.where(wide, np.uint8(0x7F), codes.codes))


def moved(codes: Any, by: int) -> Any:
    return codes._replace(scales=(codes.scales + np.uint8(by)).astype(np.uint8))


INT8, INT4, UINT8, MIN4 = Symmetric(8), Symmetric(4), ZeroPoint(8), Minimum(4, groups_of(8))
FIXED, NV = Float8Fixed(E4M3FN, (0.04,)), NVFP4(0.003)
SYMMETRIC, ZERO, MINIMUM = (
    (rule, (1, 1, 8)) for rule in (integers.symmetric_box, integers.zero_point_box, integers.minimum_box)
)

MUTANTS: dict[str, tuple[Any, Any, Callable[[Any, Any], bool]]] = {
    "scales along the wrong axis": (replace(INT8, sharing=PER_CHANNEL), INT8, cut),
    "head 0's scale for all (sgl-kernel-xpu #252)": (
        Wrong(INT8, decoded=lambda r, c, d: r.decode(head_zero(c), d)),
        INT8,
        bound,
    ),
    "scale written, not read (sglang #34765)": (
        Wrong(FIXED, decoded=lambda r, c, d: Float8Fixed().decode(c, d)),
        FIXED,
        bound,
    ),
    "scale read, not written (sglang #18818)": (
        Wrong(FIXED, encoded=lambda r, x: Float8Fixed().encode(x)),
        FIXED,
        bound,
    ),
    "half rounds up": (Wrong(INT4, encoded=lambda r, x: rounded(r, x, half_up)), INT4, hand(*SYMMETRIC)),
    "rounds towards zero": (Wrong(INT4, encoded=lambda r, x: rounded(r, x, np.trunc)), INT4, bound),
    "divides by one level too many": (
        Wrong(INT8, encoded=lambda r, x: with_scales(r, x, lambda s: s * np.float32(127 / 128))),
        INT8,
        bound,
    ),
    "divides by one level too few": (
        Wrong(INT4, encoded=lambda r, x: with_scales(r, x, lambda s: s * np.float32(7 / 6))),
        INT4,
        bound,
    ),
    "scale by way of float16": (
        Wrong(INT8, encoded=lambda r, x: with_scales(r, x, lambda s: s.astype(np.float16).astype(np.float32))),
        INT8,
        bound,
    ),
    "nibbles swapped on read": (
        Wrong(INT4, decoded=lambda r, c, d: r.decode(c._replace(codes=swapped(c.codes)), d)),
        INT4,
        bound,
    ),
    "nibbles swapped on both sides": (
        Wrong(INT4, encoded=lambda r, x: r.encode(x)._replace(codes=swapped(r.encode(x).codes))),
        INT4,
        hand(*SYMMETRIC),
    ),
    "nibbles read without sign": (
        Wrong(INT4, decoded=lambda r, c, d: (unpack(c.codes, 4) * r.sharing.spread(c.scales, SHAPE)).astype(d)),
        INT4,
        bound,
    ),
    "zero point off by one": (
        Wrong(UINT8, decoded=lambda r, c, d: r.decode(c._replace(zeros=c.zeros + np.uint8(1)), d)),
        UINT8,
        bound,
    ),
    "zero point off by one on both sides": (
        Wrong(UINT8, encoded=lambda r, x: r.encode(x)._replace(zeros=r.encode(x).zeros + np.uint8(1))),
        UINT8,
        hand(*ZERO),
    ),
    "minimum left out on read": (
        Wrong(MIN4, decoded=lambda r, c, d: r.decode(c._replace(zeros=np.zeros_like(c.zeros)), d)),
        MIN4,
        bound,
    ),
    "maximum kept for the minimum": (
        Wrong(MIN4, encoded=lambda r, x: r.encode(x)._replace(zeros=-r.encode(-x).zeros)),
        MIN4,
        bound,
    ),
    "groups cross a head (Rapid-MLX #1219)": (
        Wrong(Minimum(4), encoded=lambda r, x: Minimum(4).encode(np.roll(x, 8, -3))),
        Minimum(4),
        bound,
    ),
    "groups begin eight channels late": (Wrong(MIN4, encoded=across_heads), MIN4, bound),
    "scales left out of the bytes (kvcached #424)": (
        Wrong(INT8, parted=lambda r, s: r.parts(s)[:1]),
        INT8,
        stored_bytes,
    ),
    "two codes counted as one byte each": (
        Wrong(INT4, parted=lambda r, s: (Part("codes", tuple(s), "u1"), *r.parts(s)[1:])),
        INT4,
        stored_bytes,
    ),
    "beyond the range there is no number": (Wrong(FIXED, encoded=beyond_is_nan), FIXED, bound),
    "E5M2 read as E4M3": (
        Wrong(Float8(E4M3FN), encoded=lambda r, x: Float8(E5M2).encode(x)),
        Float8(E4M3FN),
        bound,
    ),
    "MXFP4 exponent one too high": (Wrong(MXFP4(), encoded=one_higher), MXFP4(), mx_hand),
    "MXFP4 bias of 126": (Wrong(MXFP4(), decoded=lambda r, c, d: r.decode(moved(c, 1), d)), MXFP4(), bound),
    "NVFP4 without the scale of all": (Wrong(NV, decoded=lambda r, c, d: NVFP4(1.0).decode(c, d)), NV, bound),
    "NVFP4 block scales one code up": (Wrong(NV, decoded=lambda r, c, d: r.decode(moved(c, 1), d)), NV, bound),
    "q8_0 rounds ties to even": (Wrong(Q8_0(), encoded=even_q8), Q8_0(), gguf(ggml.q8_0)),
    "q8_0 codes from the rounded scale": (Wrong(Q8_0(), encoded=scale_rounded_first), Q8_0(), gguf(ggml.q8_0)),
    "q4_0 forgets the sign of the largest": (Wrong(Q4_0(), encoded=from_size), Q4_0(), gguf(ggml.q4_0)),
    "q4_0 packs neighbours": (Wrong(Q4_0(), encoded=adjacent), Q4_0(), gguf(ggml.q4_0)),
    "not turned back": (
        Wrong(Rotated(INT8), decoded=lambda r, c, d: INT8.decode(c, d)),
        Rotated(INT8),
        bound,
    ),
    "turned back without the root": (
        Wrong(Rotated(INT8), decoded=lambda r, c, d: (r.decode(c, np.float64) * np.sqrt(SHAPE[-1])).astype(d)),
        Rotated(INT8),
        bound,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_codec_is_rejected(name: str) -> None:
    wrong, right, check = MUTANTS[name]
    assert check(right, right)
    assert not check(wrong, right)


class Flushing(SmallFloat):
    """Numbers below the smallest normal one become 0."""

    def encode(self, x: Any) -> Any:
        return super().encode(np.where(np.abs(x) < 2.0 ** (1 - self.bias), np.copysign(0.0, x), x))


class TowardsZero(SmallFloat):
    """What does not fit is cut off."""

    def encode(self, x: Any) -> Any:
        codes = super().encode(x)
        return codes - (np.abs(self.decode(codes)) > np.abs(x)).astype(np.uint8)


class TiesAway(SmallFloat):
    """Halves go up."""

    def encode(self, x: Any) -> Any:
        return super().encode(np.nextafter(x, np.copysign(np.inf, x)))


class ThroughSingle(SmallFloat):
    """Rounded twice, as ml_dtypes does from float64."""

    def encode(self, x: Any) -> Any:
        return super().encode(np.asarray(x).astype(np.float32).astype(np.float64))


class Wrapping(SmallFloat):
    """Beyond the largest number the code runs on, into NaN."""

    def encode(self, x: Any) -> Any:
        return np.where(np.abs(x) > self.largest, np.uint8(0x7F), super().encode(x))


def fields(kind: SmallFloat) -> tuple[Any, ...]:
    return tuple(vars(kind).values())


FORMATS = {
    **{
        f"{wrong.__name__} E4M3FN": wrong(*fields(E4M3FN)) for wrong in (Flushing, TowardsZero, TiesAway, ThroughSingle)
    },
    **{f"{wrong.__name__} E2M1": wrong(*fields(E2M1)) for wrong in (Flushing, TowardsZero, TiesAway, ThroughSingle)},
    "another bias": replace(E4M3FN, bias=8),
    "E4M3FN up to 480": replace(E4M3FN, largest=480.0, nan=None),
    "E5M2 up to 49152": replace(E5M2, largest=49152.0),
    "one zero": replace(E4M3FN, negative_zero=False),
    "Wrapping": Wrapping(*fields(E4M3FN)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_format_is_rejected(name: str) -> None:
    kind = FORMATS[name]
    right = {"E2M1": E2M1, "E5M2": E5M2}.get(kind.name, E4M3FN)

    def passes(candidate: SmallFloat) -> bool:
        exact = test_small_float.positive(right)
        numbers = [float(n) for n in exact]
        ties = (np.array(numbers[1:]) + numbers[:-1]) / 2
        x = np.concatenate([numbers, ties, np.nextafter(ties, np.inf), np.nextafter(ties, 0), [2 * right.largest]])
        wanted = [test_small_float.by_hand(Fraction(float(n)), exact) for n in x]
        half = 1 << (right.exponent + right.mantissa)
        codes = candidate.encode(x).tolist() == wanted
        signs = candidate.encode(-x).tolist() == [half + code for code in wanted]
        return codes and signs and np.array_equal(candidate.numbers(), right.numbers(), equal_nan=True)

    assert passes(right)
    assert not passes(kind)


@dataclass(frozen=True)
class SettlesByGroups(Kivi):
    """Keys settle a group at a time, though the residual is larger."""

    def settled_keys(self, tokens: int) -> int:
        return tokens - tokens % self.group


@dataclass(frozen=True)
class SettlesOneEarly(Kivi):
    """The residual of values is one too short."""

    def settled_values(self, tokens: int) -> int:
        return max(0, tokens - self.residual + 1)


@dataclass(frozen=True)
class SettlesKeysLikeValues(Kivi):
    """Keys settle one by one."""

    def settled_keys(self, tokens: int) -> int:
        return max(0, tokens - self.residual)


@pytest.mark.parametrize("wrong", [SettlesByGroups, SettlesOneEarly, SettlesKeysLikeValues])
def test_a_wrong_residual_is_rejected(wrong: type[Kivi]) -> None:
    def passes(kind: type[Kivi]) -> bool:
        kivi = kind(2, 2, 4)
        return all((kivi.settled_keys(n), kivi.settled_values(n)) == test_kivi.streamed(4, n) for n in range(20))

    assert passes(Kivi)
    assert not passes(wrong)


def missing_sign(x: Any) -> Any:
    """A butterfly that adds twice."""
    first, second = np.split(np.asarray(x, float), 2, axis=-1)
    return np.concatenate([first + second, first + second], -1) / np.sqrt(2)


def missing_root(x: Any) -> Any:
    return hadamard.hadamard(x) * np.sqrt(np.shape(x)[-1])


@pytest.mark.parametrize("wrong", [missing_sign, missing_root])
def test_a_wrong_rotation_is_no_inverse_of_itself(wrong: Callable[[Any], Any]) -> None:
    x = np.random.default_rng(0).standard_normal((3, 16))
    assert np.allclose(hadamard.hadamard(hadamard.hadamard(x)), x)
    assert not np.allclose(wrong(wrong(x)), x)


def test_the_seam_is_what_the_mutants_stand_in_for() -> None:
    codecs: list[Codec[Any]] = [right for _, right, _ in MUTANTS.values()]
    assert len({type(codec) for codec in codecs}) == 10
