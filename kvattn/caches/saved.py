"""Caches in files: saved whole or not at all, restored to the bit or refused.

Two formats hold the same header and arrays (`kvattn.caches.flattened`): NumPy's npz, which needs nothing else, and
safetensors, which needs its library and which other languages read.  Neither can hold an object, so that reading runs
no code.  A SHA-256 stands in each: in an npz behind everything else, as the comment of the archive, over every byte
before it; in safetensors in its metadata, over header, names, dtypes, shapes and numbers.  A file that was cut short or
in which one bit was changed is refused in one sentence, before a cache is made of it.

Saving writes another file beside the old one and then puts it in its place, so that whoever reads sees the old file
or the new one, and a saving that fails leaves the old one as it was.

What is restored holds the same rows, lengths, positions and holes, shares pages where the saved value shared them, and
goes on with the same bits.  Its pages are its own: rows that other values wrote into the same pages are not saved, nor
those that a window has left behind.  Codes are saved as codes; what lay in the file of a
`kvattn.caches.tiered.Tiered` lies in the file of the expected one again, whole pages of it.
"""

from collections.abc import Mapping
from hashlib import sha256
import io
import json
from os import PathLike, fsync, urandom
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kvattn.arguments import shown
from kvattn.caches.flattened import Flat, flatten, rebuilt
from kvattn.errors import ArgumentError, DtypeError, MissingExtraError
from kvattn.typing import Array

FORMAT = "kvattn cache"
"""What every header begins with."""

VERSION = 1
"""Of the header and the names of arrays; another one is refused."""

K = TypeVar("K")

_HEADER = "header"
_MARK = b"kvattn sha256 "
_TRAILER = len(_MARK) + 64
_SAFE = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


def save_npz(path: str | PathLike[str], cache: Any) -> None:
    """Save a cache as an npz file, which `numpy.load` opens as well.

    Parameters
    ----------
    path
        Where; a file that is there is replaced once the new one is whole.
    cache
        Any storage of `kvattn.caches` but the mutable `BlockPool`.

    Raises
    ------
    ArgumentError
        Another kind of cache.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from kvattn.caches import Paged, latent
    >>> cache = Paged.start(latent(2)).append([np.arange(6.0).reshape(1, 1, 3, 2)])
    >>> with TemporaryDirectory() as folder:
    ...     save_npz(f"{folder}/cache.npz", cache)
    ...     again = restore_npz(f"{folder}/cache.npz", Paged.start(latent(2)))
    >>> again, bool(np.array_equal(again.rows().latent, cache.rows().latent))
    (Paged(Latent, page=256, lengths=(3,)), True)
    """
    from zipfile import ZipFile, ZipInfo

    flat = flatten(cache)
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for name, array in {_HEADER: np.frombuffer(_written(flat).encode(), np.uint8), **flat.arrays}.items():
            with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
        archive.comment = bytes(_TRAILER)
    whole = file.getvalue()[:-_TRAILER]
    _replaced(path, whole + _MARK + sha256(whole).hexdigest().encode())


def restore_npz(path: str | PathLike[str], like: K) -> K:
    """Read a cache from an npz file that `save_npz` wrote.

    Parameters
    ----------
    path
        The file.
    like
        A cache of the kind and schema that is expected, such as the empty one of a layer's ``start``.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        A file that is damaged, cut short or something else, or whose cache is not like this one.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from kvattn.caches import Paged, latent
    >>> with TemporaryDirectory() as folder:
    ...     save_npz(f"{folder}/cache.npz", Paged.start(latent(2), page=4))
    ...     restore_npz(f"{folder}/cache.npz", Paged.start(latent(2)))
    Paged(Latent, page=4, lengths=(0,))
    """
    from zipfile import BadZipFile

    data = Path(path).read_bytes()
    whole, mark = data[:-_TRAILER], data[-_TRAILER:]
    if len(data) <= _TRAILER or not mark.startswith(_MARK):
        raise ArgumentError(_told(path, "no checksum at its end, so that it is cut short, damaged or something else"))
    if mark != _MARK + sha256(whole).hexdigest().encode():
        raise ArgumentError(_told(path, "another checksum than it was saved with, so that it is damaged"))
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            names = archive.files
            arrays = {name: archive[name] for name in names}
    except (ValueError, OSError, EOFError, KeyError, TypeError, RuntimeError, BadZipFile) as error:
        raise ArgumentError(_told(path, f"no plain arrays ({error})")) from error
    if len(arrays) != len(names) or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ArgumentError(_told(path, "an entry that is no array, or the same one twice"))
    header = arrays.pop(_HEADER, None)
    if header is None or header.dtype != np.uint8 or header.ndim != 1:
        raise ArgumentError(_told(path, "no header"))
    return rebuilt(Flat(_read(path, header.tobytes()), arrays), like)


def save_safetensors(path: str | PathLike[str], cache: Any) -> None:
    """Save a cache as a safetensors file; needs the package safetensors.

    Parameters
    ----------
    path, cache
        As for `save_npz`.

    Raises
    ------
    MissingExtraError
        The package is not installed.
    ArgumentError
        Another kind of cache.
    DtypeError
        A dtype that the format does not have.

    Examples
    --------
    >>> from kvattn.caches import Paged, latent
    >>> save_safetensors("cache.safetensors", Paged.start(latent(2, ">f8")))
    Traceback (most recent call last):
    kvattn.errors.DtypeError: cache.latent must have a dtype of the format (f2 .. f8, i1 .. i8, u1 .. u8), got >f8
    """
    flat = flatten(cache)
    for name, array in flat.arrays.items():
        if array.dtype.str[1:] not in _SAFE or not array.dtype.isnative:
            raise DtypeError(
                f"{name} must have a dtype of the format (f2 .. f8, i1 .. i8, u1 .. u8), got {array.dtype}"
            )
    library = _library()
    text = _written(flat)
    metadata = {"kvattn": text, "sha256": _content(text, flat.arrays)}
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.arrays.items()}
    _replaced(path, library.numpy.save(arrays, metadata=metadata))


def restore_safetensors(path: str | PathLike[str], like: K) -> K:
    """Read a cache from a safetensors file that `save_safetensors` wrote; needs the package safetensors.

    Parameters
    ----------
    path, like
        As for `restore_npz`.

    Raises
    ------
    MissingExtraError
        The package is not installed.
    ArgumentError, ShapeError, DtypeError
        A file that is damaged, cut short or something else, or whose cache is not like this one.

    Examples
    --------
    >>> from kvattn.caches import Paged, latent
    >>> restore_safetensors("no such file", Paged.start(latent(2)))
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'no such file'
    """
    with Path(path).open("rb"):
        pass  # what the system says of a file that cannot be read, it says here
    library = _library()
    try:
        with library.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 no mapping
    except (library.SafetensorError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ArgumentError(_told(path, f"no whole safetensors file ({error})")) from error
    if set(metadata) != {"kvattn", "sha256"}:
        raise ArgumentError(_told(path, "no checksum in its metadata"))
    if metadata["sha256"] != _content(metadata["kvattn"], arrays):
        raise ArgumentError(_told(path, "another checksum than it was saved with, so that it is damaged"))
    return rebuilt(Flat(_read(path, metadata["kvattn"].encode()), arrays), like)


def _library() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise MissingExtraError(
            "safetensors must be installed for this format, got no module safetensors: save as npz or install it"
        ) from error
    return safetensors


def _written(flat: Flat) -> str:
    return json.dumps({"format": FORMAT, "version": VERSION, "cache": flat.header}, separators=(",", ":"))


def _read(path: str | PathLike[str], text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(_told(path, "a header that is no JSON")) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArgumentError(_told(path, f"no header that says {FORMAT!r}"))
    if header.get("version") != VERSION or isinstance(header.get("version"), bool):
        raise ArgumentError(_told(path, f"version {shown(header.get('version'))} where this kvattn reads {VERSION}"))
    if set(header) != {"format", "version", "cache"} or not isinstance(header["cache"], dict):
        raise ArgumentError(
            _told(path, f"a header of {sorted(map(str, header))} in place of format, version and cache")
        )
    return header["cache"]


def _content(text: str, arrays: Mapping[str, Array]) -> str:
    told = sha256()
    entries = [text.encode()]
    for name in sorted(arrays):
        array = arrays[name]
        entries += [json.dumps([name, array.dtype.str, array.shape]).encode(), array.tobytes()]
    for entry in entries:
        told.update(b"%d:" % len(entry))
        told.update(entry)
    return told.hexdigest()


def _told(path: str | PathLike[str], why: str) -> str:
    return f"path must be a cache that kvattn saved, whole, got {Path(path).name} with {' '.join(why.split())}"


def _replaced(path: str | PathLike[str], data: bytes) -> None:
    target = Path(path)
    fresh = target.with_name(f".{target.name}.{urandom(8).hex()}")
    try:
        with fresh.open("xb") as file:
            file.write(data)
            file.flush()
            fsync(file.fileno())
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
