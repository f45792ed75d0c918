"""Edges: rows that see nothing, what lies behind a mask, and scores of extreme size.

Method: a row without a visible key is compared with the conventions in use (0, NaN, mean of the values).
Then keys that a query cannot see are made NaN, and apart from that 1e10: nothing may change.  Last, all
scores are made equal and extreme: a mask that is a finite number shows itself, and so does exp of a
score from which the maximum was not taken.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.behaviour import sizes_of
from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.raised import Refused
from kvattn.testing.diagnosis.recipe import DRAWN, RANDOM, TABLE, Recipe, Sizes
from kvattn.testing.diagnosis.sight import MASK

_SIZES = Sizes(2, 4, 2, 4, 6, 8, 8)
_SQUARE = Sizes(2, 4, 2, 5, 5, 8, 8)  # where all causal anchors agree
HOLE = "~np.isin(np.arange({T}), [{T} - 1])[:, None] | np.zeros(({B}, {Hq}, {T}, {S}), bool)"
"""A mask in which the last query sees nothing and the others everything."""


_HIDING = (
    *(("causal",), ("causal", "window"), ("mask",), ("lengths",), ("starts",), ("segments",), ("chunk",)),
    *(("window", "ahead"), ("parents",), ("lengths", "block_table")),
)
_TEXTS = {
    "causal": "True",
    "window": "2",
    "mask": MASK,
    "lengths": "np.array([{S} - 2, 3])[:{B}]",
    "starts": "np.array([2, 1])[:{B}]",
    "segments": "np.sort(r.integers(0, 3, ({B}, {S})), -1)",
    "chunk": "2",
    "ahead": "1",
    "parents": "np.arange({T}) // 2 - 1",
    "block_table": TABLE,
}


def read_empty_rows(lab: Lab) -> None:
    """Name what a row without a visible key gives.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(empty="mean"))
    >>> read_empty_rows(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["out"]
    ('empty-row', 'mean of v')
    """
    if "empty rows" in lab.behaviour.without:
        return
    text = HOLE if lab.behaviour.mask == "may see" else f"~({HOLE})"
    case = lab.case(_SIZES, DRAWN, RANDOM, mask=text)
    seen = lab.see(case)
    row = seen.out[:, :, -1]
    heads = lab.behaviour.heads("value", case.sizes.Hq, case.sizes.Hkv)
    values = seen.built.v.astype(np.float64)[:, heads]
    plain = np.asarray(lab.behaviour.expected(seen.built._replace(options={})).out[:, :, -1], np.float64)
    conventions: dict[str, NDArray[np.float64]] = {
        "0": np.zeros_like(row),
        "nan": np.full_like(row, np.nan),
        "mean of v": values.mean(2),
        "sum of v": values.sum(2),
        "first value": values[:, :, 0],
        "as if it saw every key": plain,
    }
    close = 10 * lab.sharp
    name = next((n for n, x in conventions.items() if np.allclose(row, x, rtol=0, atol=close, equal_nan=True)), "")
    if name != "0":
        lab.set_aside("empty rows")
        text = {"nan": "NaN", "": f"{np.round(row[0, 0, :3], 4).tolist()}…"}.get(name, name)
        known = " (a convention elsewhere)" if name in {"nan", "mean of v"} else ""
        detail = f"A row that sees no key gives {text}{known}, expected 0."
        lab.add("empty-row", {"out": name or "other"}, detail, case)
        return
    if seen.lse is not None and not np.isneginf(seen.lse[:, :, -1]).all() and "lse" not in lab.behaviour.without:
        lab.set_aside("empty rows")
        value = float(seen.lse[0, 0, -1])
        detail = f"The lse of a row that sees no key is {value:.6g}, expected -inf."
        lab.add("empty-row", {"lse": value}, detail, case, channel="lse")


def read_poison(lab: Lab) -> None:
    """Put NaN, then 1e10, where nobody may look.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(guard_values=False))
    >>> read_poison(lab)
    >>> behind = lab.findings[0].parameters.pop("behind")
    >>> lab.findings[0].fault_class, lab.findings[0].parameters
    ('masked-nan', {'poison': 'nan', 'of': ['v']})
    """
    hidden_by = [names for names in _HIDING if lab.can(*names)]
    fill = [f.parameters.get("form") for f in lab.findings if f.fault_class == "mask-fill-overflow"]
    if {"added to the score", "sum of two minima"} & {*fill}:
        return  # what is hidden is added, so that it comes through by all means
    for poison in ("np.nan", "1e4" if lab.dtype == "float16" else "1e10"):
        leaks: list[tuple[str, str, Recipe, float]] = []
        for names in hidden_by:
            clean = lab.case(_SQUARE, DRAWN, RANDOM, **{name: _TEXTS[name] for name in names})
            for array in "vk":
                change = (
                    _pool_leak(lab, clean, array, poison)
                    if "block_table" in names
                    else _leak(lab, clean, array, poison)
                )
                if change is not None:
                    leaks.append((array, ", ".join(names), *change))
        if not leaks or (poison != "np.nan" and fill):
            continue
        of = sorted({leak[0] for leak in leaks}, reverse=True)
        behind = list(dict.fromkeys(leak[1] for leak in leaks))
        case, change_size = leaks[0][2:]
        where = " and ".join(f"hidden {x.upper()}" for x in of)
        if poison == "np.nan":
            behind = [name.removeprefix("lengths, ") for name in behind]
            *most, last = (name.replace(", ", " with ") for name in behind)
            hides = f"{', '.join(most)} and {last}" if most else last
            detail = f"NaN in {where} reaches the rows that cannot see it (0 * NaN is NaN), behind {hides}."
            lab.add("masked-nan", {"poison": "nan", "of": of, "behind": behind}, detail, case)
        else:
            weight = change_size / float(poison)
            detail = (
                f"{poison} in {where} changes rows that cannot see it: a hidden key keeps a weight of {weight:.3g}."
            )
            parameters = {"poison": float(poison), "of": of, "behind": behind, "weight": weight}
            lab.add("mask-fill-overflow", parameters, detail, case)
            lab.set_aside(*(name for names in hidden_by for name in names))
            return


def _pool_leak(lab: Lab, clean: Recipe, array: str, poison: str) -> tuple[Recipe, float] | None:
    """Poison the slots of a pool that no sequence holds, which are full of sevens."""
    before = lab.see(clean).out
    dirty = replace(clean, edits=(f"{array} = np.where({array} == 7.0, {poison}, {array})",))
    change = np.abs(lab.see(dirty).out - before)
    fine = change <= 10 * lab.sharp * (1 + np.abs(before))
    return None if fine.all() else (dirty, float(np.nanmax(np.append(change, 0.0))))


def _leak(lab: Lab, clean: Recipe, array: str, poison: str) -> tuple[Recipe, float] | None:
    """Poison one key; return the case and the change where a row that cannot see it changes."""
    before = lab.see(clean)
    visible = lab.behaviour.visible(before.built)
    key = next((j for j in (2, 1, 3, 4, 0) if not visible[..., j].all()), None)
    if key is None:
        return None
    dirty = replace(clean, edits=(f"{array}[:, :, {key}] = {poison}",))
    after = lab.see(dirty)
    blind = ~visible[..., key] & visible.any(-1)
    with np.errstate(invalid="ignore"):
        change = np.abs(after.out - before.out)[blind]
    fine = change <= 10 * lab.sharp * (1 + np.abs(before.out[blind]))
    return None if fine.all() else (dirty, float(np.nanmax(np.append(change, 0.0))))


def read_extremes(lab: Lab) -> None:
    """Make all scores equal and extreme.

    Examples
    --------
    >>> from kvattn.testing.targets import target_of
    >>> def bare(q, k, v):
    ...     e = np.exp(q @ np.swapaxes(np.repeat(k, q.shape[1] // k.shape[1], 1), 2, 3) / q.shape[3] ** 0.5)
    ...     return e / e.sum(-1, keepdims=True) @ np.repeat(v, q.shape[1] // k.shape[1], 1)
    >>> lab = Lab(target_of(bare))
    >>> read_extremes(lab)
    >>> lab.findings[0].detail
    'At scores of 1000 the output is NaN or infinite: the row maximum is not taken off before exp.'
    """
    if lab.dtype == "float16":
        return
    ones = "np.ones(({B}, {Hq}, {T}, {D}))"
    probe = lab.case(_SIZES, DRAWN, RANDOM)
    unit = probe.sizes.D * lab.behaviour.used_scale(sizes_of(probe.build()), None)
    if abs(unit) < lab.sharp:
        return
    for level in (1e3, -1e3):
        scores = (ones, f"np.full(({{B}}, {{Hkv}}, {{S}}, {{D}}), {level / unit!r})")
        case = lab.case(_SIZES, scores)
        try:
            read = lab.weights(case)
        except Refused as refused:
            lab.notes.append(f"scores of {level:g} are refused: {refused}")
            continue
        if not np.isfinite(read).all():
            detail = (
                f"At scores of {level:g} the output is NaN or infinite: the row maximum is not taken off before exp."
            )
            lab.add("precision", {"stage": "range of exp", "scores": level, "out": "nan"}, detail, case)
            return
