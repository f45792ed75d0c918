"""What arrays `kvattn` takes, what it makes of them, and the sentence it has for every other."""

from typing import Any

import numpy as np
import pytest

from kvattn.arrays import anything, boolean_or_floating, compute_dtype, floating, positions
from kvattn.errors import DtypeError, KvattnError, PositionError, ShapeError


class OnlyDLPack:
    """An array of a library that NumPy knows nothing of."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class NoDLPackAfterAll(OnlyDLPack):
    """On a device that NumPy cannot read."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("far away")


SQUARE = np.array([[1.5, -2.0], [0.0, 4.0]])


@pytest.mark.parametrize(
    "value",
    [
        SQUARE,
        SQUARE.tolist(),
        tuple(map(tuple, SQUARE)),
        SQUARE.astype(np.float16),
        SQUARE.astype(np.float32),
        SQUARE.astype(">f8"),
        np.asfortranarray(SQUARE),
        SQUARE[::-1][::-1],
        OnlyDLPack(SQUARE),
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_of_any_kind_become_the_dtype_asked_for(value: Any, dtype: str) -> None:
    found = floating("q", value, dtype)
    assert found.dtype == dtype
    assert found.dtype.isnative
    assert found.tolist() == SQUARE.tolist()


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_integers_become_numbers(kind: str) -> None:
    assert floating("q", np.array([0, 7], kind)).tolist() == [0.0, 7.0]


def test_integers_up_to_2_53_are_exact_and_beyond_are_refused() -> None:
    assert floating("q", [2**53, -(2**53)]).tolist() == [2.0**53, -(2.0**53)]
    for beyond in (2**53 + 1, -(2**53) - 1):
        with pytest.raises(DtypeError, match=r"q must hold integers that float64 represents, at most 2\*\*53, got"):
            floating("q", [0, beyond])


def test_the_array_that_came_is_not_changed_by_reading_it() -> None:
    given = SQUARE.astype(">f4")
    given.flags.writeable = False
    assert floating("q", given).tolist() == SQUARE.tolist()
    assert given.dtype == ">f4"


def test_nan_and_infinities_pass() -> None:
    for dtype in ("float64", "float32"):
        found = floating("q", [np.nan, np.inf, -np.inf, 1e-300], dtype)
        assert np.isnan(found[0])
        assert found[1:3].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, DtypeError, "^q must be an array of real numbers, got dtype object$"),
        (SQUARE.astype(object), DtypeError, "^q must be an array of real numbers, got dtype object$"),
        ("abc", DtypeError, "^q must be an array of real numbers, got dtype <U3$"),
        ({}, DtypeError, "^q must be an array of real numbers, got dtype object$"),
        (SQUARE > 0, DtypeError, "^q must be an array of real numbers, got dtype bool$"),
        (SQUARE * 1j, DtypeError, "^q must be an array of real numbers, got dtype complex128$"),
        (SQUARE.astype("M8[s]"), DtypeError, r"^q must be an array of real numbers, got dtype datetime64\[s\]$"),
        (np.zeros(2, "f4,f4"), DtypeError, "^q must be an array of real numbers, got dtype "),
        (np.zeros(2, "V2"), DtypeError, r"^q must be an array of real numbers, got dtype \|V2$"),
        (np.ma.masked_greater(SQUARE, 0), DtypeError, "^q must be an array without a mask of its own, got a NumPy "),
        ([[1], [1, 2]], ShapeError, "^q must be an array or evenly nested lists, got list$"),
        (NoDLPackAfterAll(SQUARE), ShapeError, "^q must be an array or evenly nested lists, got NoDLPackAfterAll$"),
    ],
)
def test_what_is_no_array_of_numbers_is_named(value: Any, error: type[KvattnError], words: str) -> None:
    with pytest.raises(error, match=words):
        floating("q", value)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is float64 on this platform")
def test_extended_precision_is_refused_and_not_cut() -> None:
    with pytest.raises(DtypeError, match=r"^q must have at most 64 bits per number, got dtype "):
        floating("q", SQUARE.astype(np.longdouble))


def test_numbers_beyond_float32_are_refused_where_float32_is_asked_for() -> None:
    assert floating("q", [1e300]).tolist() == [1e300]
    with pytest.raises(DtypeError, match=r"^q must hold numbers in the range of float32, got larger ones$"):
        floating("q", [1e300], np.float32)


@pytest.mark.parametrize("dtype", ["float16", int, bool, object, ">f8", "nope", 3, complex, np.longdouble])
def test_other_dtypes_to_compute_in_are_refused(dtype: Any) -> None:
    if dtype is np.longdouble and np.dtype(np.longdouble).itemsize == 8:
        pytest.skip("long double is float64 on this platform")
    with pytest.raises(DtypeError, match=r"^dtype must be float64 or float32, got "):
        compute_dtype(dtype)


@pytest.mark.parametrize(
    ("value", "batch", "wanted"),
    [
        ([3, 5], 2, [[3, 5], [3, 5]]),
        (np.array([[3, 5], [0, 1]], np.uint8), 2, [[3, 5], [0, 1]]),
        (np.array([-1, 2], np.int16), 1, [[-1, 2]]),
        ([[[1, 2]], [[3, 4]]], (2, 1), [[1, 2], [3, 4]]),
        ([1, 2], (2, 1), [[1, 2], [1, 2]]),
        ([1, 2], (), [[1, 2]]),
    ],
)
def test_positions_become_one_row_for_each_sequence(value: Any, batch: Any, wanted: Any) -> None:
    found = positions("q_positions", value, batch, 2)
    assert found.dtype == np.int64
    assert found.flags.c_contiguous
    assert found.tolist() == wanted


def test_no_positions_need_no_type() -> None:
    assert positions("q_positions", [], 2, 0).shape == (2, 0)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([0.0, 1.0], PositionError, "^at must be integers, got dtype float64$"),
        ([True, False], PositionError, "^at must be integers, got dtype bool$"),
        (["a", "b"], PositionError, "^at must be integers, got dtype <U1$"),
        ([None, 1], PositionError, "^at must be integers, got dtype object$"),
        (np.array([0, 2**63], np.uint64), PositionError, r"^at must be below 2\*\*63, got 9223372036854775808$"),
        ([0, 1, 2], ShapeError, r"^at must have shape \[2\] or \[3, 2\], got \(3,\)$"),
        ([[0, 1]], ShapeError, r"^at must have shape \[2\] or \[3, 2\], got \(1, 2\)$"),
        (7, ShapeError, r"^at must have shape \[2\] or \[3, 2\], got \(\)$"),
        ([[0], [1, 2]], ShapeError, "^at must be an array or evenly nested lists, got list$"),
    ],
)
def test_what_is_no_positions_is_named(value: Any, error: type[KvattnError], words: str) -> None:
    with pytest.raises(error, match=words):
        positions("at", value, 3, 2)


def test_booleans_stay_booleans_and_the_rest_becomes_numbers() -> None:
    assert boolean_or_floating("mask", [[True, False]], np.float32).dtype == np.bool_
    assert boolean_or_floating("mask", [[1, 0]], np.float32).dtype == np.float32
    with pytest.raises(DtypeError, match=r"^mask must be an array of real numbers, got dtype complex128$"):
        boolean_or_floating("mask", [1j], np.float64)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_torch_tensors_are_read_exactly(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="reads torch tensors: kvattn[peers]")
    tensor = torch.tensor(SQUARE.tolist()).to(getattr(torch, kind))
    assert floating("q", tensor).tolist() == SQUARE.tolist()
    assert floating("q", tensor.T).tolist() == SQUARE.T.tolist()
    if not kind.startswith("float8"):
        assert floating("q", tensor.requires_grad_()).tolist() == SQUARE.tolist()
        assert floating("q", torch.nn.Parameter(tensor.detach())).tolist() == SQUARE.tolist()


@pytest.mark.peer
def test_torch_tensors_that_cannot_be_read_are_named() -> None:
    torch = pytest.importorskip("torch", reason="reads torch tensors: kvattn[peers]")
    tensor = torch.tensor(SQUARE)
    for value in (tensor.to_sparse(), torch.zeros(2, device="meta")):
        with pytest.raises(ShapeError, match=r"^q must be an array or evenly nested lists, got Tensor$"):
            floating("q", value)
    for value, dtype in ((tensor > 0, "bool"), (tensor * 1j, "complex128")):
        with pytest.raises(DtypeError, match=rf"^q must be an array of real numbers, got dtype {dtype}$"):
            floating("q", value)
    assert anything("mask", tensor > 0).dtype == np.bool_
    assert positions("at", torch.arange(2), 1, 2).tolist() == [[0, 1]]


@pytest.mark.peer
@pytest.mark.parametrize(
    "kind", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3", "float8_e3m4", "float6_e2m3fn"]
)
def test_small_floats_of_ml_dtypes_are_read_exactly(kind: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="makes arrays of small floats: kvattn[peers]")
    assert floating("q", SQUARE.astype(getattr(ml_dtypes, kind))).tolist() == SQUARE.tolist()
    with pytest.raises(DtypeError, match=r"^q must be an array of real numbers, got dtype int4$"):
        floating("q", np.array([1], ml_dtypes.int4))


@pytest.mark.peer
def test_jax_arrays_are_read() -> None:
    jax = pytest.importorskip("jax", reason="reads JAX arrays: kvattn[peers]")
    assert floating("q", jax.numpy.asarray(SQUARE, "float32")).tolist() == SQUARE.tolist()
    assert floating("q", jax.numpy.asarray(SQUARE, "bfloat16")).tolist() == SQUARE.tolist()
    assert positions("at", jax.numpy.arange(2), 1, 2).tolist() == [[0, 1]]
    assert anything("mask", jax.numpy.asarray(SQUARE) > 0).dtype == np.bool_
