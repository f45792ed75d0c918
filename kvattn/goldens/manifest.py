"""The files of the goldens: how arrays and cases stand in JSON, byte for byte.

    v1/<family>/<group>.json      cases, one array to a line
    v1/golden-v1.schema.json      what such a file is, as JSON Schema
    v1/SHA256SUMS                 a checksum for each

An array is ``{"dtype", "shape", "values"}``, row-major; floats are the shortest decimals that read back as the
same float64, and what JSON cannot say is ``"nan"``, ``"inf"`` or ``"-inf"``.  Numbers of a format that is not
NumPy's own are ``{"dtype", "shape", "bits"}``.  The digest of arrays is the SHA-256 over each in the order of
their names: name, dtype and shape (sizes joined by commas), each ended by a zero byte, then the elements as
little-endian bytes.

Source: the case layout follows Wycheproof's (flags with notes; valid, invalid, acceptable).
"""

from collections.abc import Iterator, Mapping
import hashlib
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError
from kvattn.goldens.formats import FORMATS, Bits

SCHEMA = "golden-v1.schema.json"
"""The schema's file."""

PLAIN = {"float64": "<f8", "int64": "<i8", "bool": "|b1"}
"""Dtypes whose elements stand as values."""


def array_to_json(array: Any) -> dict[str, Any]:
    """An array, or `Bits`, as the object of a manifest.

    >>> array_to_json(np.array([0.1, -np.inf]))
    {'dtype': 'float64', 'shape': [2], 'values': [0.1, '-inf']}
    >>> array_to_json(Bits("float16", np.array([15360], np.uint16)))
    {'dtype': 'float16', 'shape': [1], 'bits': [15360]}
    """
    if isinstance(array, Bits):
        return {"dtype": array.dtype, "shape": list(array.bits.shape), "bits": array.bits.ravel().tolist()}
    if array.dtype.name not in PLAIN:
        raise ArgumentError(f"an array must be float64, int64, bool or Bits, got {array.dtype}")
    values = [x if not isinstance(x, float) or math.isfinite(x) else str(x) for x in array.ravel().tolist()]
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}


def array_from_json(written: Mapping[str, Any]) -> NDArray[Any]:
    """The read-only array of such an object; of bits, the patterns.

    >>> array_from_json({"dtype": "float64", "shape": [2], "values": [0.1, "-inf"]})
    array([ 0.1, -inf])
    """
    dtype = written["dtype"]
    if "bits" in written:
        array = np.array(written["bits"], bits_dtype(dtype))
    else:
        array = np.array([float(x) if isinstance(x, str) else x for x in written["values"]], np.dtype(PLAIN[dtype]))
    array = array.reshape(written["shape"])
    array.flags.writeable = False
    return array


def bits_dtype(name: str) -> np.dtype[Any]:
    """What holds the patterns of a format.

    >>> bits_dtype("bfloat16"), bits_dtype("float4_e2m1fn")
    (dtype('uint16'), dtype('uint8'))
    """
    return np.dtype(f"<u{max(1, FORMATS[name].bits // 8)}")


def digest(arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """The SHA-256 of a mapping of such objects.

    >>> digest({})[:8]
    'e3b0c442'
    """
    total = hashlib.sha256()
    for name in sorted(arrays):
        written = arrays[name]
        shape = ",".join(map(str, written["shape"]))
        total.update(f"{name}\0{written['dtype']}\0{shape}\0".encode())
        total.update(little_endian(array_from_json(written)))
    return total.hexdigest()


def little_endian(array: NDArray[Any]) -> bytes:
    r"""The elements, row-major.

    >>> little_endian(np.array([1, 2], np.int64))[:2]
    b'\x01\x00'
    """
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def written(value: Any) -> bytes:
    """A manifest as bytes: objects indented by one space, an array to a line.

    >>> written({"a": {"dtype": "bool", "shape": [1], "values": [True]}, "b": []}).decode().splitlines()[1]
    ' "a": {"dtype": "bool", "shape": [1], "values": [true]},'
    """
    return ("".join(_lines(value, "")) + "\n").encode()


def _lines(value: Any, margin: str) -> Iterator[str]:
    is_leaf = not isinstance(value, (dict, list)) or not value or "shape" in value
    if is_leaf or (isinstance(value, list) and not any(isinstance(part, (dict, list)) for part in value)):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)
        return
    named = value.items() if isinstance(value, dict) else ((None, part) for part in value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    comma = opening + "\n"
    for name, part in named:
        yield f"{comma}{margin} " + (f"{json.dumps(name)}: " if name is not None else "")
        yield from _lines(part, margin + " ")
        comma = ",\n"
    yield f"\n{margin}{closing}"
