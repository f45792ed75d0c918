"""How cases stand in JSON: arrays survive to the bit, digests see every change, bytes do not depend on anything."""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest

from kvattn.errors import ArgumentError
from kvattn.goldens.formats import Bits
from kvattn.goldens.manifest import array_from_json, array_to_json, bits_dtype, digest, little_endian, written

ARRAYS = [
    np.array([[0.1, -0.0, 1e-310], [np.inf, -np.inf, 2.0**-1074]]),
    np.array([1.7976931348623157e308, 5e-324, 1 / 3]),
    np.array([-(2**62), 2**62 + 1], np.int64),
    np.array([[True], [False]]),
    np.zeros((2, 0, 3)),
    np.array(0.5),
]


@pytest.mark.parametrize("array", ARRAYS, ids=range(len(ARRAYS)))
def test_arrays_survive_to_the_bit(array: NDArray[Any]) -> None:
    again = array_from_json(json.loads(written(array_to_json(array))))
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()
    assert not again.flags.writeable


def test_not_a_number_survives() -> None:
    again = array_from_json(json.loads(written(array_to_json(np.array([np.nan, 1.0])))))
    assert np.array_equal(again, [np.nan, 1.0], equal_nan=True)


def test_patterns_survive() -> None:
    for name in ("bfloat16", "float8_e5m2", "float32"):
        bits = np.array([[1, 2], [255, 128]], bits_dtype(name))
        assert array_from_json(array_to_json(Bits(name, bits))).tobytes() == bits.tobytes()


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ArgumentError, match="an array must be float64, int64, bool or Bits, got float32"):
        array_to_json(np.zeros(1, np.float32))


def test_the_digest_is_what_it_says() -> None:
    arrays = {"b": array_to_json(np.array([1.5, 2.0])), "a": array_to_json(np.array([[True]]))}
    by_hand = b"a\0bool\0" + b"1,1\0\x01" + b"b\0float64\0" + b"2\0" + np.array([1.5, 2.0], "<f8").tobytes()
    assert digest(arrays) == hashlib.sha256(by_hand).hexdigest()
    assert digest(dict(reversed(arrays.items()))) == digest(arrays)


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([1.0, 2.0])},
        {"y": np.array([1.0, 2.0, 4.0])},
        {"x": np.array([[1.0, 2.0, 4.0]])},
        {"x": np.array([1, 2, 4])},
        {"x": np.array([1.0, 2.0, np.nextafter(4.0, 5.0)])},
    ],
    ids=["shorter", "renamed", "reshaped", "retyped", "one ulp"],
)
def test_the_digest_sees_every_change(other: dict[str, NDArray[Any]]) -> None:
    first = {"x": array_to_json(np.array([1.0, 2.0, 4.0]))}
    assert digest(first) != digest({name: array_to_json(array) for name, array in other.items()})


def test_bytes_are_little_endian_whatever_the_machine() -> None:
    assert little_endian(np.array([1], ">i8")) == b"\x01" + b"\0" * 7


def test_what_is_written_is_json_with_an_array_to_a_line() -> None:
    value = {"a": [{"x": array_to_json(np.arange(3.0)), "é": []}, {}], "b": "ü", "c": {}, "d": [1, 2]}
    text = written(value).decode()
    assert json.loads(text) == value
    assert '"x": {"dtype": "float64", "shape": [3], "values": [0.0, 1.0, 2.0]},\n' in text
    assert text.endswith("}\n")
