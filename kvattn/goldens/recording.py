"""Record recipes: run their formulas over decimal intervals, and write what they give.

An expected value is the float64 nearest to the true number: the interval that holds the number is
narrowed until both its ends round to the same float64.  Its bound is twice the running error of float64
along the formula, in any order of adding (`kvattn.goldens.bounds`); twice leaves room for another form of
the same, such as normalising after the mix instead of before.

What is recorded stays: a case of the same name is written again only if it is the same to the byte, and
none is left out.  A case that was wrong gets a successor, which names it in ``supersedes``.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_CEILING, Context, Decimal
import hashlib
import json
from pathlib import Path
import re
from typing import Any

import numpy as np

from kvattn.errors import ArgumentError, UndecidedError
from kvattn.goldens.bounds import Rounding, Roundings
from kvattn.goldens.manifest import SCHEMA, array_to_json, digest, written
from kvattn.goldens.numbers import Decimals, Interval
from kvattn.goldens.recipe import BUG_TYPES, Bits, Flag, Formula, Recipe, flat, read

DIGITS = (70, 140, 280)
"""Significant digits to compute with: the next where the last did not decide a rounding."""

RESULTS = ("valid", "acceptable", "invalid")
"""What a case may say of its outputs."""


def evaluated(formula: Formula, inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a formula, each number rounded correctly, with bounds, as objects of a manifest.

    Parameters
    ----------
    formula
        Of a recipe.
    inputs
        Arrays.
    parameters
        JSON values.

    Returns
    -------
    dict
        Name to ``{"dtype", "shape", "values"}``, floats with a ``"bound"``.

    Raises
    ------
    UndecidedError
        The last of `DIGITS` did not decide.

    Examples
    --------
    >>> third = lambda n, inputs, parameters: {"y": [x / 3 for x in inputs["x"]]}
    >>> evaluated(third, {"x": np.array([1.0])}, {})["y"]
    {'dtype': 'float64', 'shape': [1], 'values': [0.3333333333333333], 'bound': 7.41e-17}
    """

    def over(arithmetic: Any) -> Mapping[str, Any]:
        return formula(arithmetic, {name: read(arithmetic, array) for name, array in inputs.items()}, parameters)

    near = over(Roundings())
    for digits in DIGITS:
        try:
            return {name: _output(values, near[name]) for name, values in over(Decimals(digits)).items()}
        except UndecidedError:
            if digits == DIGITS[-1]:
                raise
    raise UndecidedError("a formula must be decided, got no digits to compute with")


def recorded(recipe: Recipe) -> dict[str, Any]:
    """One case as the object of a manifest.

    Raises
    ------
    ArgumentError
        A recipe that breaks the rules of its fields.
    UndecidedError
        Values that no number of digits rounds.

    Examples
    --------
    >>> doubled = lambda n, inputs, parameters: {"y": [2 * x for x in inputs["x"]]}
    >>> recipe = Recipe("toy/doubling/one", "mods/bias", "doubling", "Twice.", {"x": np.array([0.5])}, {}, doubled)
    >>> recorded(recipe)["expected"]["y"]["values"]
    [1.0]
    """
    _check(recipe)
    inputs = {name: array_to_json(array) for name, array in recipe.inputs.items()}
    expected = {} if recipe.result == "invalid" else evaluated(recipe.formula, recipe.inputs, recipe.parameters)
    others, wrong = (
        {name: evaluated(formula, recipe.inputs, recipe.parameters) for name, formula in formulas.items()}
        for formulas in (recipe.alternatives, recipe.mistakes)
    )
    return {
        "name": recipe.name,
        "row": recipe.row,
        "operation": recipe.operation,
        "comment": recipe.comment,
        "flags": [flag.name for flag in recipe.flags],
        "result": recipe.result,
        "sibling": recipe.sibling,
        "supersedes": recipe.supersedes,
        "parameters": json.loads(json.dumps(dict(recipe.parameters), allow_nan=False)),
        "inputs": inputs,
        "inputsSha256": digest(inputs),
        "expected": expected,
        "expectedSha256": digest(expected),
        "alternatives": others,
        "mistakes": wrong,
    }


def manifests(recipes: Iterable[Recipe], tick: Callable[[str], None] = lambda _: None) -> dict[str, bytes]:
    """Every file that recipes make, by its path below ``v1``, checksums and schema aside.

    >>> manifests([])
    {}
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    notes: dict[str, dict[str, Flag]] = {}
    names: set[str] = set()
    for recipe in recipes:
        if recipe.name in names:
            raise ArgumentError(f"names of recipes must differ, got two called {recipe.name}")
        names.add(recipe.name)
        group = recipe.name.rpartition("/")[0]
        tick(recipe.name)
        groups.setdefault(group, []).append(recorded(recipe))
        for flag in recipe.flags:
            if notes.setdefault(group, {}).setdefault(flag.name, flag) != flag:
                raise ArgumentError(f"flags of a name must be equal, got two called {flag.name}")
    files = {}
    for group, cases in sorted(groups.items()):
        family, _, name = group.partition("/")
        flags = sorted(notes.get(group, {}).items())
        manifest = {
            "schema": SCHEMA,
            "family": family,
            "group": name,
            "generator": {"name": "kvattn.goldens.recording", "arithmetic": "decimal intervals, rounded correctly"},
            "numberOfTests": len(cases),
            "notes": {
                name: {
                    "bugType": flag.bug_type,
                    "description": flag.description,
                    "links": [address(x) for x in flag.links],
                }
                for name, flag in flags
            },
            "cases": sorted(cases, key=lambda case: str(case["name"])),
        }
        files[f"{group}.json"] = written(manifest)
    return files


def record(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write files and their checksums into a folder, where nothing that is recorded may change.

    Parameters
    ----------
    folder
        Made where it is missing.
    files
        From `manifests`.

    Returns
    -------
    list of str
        Names of the cases that were added.

    Raises
    ------
    ArgumentError
        A case that is recorded already would change or be lost.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     record(Path(folder), {})
    []
    """
    held = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*/*.json")}
    before, after = _cases(held), _cases(files)
    for name, case in before.items():
        if name not in after:
            raise ArgumentError(f"recorded cases must stay, got recipes without {name}")
        if after[name] != case:
            raise ArgumentError(f"a recorded case must not change, but be superseded by another, got {name} anew")
    everything = {SCHEMA: schema(), **files}
    for path, content in everything.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "SHA256SUMS").write_bytes(sums(everything))
    return [name for name in after if name not in before]


def schema() -> bytes:
    """The JSON Schema of a manifest.

    >>> json.loads(schema())["title"]
    'A file of golden attention cases'
    """
    return (Path(__file__).parent / "v1" / SCHEMA).read_bytes()


def address(link: str) -> str:
    """A link as an address: ``owner/repository#7`` is an issue or a pull request on GitHub.

    >>> address("onnx/onnx#7142")
    'https://github.com/onnx/onnx/issues/7142'
    """
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)#(\d+)", link)
    return f"https://github.com/{found[1]}/issues/{found[2]}" if found else link


def sums(files: Mapping[str, bytes]) -> bytes:
    r"""Checksums in the form of ``sha256sum``.

    >>> sums({"a.json": b""}).decode()[-9:]
    '  a.json\n'
    """
    return "".join(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files)).encode()


def _output(values: Any, near: Any) -> dict[str, Any]:
    if isinstance(values, np.ndarray) and values.dtype == np.float64 and not values.size:
        return {**array_to_json(values), "bound": 0.0}  # nested lists without a row do not say how wide it were
    if isinstance(values, Bits | np.ndarray):
        return array_to_json(values)
    leaves = flat(values)
    shape = np.array(values, object).shape
    if leaves and all(isinstance(leaf, bool) for leaf in leaves):
        return array_to_json(np.array(leaves, np.bool_).reshape(shape))
    if leaves and all(isinstance(leaf, int) for leaf in leaves):
        return array_to_json(np.array(leaves, np.int64).reshape(shape))
    rounded = [leaf.rounded() if isinstance(leaf, Interval) else float(leaf) for leaf in leaves]
    errors = [leaf.error for leaf in flat(near) if isinstance(leaf, Rounding)]
    upwards = Context(prec=3, rounding=ROUND_CEILING)
    bound = upwards.multiply(2, max(errors, default=Decimal(0)))
    if any(0 < abs(number) < 2.0**-900 for number in rounded):
        bound = upwards.add(bound, Decimal(2.0**-1060))  # products underflow on the way
    return {**array_to_json(np.array(rounded).reshape(shape)), "bound": float(bound)}


def _check(recipe: Recipe) -> None:
    parts = recipe.name.split("/")
    if len(parts) != 3 or not all(part.replace("-", "").isalnum() and part == part.lower() for part in parts):
        raise ArgumentError(f"name must be family/group/case in lower case with hyphens, got {recipe.name!r}")
    if recipe.result not in RESULTS:
        raise ArgumentError(f"result of {recipe.name} must be one of {', '.join(RESULTS)}, got {recipe.result!r}")
    if (recipe.result == "acceptable") != bool(recipe.alternatives):
        raise ArgumentError(f"{recipe.name} must have alternatives exactly if acceptable, got {recipe.result}")
    if not recipe.comment.endswith(".") or "\n" in recipe.comment:
        raise ArgumentError(f"comment of {recipe.name} must be one line that ends in a full stop, got another")
    for flag in recipe.flags:
        if flag.bug_type not in BUG_TYPES:
            raise ArgumentError(f"bug_type of {flag.name} must be one of {', '.join(BUG_TYPES)}, got {flag.bug_type!r}")
        if flag.bug_type == "KNOWN_BUG" and not flag.links:
            raise ArgumentError(f"{flag.name} must say where the bug was, got no link")


def _cases(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {case["name"]: case for content in files.values() for case in json.loads(content)["cases"]}
