"""Recorded cases for other languages: JSON alone, or arrays as safetensors or npz with a JSON index.

    goldens.json            every case and the notes of its flags; with arrays in it, or with their names
    goldens.safetensors     8 bytes of header length, a JSON header, then little-endian, row-major elements
    goldens.npz             the same arrays for NumPy; patterns of other formats as unsigned integers
    SHA256SUMS              a checksum for each file

An array is called ``<case>/inputs/<name>``, ``<case>/expected/<name>``, ``<case>/alternatives/<convention>/<name>``
or ``<case>/mistakes/<mistake>/<name>``.  The same cases give the same bytes.

Source: the safetensors format, https://github.com/huggingface/safetensors, README, "Format".
"""

from collections.abc import Callable, Iterable, Mapping
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError
from kvattn.goldens.manifest import array_from_json, little_endian
from kvattn.goldens.reading import RECORDED, files
from kvattn.goldens.recording import sums

SAFETENSORS = {
    "float64": "F64",
    "int64": "I64",
    "bool": "BOOL",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float4_e2m1fn": "U8",
}
"""What safetensors calls a format; four-bit numbers lie one to a byte."""


def export(folder: Path, form: str, names: Iterable[str], source: Path = RECORDED) -> list[Path]:
    """Write cases into a folder.

    Parameters
    ----------
    folder
        Made where it is missing.
    form
        ``json``, ``safetensors`` or ``npz``.
    names
        Of the cases.
    source
        The folder of the recorded cases.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    ArgumentError
        Another form, or a name that is not recorded.
    DamagedError
        A recorded file is not what its checksum promises.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in export(Path(folder), "npz", ["dense/grouped/plain"])]
    ['goldens.json', 'goldens.npz', 'SHA256SUMS']
    """
    if form not in FORMS:
        raise ArgumentError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    manifests = [json.loads(content) for content in files(source).values()]
    every = {case["name"]: (case, manifest["notes"]) for manifest in manifests for case in manifest["cases"]}
    wanted = list(names)
    for name in wanted:
        if name not in every:
            raise ArgumentError(f"names must be of recorded cases, got {name!r}")
    cases = [every[name][0] for name in wanted]
    notes = {flag: note for name in wanted for flag, note in every[name][1].items() if flag in every[name][0]["flags"]}
    written = FORMS[form]({"schemaVersion": 1, "notes": dict(sorted(notes.items())), "cases": cases})
    written["SHA256SUMS"] = sums(written)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in written]


def _as_json(index: Mapping[str, Any]) -> dict[str, bytes]:
    return {"goldens.json": _text(index)}


def _as_safetensors(index: Mapping[str, Any]) -> dict[str, bytes]:
    named, arrays = _apart(index)
    header: dict[str, Any] = {"__metadata__": {"format": "kvattn goldens v1"}}
    data = []
    end = 0
    for name, (dtype, array) in sorted(arrays.items(), key=lambda item: (-item[1][1].itemsize, item[0])):
        elements = little_endian(array)
        header[name] = {
            "dtype": SAFETENSORS[dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + len(elements)],
        }
        data.append(elements)
        end += len(elements)
    opening = json.dumps(header, separators=(",", ":")).encode()
    opening += b" " * (-len(opening) % 8)
    content = len(opening).to_bytes(8, "little") + opening + b"".join(data)
    return {"goldens.json": _text(named), "goldens.safetensors": content}


def _as_npz(index: Mapping[str, Any]) -> dict[str, bytes]:
    named, arrays = _apart(index)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **{name: array for name, (_, array) in arrays.items()})
    return {"goldens.json": _text(named), "goldens.npz": content.getvalue()}


FORMS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, bytes]]] = {
    "json": _as_json,
    "safetensors": _as_safetensors,
    "npz": _as_npz,
}
"""What can be written: name to a function of the index."""


def _apart(index: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[str, NDArray[Any]]]]:
    """The index with names in place of elements, and the arrays by those names."""
    arrays: dict[str, tuple[str, NDArray[Any]]] = {}

    def named(value: Any, name: str) -> Any:
        if isinstance(value, dict) and "shape" in value and "dtype" in value:
            arrays[name] = value["dtype"], array_from_json(value)
            return {"tensor": name, **{key: part for key, part in value.items() if key not in {"values", "bits"}}}
        return {key: named(part, f"{name}/{key}") for key, part in value.items()}

    parts = ("inputs", "expected", "alternatives", "mistakes")
    cases = [
        {key: named(part, f"{case['name']}/{key}") if key in parts else part for key, part in case.items()}
        for case in index["cases"]
    ]
    return {**index, "cases": cases}, arrays


def _text(index: Mapping[str, Any]) -> bytes:
    return (json.dumps(index, ensure_ascii=False, allow_nan=False) + "\n").encode()
