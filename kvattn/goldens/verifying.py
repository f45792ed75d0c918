"""Verify what is recorded: checksums and digests, and every value computed again from the stored inputs.

The files are compared with SHA256SUMS, the arrays of each case with the digests beside them, and then the
recipe's formula runs over decimal intervals on the *stored* inputs and parameters: each value must come out
as the same float64.  This is what recording did; that decimal arithmetic itself is right is tested against
mpmath, and that formulas are right against kvattn's own attention, in this project's tests.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kvattn.errors import DamagedError, KvattnError
from kvattn.goldens.formats import FORMATS, Bits
from kvattn.goldens.manifest import array_to_json
from kvattn.goldens.reading import RECORDED, Case, every_case, files
from kvattn.goldens.recipe import Recipe
from kvattn.goldens.recording import DIGITS, evaluated


class Verified(NamedTuple):
    """What was looked at.

    Attributes
    ----------
    files
        Manifests whose checksums are right.
    cases
        Cases whose digests are right.
    values
        Numbers that were computed again and are the same.
    digits
        Significant digits that the arithmetic began with.
    wrong
        Cases of which a value is not what its formula gives, each with what is wrong.

    Examples
    --------
    >>> Verified(1, 1, 7, 70, ()).wrong
    ()
    """

    files: int
    cases: int
    values: int
    digits: int
    wrong: tuple[str, ...]


def verify(folder: Path = RECORDED, tick: Callable[[str], None] = lambda _: None, part: str = "") -> Verified:
    """Check every case of a folder.

    Parameters
    ----------
    folder
        Of recorded cases.
    tick
        Told the name of each case as its turn comes.
    part
        Only cases whose names begin so are computed again.

    Returns
    -------
    Verified
        Whose ``wrong`` is empty where all is well.

    Raises
    ------
    DamagedError
        A file is not what its checksum promises, or an array not what its digest does.

    Examples
    --------
    >>> found = verify(part="dense/grouped/plain")
    >>> found.wrong, found.values
    ((), 96)
    """
    from kvattn.goldens.recipes import every

    manifests = files(folder)
    held = list(every_case(folder))
    recipes = {recipe.name: recipe for recipe in every()}
    values = 0
    wrong: list[str] = []
    for case in held:
        if not case.name.startswith(part):
            continue
        tick(case.name)
        if case.name not in recipes:
            wrong.append(f"{case.name} has no recipe here")
            continue
        count, odd = _computed_again(case, recipes[case.name])
        values += count
        wrong += odd
    return Verified(len(manifests), len(held), values, DIGITS[0], tuple(wrong))


def _computed_again(case: Case, recipe: Recipe) -> tuple[int, list[str]]:
    """How many values are as their formulas say, and what is not."""
    inputs: dict[str, Any] = {
        name: Bits(case.dtypes[name], array) if case.dtypes[name] in FORMATS else array
        for name, array in case.inputs.items()
    }
    formulas = {"expected": (case.expected, recipe.formula)} if case.result != "invalid" else {}
    for kind in ("alternatives", "mistakes"):
        recorded, known = getattr(case, kind), getattr(recipe, kind)
        if recorded.keys() != known.keys():
            return 0, [f"{case.name} has other {kind} than its recipe"]
        formulas |= {f"{kind}/{name}": (recorded[name], known[name]) for name in recorded}
    count = 0
    odd: list[str] = []
    for place, (recorded, formula) in formulas.items():
        try:
            found = evaluated(formula, inputs, case.parameters)
        except (KvattnError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            odd.append(f"{case.name}: {place} cannot be computed again: {error}")
            continue
        for name, array in recorded.items():
            again = {key: part for key, part in found.get(name, {}).items() if key != "bound"}
            now = Bits(again["dtype"], array) if again.get("dtype") in FORMATS else array
            if array_to_json(now) != again:
                odd.append(f"{case.name}: {place}/{name} is not what its formula gives")
            count += array.size
    return count, odd


def damaged(found: Verified) -> None:
    """Refuse what was found wrong, in one sentence.

    >>> damaged(Verified(1, 1, 7, 70, ()))
    """
    if found.wrong:
        more = f" and {len(found.wrong) - 1} more" if len(found.wrong) > 1 else ""
        raise DamagedError(f"every recorded value must be what its formula gives, got {found.wrong[0]}{more}")
