"""Judge what an implementation gives for a case: as expected, another convention, or a mistake that has a name."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def judge(case: Case, found: Mapping[str, Any], *, within: float | Mapping[str, Any] | None = None) -> Judgement:
    """Compare outputs with those of a case.

    Parameters
    ----------
    case
        From `kvattn.goldens.load` or `kvattn.goldens.cases`.
    found
        Name to array, for some or all outputs of the case.
    within
        How far each number may be from the recorded one: one number, or for each output a number or an array of its
        shape, such as ``worst`` and ``lse_worst`` of `kvattn.testing.tolerance.bounds`; the case's own bounds, those of
        double precision, unless given.

    Returns
    -------
    Judgement
        A pass where the outputs are those expected, even if a mistake or another convention is as near.

    Raises
    ------
    ArgumentError
        No output, or one that the case does not have; nothing within which it may be.

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
    rooms = {name: _room(case, name, within) for name in found}
    gaps = {name: _gap(array, case.expected[name]) for name, array in found.items()}
    places = {name: _worst(gap, rooms[name]) for name, gap in gaps.items()}
    worst = max(places, key=lambda name: places[name][2])
    far, room, _ = places[worst]
    detail = f"{worst} is up to {far:.2g} from what is expected, where {room:.2g} is allowed"
    if all(_fits(gaps[name], rooms[name]) for name in found):
        return Judgement("pass", "", f"{case.name}: as expected; {detail}")
    for verdict, others in (("convention", case.alternatives), ("fault", case.mistakes)):
        for name, outputs in others.items():
            wanted = {**case.expected, **outputs}
            if all(_fits(_gap(array, wanted[key]), rooms[key].max(initial=0.0)) for key, array in found.items()):
                return Judgement(verdict, name, f"{case.name}: {name}; {detail}")
    return Judgement("fault", "", f"{case.name}: {detail}")


def _room(case: Case, name: str, within: float | Mapping[str, Any] | None) -> NDArray[np.float64]:
    if within is None:
        return np.asarray(case.bounds.get(name, 0.0))
    if not isinstance(within, Mapping):
        return np.asarray(real("within", within, least=0.0))
    if name not in within:
        raise ArgumentError(f"within must hold {name}, got {', '.join(within) or 'nothing'}")
    given = np.asarray(within[name], np.float64)
    if given.ndim and given.shape != case.expected[name].shape:
        raise ArgumentError(f"within of {name} must have its shape {case.expected[name].shape}, got {given.shape}")
    return given


def _gap(found: Any, wanted: Any) -> NDArray[np.float64]:
    """Differences; infinite for another shape or where only one is NaN or the same infinity."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape:
        return np.array(np.inf)
    with np.errstate(invalid="ignore"):
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        apart = np.where(same, 0.0, np.abs(found - wanted))
    return np.where(np.isnan(apart), np.inf, apart)


def _fits(gap: NDArray[np.float64], room: Any) -> bool:
    return bool(((gap <= room) & np.isfinite(gap)).all())


def _worst(gap: NDArray[np.float64], room: NDArray[np.float64]) -> tuple[float, float, float]:
    """The difference that is largest for what is allowed, what is allowed, and their ratio."""
    wide, far = np.broadcast_arrays(room, gap)
    if not far.size:
        return float(gap.max(initial=0.0)), 0.0, float(gap.max(initial=0.0))
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.where(np.isinf(far), np.inf, far / np.maximum(wide, 5e-324))
    at = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    return float(far[at]), float(wide[at]), float(ratio[at])
