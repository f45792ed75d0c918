"""Numbers that stand for minus infinity: a mask's finite fill, the first value of a running maximum, two minima.

Method: the score of one hidden key and that of all others are moved until the hidden key carries weight; where it
carries as much as the others, the fill can be read off.  The same for scores so low that a running maximum that
started above them leaves nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
import math
from types import MappingProxyType

import numpy as np

from kvattn.testing.diagnosis.behaviour import sizes_of
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, FLAT, ONE_HOT, RANDOM, Recipe, Sizes

_LEVELS = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)
_SIZES = Sizes(2, 4, 2, 5, 5, 8, 8)

_LAST: Mapping[str, str] = MappingProxyType(
    {
        "mask": "(np.arange({S}) < {S} - 1) & np.ones(({B}, {Hq}, {T}, {S}), bool)",
        "causal": "True",
        "lengths": "np.full({B}, {S} - 1)",
    }
)
"""Options that hide the last key from the first query, and not key 0."""


def _text(lab: Lab, name: str) -> str:
    text = _LAST[name]
    return f"~({text})" if name == "mask" and lab.behaviour.mask == "blocked" else text


def read_fills(lab: Lab) -> None:
    """Find a finite number in the place of minus infinity, as far as 1e7.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"hidden": "where(keep, x, -5e4)"}))
    >>> read_fills(lab)
    >>> lab.findings[0].parameters["fill"], lab.findings[0].parameters["form"]
    (-50000.0, 'in place of the score')
    """
    if lab.dtype not in {"float64", "float32"} or lab.grain > 1e-4 or abs(_unit(lab)) < lab.sharp:
        return
    try:
        _read_start(lab)
        for name in _LAST:
            if lab.can(name) and _hides(lab, name) and _read_hidden(lab, name):
                return
        if lab.can("causal", "mask"):
            _read_two(lab)
    except Refused as refused:
        lab.notes.append(f"large scores are refused: {refused}")


def _unit(lab: Lab) -> float:
    """Score of a query and a key of ones."""
    probe = lab.case(_SIZES, DRAWN, ONE_HOT)
    return probe.sizes.D * lab.behaviour.used_scale(sizes_of(probe.build()), None)


def _case(lab: Lab, seen: float, hidden: float, **options: str) -> Recipe:
    """A case whose keys all score ``seen``, but the last one ``hidden``."""
    unit = _unit(lab)
    scores = ("np.ones(({B}, {Hq}, {T}, {D}))", f"np.full(({{B}}, {{Hkv}}, {{S}}, {{D}}), {seen / unit!r})")
    case = lab.case(_SIZES, scores, **options)
    return case if hidden == seen else replace(case, edits=(f"k[:, :, -1] = {hidden / unit!r}",))


def _log_ratio(lab: Lab, case: Recipe) -> float:
    """Log of the hidden key's weight over that of key 0, in the first query's row."""
    row = lab.weights(case)[0, 0, 0]
    if np.isnan(row).any() or row[-1] == 0:
        return -math.inf
    with np.errstate(divide="ignore"):
        return float(np.log(np.abs(row[-1])) - np.log(np.abs(row[0])))


def _hides(lab: Lab, name: str) -> bool:
    """Say whether the last key is hidden from the first query, at the sizes that the target takes."""
    return not lab.behaviour.visible(_case(lab, 0.0, 0.0, **{name: _text(lab, name)}).build())[0, 0, 0, -1]


def _read_hidden(lab: Lab, name: str) -> bool:
    forms: dict[str, Callable[[float], Recipe]] = {
        "in place of the score": lambda level: _case(lab, -level, -level, **{name: _text(lab, name)}),
        "added to the score": lambda level: _case(lab, 0.0, level, **{name: _text(lab, name)}),
    }
    for form, at in forms.items():
        low = 0.0
        for high in _LEVELS:
            if _log_ratio(lab, at(high)) > -50:
                fill = _found(lab, at, low, high)
                case = at(10.0 ** math.ceil(math.log10(abs(fill)) + 1e-9) if fill else 1.0)
                of = f"a key that {name} hides" if form.startswith("in") else f"the score of a key that {name} hides"
                words = (
                    f"{fill:.6g} stands for the score of {of}"
                    if form.startswith("in")
                    else f"{fill:.6g} is added to {of}"
                )
                detail = f"{words}, expected -inf: it carries weight where scores reach {abs(fill):.3g}."
                parameters = {"fill": float(f"{fill:.5g}"), "form": form, "with": [name]}
                lab.add("mask-fill-overflow", parameters, detail, case)
                return True
            low = high
    return False


def _found(lab: Lab, at: Callable[[float], Recipe], low: float, high: float) -> float:
    """Find the fill: at a level that is its negative the hidden key weighs as much as the others."""
    for _ in range(60):
        middle = (low + high) / 2
        ratio = _log_ratio(lab, at(middle))
        if math.isfinite(ratio) and abs(ratio) < 500:
            return ratio - middle
        low, high = (middle, high) if ratio < 0 else (low, middle)
    return -(low + high) / 2


def _read_start(lab: Lab) -> None:
    """Find a running maximum that does not start at minus infinity, in scores that are all very low."""

    def vanishes(level: float) -> bool:
        row = lab.weights(_case(lab, -level, -level))[0, 0, 0]
        return not (np.isfinite(row).all() and 0.01 < row.sum() < 100)  # exp(s - lse) may be off by a factor in float32

    low = 0.0
    for high in _LEVELS:
        if vanishes(high):
            break
        low = high
    else:
        return
    if not np.isfinite(lab.weights(_case(lab, 1e3, 1e3))).all():
        return  # no maximum at all: `edges` says so
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if vanishes(middle) else (middle, high)
    start = {"float64": 745.1332, "float32": 103.972}[lab.dtype] - high  # below that, exp is 0
    detail = (
        f"Rows vanish once all their scores are below {-high:.6g}: the running maximum starts at about {start:.5g}."
    )
    lab.add("mask-fill-overflow", {"start": round(start, 3)}, detail, _case(lab, -2 * high, -2 * high))


def _read_two(lab: Lab) -> None:
    """A row of which every key is hidden, some twice: the sum of two smallest numbers is minus infinity, one is not."""
    text = "~np.isin(np.arange({S}), [0, 1, 3]) & np.ones(({B}, {Hq}, {T}, {S}), bool)"
    text = f"~({text})" if lab.behaviour.mask == "blocked" else text
    case = lab.case(_SIZES, FLAT, causal="True", mask=text)
    size = case.sizes
    if size.T != size.S:
        return
    row = lab.weights(case)[0, 0, 1]
    once = np.where(np.arange(size.S) == 3, 0.0, 1 / (size.S - 1))  # key 3 is hidden by both
    if np.allclose(row, once, rtol=0, atol=lab.sharp):
        detail = (
            "In a row that sees nothing, keys that one mask hides are seen and those that two hide are not: "
            "the smallest number is added once for each mask, and twice it is -inf."
        )
        lab.add(
            "mask-fill-overflow",
            {"form": "sum of two minima", "with": ["causal", "mask"]},
            detail,
            replace(case, values=RANDOM),
        )
