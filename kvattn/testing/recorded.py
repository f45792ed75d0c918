"""Recorded cases, given to a target after the drawn ones: what known mistakes would give stands beside each.

Each case that the target takes (`kvattn.testing.recorded_calls`) is judged by `kvattn.goldens.judge`, within the bounds
of the target's arithmetic.  What the read-outs have found explains an answer where attention as they found it gives
it, too; a case that fails beside faults of the same keywords is told in a note, and only what is left is a finding,
of the class that `kvattn.goldens.mistakes` has for what the answer is.

A slow target is given some of each set of keywords, as many in all as drawn cases: no clock says which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, zip_longest
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError
from kvattn.goldens import Case, Judgement, judge
from kvattn.goldens.mistakes import CLASSES
from kvattn.testing.arithmetic import Arithmetic
from kvattn.testing.calls import Call
from kvattn.testing.diagnosis import settling
from kvattn.testing.diagnosis.behaviour import built_of
from kvattn.testing.diagnosis.finding import Finding
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.recorded_calls import Recorded, recorded_calls, recorded_cases


@dataclass(frozen=True)
class Given:
    """How the recorded cases went.

    Attributes
    ----------
    cases
        How many were compared.
    failed
        Names of those whose answers are neither as expected nor what the target was found to do.
    left
        Names of those that a slow target takes and was not given.

    Examples
    --------
    >>> Given(cases=3, failed=()).cases
    3
    """

    cases: int
    failed: tuple[str, ...]
    left: tuple[str, ...] = ()


def read_recorded(lab: Lab, most: int | None = None) -> Given:
    """Give a target the recorded cases that it takes, the plainest first.

    Parameters
    ----------
    lab
        What was read of the target by now.
    most
        How many to give, chosen by `spread`; all if None.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> from kvattn.testing.targets import target_of
    >>> right = planted().function
    >>> def mine(q, k, v, *, scale=None):
    ...     return right(q, k, v, scale=scale or q.shape[3] ** -0.5)
    >>> lab = Lab(target_of(mine))
    >>> read_recorded(lab).failed
    ('dense/scale/zero',)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["mistake"]
    ('scale', '1/sqrt(D) all the same')
    """
    fitted = [_fitted(lab, recipe) for recipe in recorded_calls().values()]
    taken = [recipe for recipe in fitted if recipe is not None and _plain_to(lab, recipe)]
    given = taken if most is None else spread(taken, most)
    left = tuple(recipe.name for recipe in taken if recipe not in given)
    if left:
        few = f"{len(given)} of {len(taken)} recorded cases were given, some of each set of keywords"
        lab.notes.append(f"Calls are slow: {few}; --cases {len(taken)} gives all")
    told: list[tuple[Recorded, Judgement]] = []
    refused: list[str] = []
    count, why = 0, ""
    for plain in given:
        recipe = replace(plain, dtype=lab.dtype, mask_form=lab.target.mask_form)
        try:
            judgement = _judged(lab, recipe)
        except Refused as error:
            refused.append(recipe.name)
            why = str(error)
            continue
        except ArgumentError:  # numbers that the dtype has not
            continue
        count += 1
        if judgement is not None:
            told.append((recipe, judgement))
    if refused:
        lab.notes.append(f"Recorded cases that it refuses: {_some(refused)} ({why})")
    _tell(lab, told)
    return Given(count, tuple(recipe.name for recipe, _ in told), left)


def spread(recipes: Sequence[Recorded], most: int) -> list[Recorded]:
    """Take some cases of each set of keywords in turn, those first that name a mistake or say where one happened.

    Examples
    --------
    >>> few = spread([*recorded_calls().values()], 12)
    >>> len({tuple(name for name, _ in recipe.options) for recipe in few})
    12
    """
    cases = recorded_cases()
    sets: dict[tuple[str, ...], list[Recorded]] = {}
    for recipe in sorted(recipes, key=lambda recipe: not (cases[recipe.name].mistakes or cases[recipe.name].flags)):
        sets.setdefault(tuple(name for name, _ in recipe.options), []).append(recipe)
    turns = [recipe for recipe in chain(*zip_longest(*sets.values())) if recipe is not None]
    return [recipe for recipe in recipes if recipe in turns[:most]]


def _fitted(lab: Lab, recipe: Recorded) -> Recorded | None:
    """A case as the target takes it: with values as wide as keys where they must be; None where it cannot be given."""
    names = [name for name, _ in recipe.options]
    if not lab.can(*names) or (not lab.grouped and recipe.sizes.Hq != recipe.sizes.Hkv):
        return None
    for sizes in (recipe.sizes, replace(recipe.sizes, Dv=recipe.sizes.D)):
        if lab.shapes.takes(sizes, names):
            return replace(recipe, sizes=sizes)
    return None


def _plain_to(lab: Lab, recipe: Recorded) -> bool:
    """Say whether nothing stands in a case that the target is known to do otherwise, beyond its behaviour."""
    built = built_of(recipe)
    if "empty rows" in lab.behaviour.without and not lab.behaviour.visible(built).any(-1).all():
        return False
    leaks = {"masked-nan", "mask-fill-overflow"} & {finding.fault_class for finding in lab.findings}
    turned = lab.behaviour.mask == "blocked" and "mask" in built.options  # what should be hidden is shown
    arrays = (*built[:3], np.maximum(built.options.get("bias", 0.0), 0.0))
    return not (leaks or turned) or all(np.isfinite(x).all() for x in arrays)


@cache
def _rooms(recipe: Recorded, arithmetic: Arithmetic) -> Mapping[str, NDArray[np.float64]]:
    near = Call(recipe).bounds(arithmetic)
    return {"out": near.worst, "lse": near.lse_worst}


def _judged(lab: Lab, recipe: Recorded) -> Judgement | None:
    """Judge a case; None where it is answered as expected, or as what is known of the target explains."""
    case = _narrowed(recorded_cases()[recipe.name], recipe.sizes.Dv)
    rooms = _rooms(replace(recipe, mask_form="boolean"), lab.arithmetic)
    if not all(np.isfinite(room).all() for room in rooms.values()):  # the arithmetic has not the range
        raise ArgumentError(f"arithmetic must have the range of {case.name}")
    seen = lab.see(recipe)
    columns = case.expected["out"].shape[3]
    found: dict[str, Any] = {"out": seen.out[..., :columns]}
    rooms = {**rooms, "out": rooms["out"][..., :columns]}
    if seen.lse is not None and "lse" not in lab.behaviour.without:
        found["lse"] = seen.lse
    judgement = judge(case, found, within=rooms)
    if judgement.verdict != "fault" or lab.compare(recipe).ratio <= 1 or settling.explain(lab, recipe):
        return None
    return judgement


def _narrowed(case: Case, columns: int) -> Case:
    """A case with fewer columns of values, and so of the output."""

    def cut(outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {name: x[..., :columns] if name == "out" else x for name, x in outputs.items()}

    alternatives, mistakes = ({n: cut(x) for n, x in kind.items()} for kind in (case.alternatives, case.mistakes))
    return replace(case, expected=cut(case.expected), alternatives=alternatives, mistakes=mistakes)


def _tell(lab: Lab, failed: list[tuple[Recorded, Judgement]]) -> None:
    """Report what no finding of the same keywords explains, the plainest case of each mistake."""
    faults = [_keywords(finding) for finding in lab.findings if finding.kind == "fault"]
    beside: list[str] = []
    groups: dict[tuple[str, ...], list[tuple[Recorded, Judgement]]] = {}
    for recipe, judgement in sorted(failed, key=lambda pair: len(pair[0].options)):
        names = tuple(name for name, _ in recipe.options)
        if any(fault <= {*names} for fault in faults):
            beside.append(recipe.name)
        else:
            groups.setdefault((judgement.name, *names), []).append((recipe, judgement))
    if beside:
        lab.notes.append(f"Recorded cases that what was found may explain: {_some(beside)}")
    for group in list(groups.values())[:3]:
        (recipe, judgement), others = group[0], [recipe.name for recipe, _ in group[1:]]
        case = recorded_cases()[recipe.name]
        flags = [flag.name for flag in case.flags]
        parameters = {"golden": case.name, "mistake": judgement.name, "flags": flags, "others": others}
        known = "".join(f" See {flag.name}: {flag.links[0]}." for flag in case.flags if flag.links)
        detail = f"Recorded case {judgement.detail}. {case.comment}{known}"
        fault_class = CLASSES.get(judgement.name, "unclassified")
        lab.findings.append(Finding(fault_class, "fault", parameters, detail, lab.line(recipe)))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _keywords(finding: Finding) -> set[str]:
    """The keywords of the call that reproduces a finding."""
    _, _, call = finding.reproduce.rpartition("f(q, k, v")
    return set(re.findall(r"\b(\w+)=", call.partition(")")[0]))
