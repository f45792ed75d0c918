"""Read recorded cases: NumPy arrays that nobody can write to, from files whose checksums are looked at.

Nothing here knows how the numbers were computed; what reads them needs NumPy alone.
"""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
import difflib
from functools import lru_cache
import hashlib
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError, DamagedError
from kvattn.goldens.flag import Flag
from kvattn.goldens.formats import FORMATS, Bits, decoded
from kvattn.goldens.manifest import array_from_json, digest
from kvattn.typing import Array

RECORDED = Path(__file__).parent / "v1"
"""The folder of the recorded cases."""


@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """One recorded case; the fields are those of `kvattn.goldens.recipe.Recipe`, with the arrays.

    Attributes
    ----------
    name, row, operation, comment
        What it is: ``family/group/case``, its line of the catalogue, what is computed, and why in a sentence.
    flags
        Why it exists, each with its bug type and links.
    result
        ``valid``, ``acceptable`` or ``invalid``.
    parameters
        JSON values.
    inputs, expected
        Name to read-only array: float64, int64 or bool; of another format, the bit patterns.
    alternatives
        Name of another legal convention to its outputs.
    mistakes
        What a known mistake is called to what it gives instead.
    bounds
        Name of an output to how far float64 may be from it.
    dtypes
        Name of an input or output to its format, such as ``bfloat16``.
    sibling
        Name of the plainer case that this one differs from.
    supersedes, superseded_by
        Names of the case before and after it.

    Examples
    --------
    >>> load("dense/grouped/plain")
    Case('dense/grouped/plain', variants/dense/grouped, valid: q [1, 4, 3, 6], k [1, 2, 5, 6], v [1, 2, 5, 7] -> \
out [1, 4, 3, 7], lse [1, 4, 3])
    """

    name: str
    row: str
    operation: str
    comment: str
    flags: tuple[Flag, ...]
    result: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]
    alternatives: Mapping[str, Mapping[str, NDArray[Any]]]
    mistakes: Mapping[str, Mapping[str, NDArray[Any]]]
    bounds: Mapping[str, float]
    dtypes: Mapping[str, str]
    sibling: str | None
    supersedes: str | None
    superseded_by: str | None

    def __repr__(self) -> str:
        shapes = [
            ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            for arrays in (self.inputs, self.expected)
        ]
        return f"Case({self.name!r}, {self.row}, {self.result}: {' -> '.join(filter(None, shapes))})"

    def decoded(self, name: str) -> Array:
        """An input or output as float64, exactly, whatever its format.

        >>> float(load("dense/grouped/plain").decoded("q")[0, 0, 0, 0])
        1.4375
        """
        array = self.inputs.get(name, self.expected.get(name))
        if array is None:
            known = ", ".join([*self.inputs, *self.expected])
            raise ArgumentError(f"{self.name} has the arrays {known}, got {name!r}")
        if self.dtypes[name] in FORMATS:
            return decoded(Bits(self.dtypes[name], array))
        return np.asarray(array, np.float64)

    def arguments(self) -> dict[str, Any]:
        """Inputs and parameters together, as a function takes them; numbers of small formats as float64.

        >>> list(load("dense/softcap/mask").arguments())
        ['q', 'k', 'v', 'mask', 'softcap']
        """
        plain = {name: self.decoded(name) if self.dtypes[name] in FORMATS else x for name, x in self.inputs.items()}
        return {**plain, **self.parameters}


def cases(
    *,
    family: str | None = None,
    row: str | None = None,
    flags: str | Collection[str] = (),
    result: str | None = None,
    operation: str | None = None,
    takes: Collection[str] | None = None,
    superseded: bool = False,
) -> tuple[Case, ...]:
    """Recorded cases, by what they are about.

    Parameters
    ----------
    family
        The first part of the name, such as ``dense``; or the first two, such as ``dense/causal``.
    row
        A line of the catalogue, such as ``masks/window``, or a group of it, such as ``masks``.
    flags
        Names of flags or bug types, such as ``KNOWN_BUG``: cases that have any of them.
    result
        ``valid``, ``acceptable`` or ``invalid``.
    operation
        What is computed, such as ``attention``.
    takes
        Names of all inputs and parameters that the implementation understands: cases that have no other.
    superseded
        Whether cases that have a successor come too.

    Returns
    -------
    tuple of Case
        In the order of their names; the same in every call.

    Raises
    ------
    ArgumentError
        Nothing recorded has such a family, row, flag, result or operation.
    DamagedError
        A file is not what its checksum promises.

    Examples
    --------
    >>> [case.name for case in cases(family="dense/merge", flags="LseBase")][:1]
    ['dense/merge/base-2']
    """
    wanted = {flags} if isinstance(flags, str) else set(flags)
    every = tuple(every_case(RECORDED))
    for name, asked, known in (
        ("family", family, {part for case in every for part in _prefixes(case.name.rpartition("/")[0])}),
        ("row", row, {part for case in every for part in _prefixes(case.row)}),
        ("result", result, {case.result for case in every}),
        ("operation", operation, {case.operation for case in every}),
        *(("flags", one, {word for case in every for word in _words(case)}) for one in sorted(wanted)),
    ):
        if asked is not None and asked not in known:
            raise ArgumentError(f"{name} must be one of the recorded, got {asked!r}{_suggestion(asked, known)}")
    return tuple(
        case
        for case in every
        if (family is None or family in _prefixes(case.name))
        and (row is None or row in _prefixes(case.row))
        and (not wanted or wanted & _words(case))
        and result in {None, case.result}
        and operation in {None, case.operation}
        and (takes is None or case.inputs.keys() | case.parameters.keys() <= set(takes))
        and (superseded or case.superseded_by is None)
    )


def load(name: str) -> Case:
    """One recorded case.

    Parameters
    ----------
    name
        ``family/group/case``.

    Returns
    -------
    Case
        With read-only arrays.

    Raises
    ------
    ArgumentError
        No case has that name.
    DamagedError
        Its file is not what its checksum promises.

    Examples
    --------
    >>> case = load("dense/grouped/plain")
    >>> from kvattn import attend
    >>> found = attend(**case.inputs)
    >>> bool(np.abs(found.out - case.expected["out"]).max() <= case.bounds["out"])
    True
    """
    known = {case.name: case for case in every_case(RECORDED)}
    if name not in known:
        raise ArgumentError(f"name must be that of a recorded case, got {name!r}{_suggestion(name, known)}")
    return known[name]


def every_case(folder: Path) -> Iterator[Case]:
    """The cases of a folder, checked.

    >>> len({case.name for case in every_case(RECORDED)}) == len(list(every_case(RECORDED)))
    True
    """
    every = [case for content in files(folder).values() for case in _cases_of(content)]
    successors = {case.supersedes: case.name for case in every if case.supersedes}
    for case in every:
        parameters = MappingProxyType(deepcopy(dict(case.parameters)))  # lists in them are the caller's own
        yield replace(case, parameters=parameters, superseded_by=successors.get(case.name))


def files(folder: Path) -> dict[str, bytes]:
    """The manifests of a folder by their paths, each as its checksum promises.

    Raises
    ------
    DamagedError
        A file is missing, is not listed, or has other bytes.

    Examples
    --------
    >>> "dense/grouped.json" in files(RECORDED)
    True
    """
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        promised = {path: total for total, _, path in (line.partition("  ") for line in lines)}
    except (OSError, UnicodeDecodeError):
        raise DamagedError(f"the goldens need a readable file SHA256SUMS, got none in {folder.name}") from None
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.json")}
    if there != promised.keys():
        differing = sorted(there ^ promised.keys())
        odd = ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise DamagedError(f"the goldens must have the files of SHA256SUMS and no others, got a difference in {odd}")
    found = {path: (folder / path).read_bytes() for path in sorted(promised)}
    for path, content in found.items():
        total = hashlib.sha256(content).hexdigest()
        if total != promised[path]:
            raise DamagedError(f"{path} of the goldens must have SHA-256 {promised[path][:12]}…, got {total[:12]}…")
    return {path: content for path, content in found.items() if "/" in path}


@lru_cache(maxsize=256)
def _cases_of(content: bytes) -> tuple[Case, ...]:
    """The cases of a manifest, which are read and checked once for the same bytes."""
    manifest = json.loads(content)
    return tuple(_case(case, manifest["notes"]) for case in manifest["cases"])


def _case(written: Mapping[str, Any], notes: Mapping[str, Any]) -> Case:
    for part in ("inputs", "expected"):
        if digest(written[part]) != written[f"{part}Sha256"]:
            raise DamagedError(f"{part} of {written['name']} must have the digest that stands beside them, got another")
    named = {**written["inputs"], **written["expected"]}
    return Case(
        **{name: written[name] for name in ("name", "row", "operation", "comment", "result", "sibling", "supersedes")},
        flags=tuple(
            Flag(flag, notes[flag]["bugType"], notes[flag]["description"], tuple(notes[flag]["links"]))
            for flag in written["flags"]
        ),
        parameters=MappingProxyType(written["parameters"]),
        inputs=_arrays(written["inputs"]),
        expected=_arrays(written["expected"]),
        alternatives=MappingProxyType({name: _arrays(arrays) for name, arrays in written["alternatives"].items()}),
        mistakes=MappingProxyType({name: _arrays(arrays) for name, arrays in written["mistakes"].items()}),
        bounds=MappingProxyType({name: x["bound"] for name, x in written["expected"].items() if "bound" in x}),
        dtypes=MappingProxyType({name: array["dtype"] for name, array in named.items()}),
        superseded_by=None,
    )


def _arrays(written: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    return MappingProxyType({name: array_from_json(array) for name, array in written.items()})


def _prefixes(name: str) -> set[str]:
    parts = name.split("/")
    return {"/".join(parts[:length]) for length in range(1, len(parts) + 1)}


def _words(case: Case) -> set[str]:
    return {word for flag in case.flags for word in (flag.name, flag.bug_type)}


def _suggestion(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}" if close else ""
