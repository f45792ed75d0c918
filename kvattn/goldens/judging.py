"""Judge what an implementation gives for a case: as expected, another convention, or a mistake that has a name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kvattn.arguments import real
from kvattn.errors import ArgumentError
from kvattn.goldens.reading import Case


class Judgement(NamedTuple):
    """What outputs are.

    Attributes
    ----------
    verdict
        ``pass``, ``convention`` or ``fault``.
    name
        Of the convention or mistake that the outputs are; empty for a pass, and for a fault without a name.
    detail
        One sentence, with the output that is furthest from what was expected.

    Examples
    --------
    >>> Judgement("pass", "", "dense/grouped/plain: as expected").verdict
    'pass'
    """

    verdict: str
    name: str
    detail: str


def judge(case: Case, found: Mapping[str, Any], *, within: float | None = None) -> Judgement:
    """Compare outputs with those of a case.

    Parameters
    ----------
    case
        From `kvattn.goldens.load` or `kvattn.goldens.cases`.
    found
        Name to array, for some or all outputs of the case.
    within
        How far each number may be from the recorded one; the case's own bounds, those of double precision,
        unless given.

    Returns
    -------
    Judgement
        A pass where the outputs are those expected, even if a mistake or another convention is as near.

    Raises
    ------
    ArgumentError
        No output, or one that the case does not have.

    Examples
    --------
    >>> from kvattn import goldens
    >>> case = goldens.load("dense/lse/base-2")
    >>> judge(case, {"lse": case.expected["lse"] * np.log(2.0)})[:2]
    ('fault', 'a natural log')
    """
    if case.result == "invalid":
        return Judgement("fault", "not refused", f"{case.name}: the call must be refused, and was answered")
    if not found or not found.keys() <= case.expected.keys():
        raise ArgumentError(f"found must hold some of {', '.join(case.expected)}, got {', '.join(found) or 'nothing'}")
    allowed = None if within is None else real("within", within, least=0.0)
    gaps = {name: _gap(array, case.expected[name]) for name, array in found.items()}
    worst = max(gaps, key=lambda name: gaps[name] / max(_room(case, name, allowed), 5e-324))
    room = _room(case, worst, allowed)
    detail = f"{worst} is up to {gaps[worst]:.2g} from what is expected, where {room:.2g} is allowed"
    as_expected: Mapping[str, Mapping[str, Any]] = {"": {}}
    kinds = (("pass", as_expected), ("convention", case.alternatives), ("fault", case.mistakes))
    for verdict, others in kinds:
        for name, outputs in others.items():
            wanted = {**case.expected, **outputs}
            if all(_gap(array, wanted[key]) <= _room(case, key, allowed) for key, array in found.items()):
                said = f"{name}; {detail}" if name else "as expected"
                return Judgement(verdict, name, f"{case.name}: {said}")
    return Judgement("fault", "", f"{case.name}: {detail}")


def _room(case: Case, name: str, allowed: float | None) -> float:
    return case.bounds.get(name, 0.0) if allowed is None else allowed


def _gap(found: Any, wanted: Any) -> float:
    """The largest difference; infinite for another shape or where only one is NaN or the same infinity."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape:
        return np.inf
    with np.errstate(invalid="ignore"):
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        apart = np.where(same, 0.0, np.abs(found - wanted))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0))
