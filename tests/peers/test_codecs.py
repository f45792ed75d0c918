"""Codes, scales and numbers beside ml_dtypes, torch, gguf, torchao, optimum-quanto, mlx, ONNX and scipy.

Formats with finitely many numbers are compared exhaustively, and GGUF's blocks to the byte.  The others divide in
float32 where kvattn divides in float64: of two roundings each is off by 2⁻²⁴ of the code, so a number as near to a tie
as that may get the neighbouring code there.  Those may differ by one, nothing else may differ, and few do.
"""

from typing import Any

import numpy as np
import pytest

from kvattn.codecs import (
    E2M1,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    MXFP4,
    NVFP4,
    PER_TENSOR,
    Q4_0,
    Q8_0,
    Float8,
    Float8Fixed,
    Kivi,
    Minimum,
    SmallFloat,
    Symmetric,
    ZeroPoint,
    groups_of,
)
from kvattn.codecs.hadamard import hadamard
from kvattn.codecs.nvfp4 import tensor_scale
from kvattn.codecs.packing import unpack
from tests.codecs.cases import KINDS, drawn

pytestmark = pytest.mark.peer

FORMATS = [(E4M3FN, "float8_e4m3fn"), (E5M2, "float8_e5m2"), (E4M3FNUZ, "float8_e4m3fnuz"), (E2M1, "float4_e2m1fn")]


def module(name: str, why: str) -> Any:
    return pytest.importorskip(name, reason=f"codecs: {why}, which the peers extra installs")


def ml_dtype(name: str) -> Any:
    return getattr(module("ml_dtypes", "rounding is compared with ml_dtypes"), name)


def in_range(kind: SmallFloat, x: Any) -> Any:
    return x[np.isfinite(x) & (np.abs(x) <= kind.largest)]


def differ_at_ties_only(ours: Any, theirs: Any, units: Any, rarely: float = 1e-4) -> None:
    """Codes differ by one at most, only as near to a tie as float32 division is off, and rarely."""
    wrong = ours != theirs
    to_tie = np.abs(np.abs(units - np.floor(units)) - 0.5)
    assert np.abs(ours[wrong] - theirs[wrong]).max(initial=0) <= 1
    assert (to_tie[wrong] <= np.maximum(np.abs(units[wrong]), 1) * 2.0**-21).all()
    assert wrong.mean() <= rarely


@pytest.mark.peer("codecs/small_float", "ml_dtypes float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float4_e2m1fn", "bits")
@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_every_code_reads_as_in_ml_dtypes(kind: SmallFloat, name: str) -> None:
    codes = np.arange(1 << (1 + kind.exponent + kind.mantissa), dtype=np.uint8)
    theirs, ours = codes.view(ml_dtype(name)).astype(np.float64), kind.decode(codes)
    assert np.array_equal(theirs, ours, equal_nan=True)
    real = ~np.isnan(ours)
    assert np.array_equal(np.signbit(theirs[real]), np.signbit(ours[real]))


@pytest.mark.peer("codecs/small_float", "ml_dtypes, all float16 and bfloat16 numbers, all ties and neighbours", "bits")
@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_every_half_and_every_tie_rounds_as_in_ml_dtypes(kind: SmallFloat, name: str) -> None:
    patterns = np.arange(65536, dtype=np.uint16)
    numbers = np.sort(kind.numbers()[np.isfinite(kind.numbers())])
    ties = (numbers[1:] + numbers[:-1]) / 2
    sets = [patterns.view(np.float16), patterns.view(ml_dtype("bfloat16")).astype(np.float32), ties]
    sets += [np.nextafter(ties.astype(np.float32), np.float32(side * np.inf)) for side in (1, -1)]
    for x in sets:
        inside = in_range(kind, x)
        theirs = inside.astype(ml_dtype(name)).view(np.uint8)
        assert np.array_equal(kind.encode(inside.astype(np.float64)), theirs)


@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_ml_dtypes_rounds_float64_twice(kind: SmallFloat, name: str) -> None:
    """A fault of its casts: through float32, so that what lies just off a tie is taken for the tie."""
    numbers = np.sort(kind.numbers()[np.isfinite(kind.numbers())])
    off = np.nextafter((numbers[1:] + numbers[:-1]) / 2, np.inf)
    theirs, ours = off.astype(ml_dtype(name)).view(np.uint8), kind.encode(off)
    by_way_of_single = kind.encode(off.astype(np.float32).astype(np.float64))
    assert np.array_equal(theirs, by_way_of_single)
    assert (theirs != ours).mean() > 0.4


@pytest.mark.parametrize(("kind", "name"), FORMATS)
def test_beyond_the_largest_ml_dtypes_has_no_number(kind: SmallFloat, name: str) -> None:
    """A convention: NaN or infinity there (E2M1 saturates in both), the largest number here."""
    x = np.array([2.0 * kind.largest, -3.0 * kind.largest])
    theirs = x.astype(ml_dtype(name)).astype(np.float64)
    assert np.isfinite(theirs).all() == (kind is E2M1)
    assert np.array_equal(np.abs(kind.decode(kind.encode(x))), [kind.largest] * 2)


@pytest.mark.peer("codecs/float8_fixed", "torch.float8_e4m3fn and float8_e5m2, all float16 numbers", "bits")
@pytest.mark.parametrize(("kind", "name"), FORMATS[:3])
def test_a_plain_cast_is_torchs(kind: SmallFloat, name: str) -> None:
    torch = module("torch", "casts are compared with torch")
    x = in_range(kind, np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32))
    theirs = torch.from_numpy(x).to(getattr(torch, name)).view(torch.uint8).numpy()
    assert np.array_equal(Float8Fixed(kind).encode(x[None, None]).codes[0, 0], theirs)


@pytest.mark.peer("codecs/mxfp4", "ml_dtypes float8_e8m0fnu scales and float4_e2m1fn numbers", "bits")
def test_e8m0_scales_read_as_in_ml_dtypes() -> None:
    scales = np.arange(256, dtype=np.uint8)
    codes = MXFP4().encode(np.ones((1, 256, 32)))._replace(scales=scales.reshape(1, 256, 1))
    theirs = scales.view(ml_dtype("float8_e8m0fnu")).astype(np.float64)
    one = unpack(codes.codes, 4)[0, 0, 0]
    number = float(np.array([one], np.uint8).view(ml_dtype("float4_e2m1fn")).astype(np.float64)[0])
    assert np.array_equal(MXFP4().decode(codes, np.float64)[0, :, 0], theirs * number, equal_nan=True)


def torchao(name: str) -> Any:
    torch = module("torch", "codecs are compared with torchao, which runs on torch")
    module("torchao", "codecs are compared with torchao")
    return torch, __import__(f"torchao.prototype.mx_formats.{name}", fromlist=["x"])


@pytest.mark.peer("codecs/mxfp4", "torchao to_mx, FLOOR", "bits")
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("exponent", [-80, -20, 0, 60])
def test_mxfp4_is_torchaos(kind: str, exponent: int) -> None:
    torch, mx = torchao("mx_tensor")
    x = drawn(kind, 2, (4, 50, 64), exponent, np.float32)
    scales, packed = mx.to_mx(torch.from_numpy(x.reshape(-1, 64)), torch.float4_e2m1fn_x2, 32)
    ours = MXFP4().encode(x)
    theirs = scales.view(torch.uint8).numpy().reshape(ours.scales.shape)
    live = np.repeat(x.reshape(4, 50, 2, 32).any(-1), 1, -1)  # a block of zeros: v1.0 leaves its scale open
    assert np.array_equal(ours.scales[live], theirs[live])
    codes = packed.view(torch.uint8).numpy().reshape(ours.codes.shape)
    assert np.array_equal(ours.codes, codes)


@pytest.mark.peer("codecs/nvfp4", "torchao nvfp4_quantize", "scales: bits; codes: one step at ties, float32 division")
@pytest.mark.parametrize("kind", ["normal", "outlier", "constant", "negative", "far from zero"])
def test_nvfp4_is_torchaos(kind: str) -> None:
    torch, nv = torchao("nvfp4_tensor")
    x = drawn(kind, 2, (1, 200, 64), 0, np.float32)
    codec = NVFP4(tensor_scale(x))
    ours = codec.encode(x)
    scales, packed = nv.nvfp4_quantize(torch.from_numpy(x[0]), 16, torch.tensor(codec.scale))
    theirs = scales.view(torch.uint8).numpy().reshape(1, 200, 4)
    normal = ours.scales >= 8  # from 2^-6 on: torchao raises smaller ones to that
    assert normal.mean() > 0.9
    assert np.array_equal(ours.scales[normal], theirs[normal])
    wide = np.repeat(normal, 16, -1)
    there = unpack(packed.view(torch.uint8).numpy()[None], 4)
    here = unpack(ours.codes, 4)
    assert (here != there)[wide].mean() <= 1e-3


@pytest.mark.peer("codecs/q8_0", "gguf.quants Q8_0, both ways", "bits")
@pytest.mark.peer("codecs/q4_0", "gguf.quants Q4_0, both ways", "bits")
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("exponent", [-70, -24, -10, 0, 9])
def test_blocks_are_ggufs_to_the_byte(kind: str, exponent: int) -> None:
    gguf = module("gguf", "blocks are compared with gguf")
    x = drawn(kind, 4, (3, 40, 64), exponent, np.float32)
    for codec, theirs in ((Q8_0(), gguf.GGMLQuantizationType.Q8_0), (Q4_0(), gguf.GGMLQuantizationType.Q4_0)):
        blocks = gguf.quants.quantize(x, theirs)
        ours = codec.encode(x)
        assert np.array_equal(ours.blocks, blocks)
        assert np.array_equal(codec.decode(ours, np.float32), gguf.quants.dequantize(blocks, theirs))


def quanto() -> Any:
    torch = module("torch", "codecs are compared with optimum-quanto, which runs on torch")
    return torch, module("optimum.quanto", "codecs are compared with optimum-quanto")


@pytest.mark.peer("codecs/symmetric", "optimum-quanto qint8", "scales: bits; codes: one step at ties, float32 division")
@pytest.mark.parametrize("kind", ["normal", "outlier", "constant", "negative", "halves"])
def test_int8_is_quantos(kind: str) -> None:
    torch, q = quanto()
    x = drawn(kind, 1, (1, 400, 64), 0, np.float32)
    base = torch.from_numpy(x[0])
    scale = q.AbsmaxOptimizer()(base, q.qint8, 0)
    theirs = torch.ops.quanto.quantize_symmetric(base, dtype=torch.int8, axis=0, scale=scale).numpy()
    ours = Symmetric(8).encode(x)
    assert np.array_equal(ours.scales[0], scale.numpy())
    units = x[0] / ours.scales[0].astype(np.float64)
    rarely = 0.1 if kind == "halves" else 1e-4  # many of those are ties
    differ_at_ties_only(ours.codes[0].astype(int), theirs.astype(int), units, rarely)


@pytest.mark.peer("codecs/minimum", "optimum-quanto qint4 and qint2", "one step at ties, float32 division")
@pytest.mark.parametrize("kind", ["normal", "outlier", "negative", "unequal heads"])
@pytest.mark.parametrize("bits", [2, 4])
def test_grouped_codes_are_quantos(bits: int, kind: str) -> None:
    torch, q = quanto()
    x = drawn(kind, 1, (1, 400, 64), 0, np.float32)
    base = torch.from_numpy(x[0])
    scale, shift = q.MaxOptimizer()(base, q.qint4 if bits == 4 else q.qint2, 0, 32)
    ours = Minimum(bits, groups_of(32)).encode(x)
    assert np.allclose(ours.scales.ravel(), scale.numpy().ravel(), rtol=2.0**-22, atol=0)  # a difference, a quotient
    assert np.array_equal(-ours.zeros.ravel(), shift.numpy().ravel())
    same = torch.from_numpy(ours.scales.reshape(scale.shape))
    theirs = torch.ops.quanto.quantize_affine(base, bits, 0, 32, same, shift).numpy().reshape(400, 64)
    wide = [np.repeat(a[0].astype(np.float64), 32, -1) for a in (ours.scales, ours.zeros)]
    differ_at_ties_only(unpack(ours.codes[0], bits).astype(int), theirs.astype(int), (x[0] - wide[1]) / wide[0])


@pytest.mark.peer("codecs/kivi", "optimum-quanto along both axes", "one step at ties, float32 division")
def test_kivi_is_quanto_along_tokens_for_keys_and_along_channels_for_values() -> None:
    torch, _ = quanto()
    x = drawn("normal", 1, (1, 128, 64), 0, np.float16).astype(np.float32)
    kivi = Kivi(2, 32, 128)
    base = torch.from_numpy(x[0])
    for codec, axis in ((kivi.keys, -1), (kivi.values, 0)):
        ours = codec.encode(x)
        flat = [a[0].T if axis == -1 else a[0] for a in (ours.scales, ours.zeros)]
        given = [torch.from_numpy(np.ascontiguousarray(a.astype(np.float32))).reshape(-1) for a in flat]
        grouped = [g.reshape(1, -1) if axis == -1 else g.reshape(-1, 1) for g in given]
        if axis == -1:  # quanto lays a channel's groups side by side
            columns = torch.from_numpy(x[0].T.reshape(-1, 32).T.copy())
            theirs = torch.ops.quanto.quantize_affine(columns, 2, axis, None, grouped[0], -grouped[1])
            codes = theirs.numpy().T.reshape(64, 128).T
        else:
            theirs = torch.ops.quanto.quantize_affine(base, 2, axis, 32, grouped[0], -grouped[1])
            codes = theirs.numpy().reshape(128, 64)
        wide = [codec.sharing.spread(a.astype(np.float64), x.shape)[0] for a in (ours.scales, ours.zeros)]
        differ_at_ties_only(unpack(ours.codes[0], 2).astype(int), codes.astype(int), (x[0] - wide[1]) / wide[0])


@pytest.mark.peer("codecs/float8", "optimum-quanto qfloat8_e4m3fn", "scales: bits; codes: one step at ties")
@pytest.mark.parametrize("kind", ["normal", "outlier", "constant", "powers"])
def test_scaled_float8_is_quantos(kind: str) -> None:
    torch, q = quanto()
    x = drawn(kind, 1, (1, 400, 64), 0, np.float32)
    x[..., 0] = 1.0  # quanto divides by the scale of a row of zeros
    base = torch.from_numpy(x[0])
    scale = q.AbsmaxOptimizer()(base, q.qfloat8_e4m3fn, 0)
    theirs = torch.ops.quanto.quantize_symmetric(base, dtype=torch.float8_e4m3fn, axis=0, scale=scale)
    ours = Float8().encode(x)
    assert np.array_equal(ours.scales[0], scale.numpy())
    codes = theirs.view(torch.uint8).numpy().astype(int)
    assert np.abs(ours.codes[0].astype(int) - codes).max() <= 1
    assert (ours.codes[0] != codes).mean() <= 1e-4


@pytest.mark.peer("codecs/packing", "mlx.core.dequantize, affine", "1e-6: float32 sum")
@pytest.mark.peer("codecs/minimum", "mlx.core.dequantize, affine", "1e-6: float32 sum")
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mlx_reads_our_bytes(bits: int) -> None:
    """Four bytes of ours, lowest first, are one of its words; its two numbers for each group are ours."""
    mx = module("mlx.core", "bytes are read with mlx")
    x = drawn("normal", 7, (1, 20, 64), 0, np.float32)
    codec = Minimum(bits, groups_of(32))
    codes = codec.encode(x)
    words = mx.array(np.ascontiguousarray(codes.codes[0]).view("<u4"))
    scales, zeros = (mx.array(np.ascontiguousarray(a[0])) for a in (codes.scales, codes.zeros))
    theirs = np.array(mx.dequantize(words, scales, zeros, group_size=32, bits=bits))
    assert np.abs(theirs - codec.decode(codes, np.float32)[0]).max() <= 1e-6


@pytest.mark.peer("codecs/zero_point", "onnx.reference DynamicQuantizeLinear", "one step at ties, float32 division")
@pytest.mark.parametrize("kind", ["normal", "negative", "outlier", "halves", "far from zero"])
def test_zero_points_are_onnxs(kind: str) -> None:
    module("onnx", "zero points are compared with ONNX")
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, None])]
    kinds = [("y", TensorProto.UINT8), ("scale", TensorProto.FLOAT), ("zero", TensorProto.UINT8)]
    results = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds]
    model = helper.make_model(helper.make_graph([node], "g", given, results))
    for seed in range(20):
        x = drawn(kind, seed, (2, 20, 16), 0, np.float32)
        theirs, scale, zero = ReferenceEvaluator(model).run(None, {"x": x})
        ours = ZeroPoint(8, PER_TENSOR).encode(x)
        assert ours.scales.item() == pytest.approx(float(np.ravel(scale)[0]), rel=2.0**-22)
        if ours.scales.item() == np.ravel(scale)[0] and ours.zeros.item() == np.ravel(zero)[0]:
            units, rarely = x / np.float64(ours.scales.item()), 0.1 if kind == "halves" else 0.01
            differ_at_ties_only(ours.codes.astype(int), theirs.astype(int), units, rarely)
        else:
            assert np.abs(ours.codes.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.peer("codecs/hadamard", "scipy.linalg.hadamard", "1e-12: a sum of 256 numbers in float64")
@pytest.mark.parametrize("width", [1, 2, 16, 256])
def test_the_rotation_is_scipys_matrix(width: int) -> None:
    linalg = module("scipy.linalg", "the rotation is compared with scipy")
    x = np.random.default_rng(width).standard_normal((3, width))
    assert np.abs(hadamard(x) - x @ linalg.hadamard(width) / np.sqrt(width)).max() <= 1e-12
