"""Keys cut into parts and merged: ``splits`` must change nothing, not even with parts that hold no visible key.

Method: one-hot values show what share of a row each part keeps; each way in which code is known to merge is
computed from the exact parts and compared.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvattn.testing.diagnosis.lab import Lab
from kvattn.testing.diagnosis.recipe import DRAWN, Recipe, Sizes
from kvattn.testing.diagnosis.totals import SINKS

_SIZES = Sizes(2, 4, 2, 3, 9, 12, 12)
_HALF = "np.arange({S}) >= {S} // 2 + np.zeros(({B}, {Hq}, {T}, 1), int)"

Rows = NDArray[np.float64]

MERGES: Mapping[str, Callable[[Rows], Rows]] = MappingProxyType(
    {
        "the average of the parts": np.ones_like,
        "weights 2 ** lse": lambda lse: np.exp2(lse - lse.max(-1, keepdims=True)),
        "weights e ** (lse / ln 2)": lambda lse: np.exp((lse - lse.max(-1, keepdims=True)) / np.log(2)),
        "the last part alone": lambda lse: np.eye(lse.shape[-1])[-1] + 0 * lse,
        "the first part alone": lambda lse: np.eye(lse.shape[-1])[0] + 0 * lse,
        "the part with the largest lse alone": lambda lse: (lse == lse.max(-1, keepdims=True)) * 1.0,
        "weights lse": lambda lse: lse,
        "weights e ** -lse": lambda lse: np.exp(-lse),
    }
)
"""Shares of the parts, before they are made to sum to 1."""


def read_splits(lab: Lab) -> None:
    """Fit how parts are merged, and how often the sinks are counted.

    Examples
    --------
    >>> from kvattn.testing.diagnosis.lab import planted
    >>> lab = Lab(planted(formulas={"part": "1.0 + 0 * l"}))
    >>> read_splits(lab)
    >>> lab.findings[0].fault_class, lab.findings[0].parameters["merge"]
    ('lse-merge', 'the average of the parts')
    """
    plain = [lab.case(_SIZES, DRAWN, splits=str(n)) for n in (2, 3)]
    read = [lab.weights(case) for case in plain]
    if not all(_right(lab, case, got) for case, got in zip(plain, read, strict=True)):
        _name(lab, plain, read)
        return
    for words, parameters, case in _empty_parts(lab):
        got = lab.weights(case)
        if not _right(lab, case, got):
            lab.set_aside("splits")
            gives = "nan" if np.isnan(got).any() else "other"
            text = "NaN" if gives == "nan" else "other weights"
            lab.add("lse-merge", {"empty_part": gives, **parameters}, f"With {words} the merge gives {text}.", case)
            return
    if lab.can("splits", "sinks"):
        _sinks(lab)
    case = lab.case(_SIZES, DRAWN, splits="2")
    seen = lab.see(case)
    if seen.lse is not None and "lse" not in lab.behaviour.without:
        off = seen.lse - np.asarray(lab.behaviour.expected(seen.built).lse, np.float64)
        if np.abs(off).max() > 10 * lab.sharp:
            lab.set_aside("splits")
            detail = f"The output of a split call is right; its lse is off by {np.abs(off).max():.4g}."
            lab.add(
                "lse-merge", {"lse": "not merged", "off_by": round(float(off.flat[0]), 5)}, detail, case, channel="lse"
            )


def _right(lab: Lab, case: Recipe, got: Rows) -> bool:
    want = lab.behaviour.expected(case.build()).out[..., : case.sizes.S]
    return bool((np.abs(got - want) <= 5 * lab.sharp).all())


def _empty_parts(lab: Lab) -> list[tuple[str, dict[str, Any], Recipe]]:
    found: list[tuple[str, dict[str, Any], Recipe]] = []
    found += [("more parts than keys", {"splits": "S + 3"}, lab.case(_SIZES, DRAWN, splits="{S} + 3"))]
    if lab.can("splits", "mask"):
        case = lab.case(_SIZES, DRAWN, mask=_HALF, splits="3")
        found.append(("a part of which nothing is seen", {"splits": 3, "with": ["mask"]}, case))
    if lab.can("splits", "causal"):
        case = lab.case(Sizes(2, 4, 2, 9, 9, 12, 12), DRAWN, causal="True", splits="3")
        found.append(("a part of which nothing is seen", {"splits": 3, "with": ["causal"]}, case))
    return found


def _name(lab: Lab, cases: list[Recipe], read: list[Rows]) -> None:
    lab.set_aside("splits")
    if any(np.isnan(got).any() for got in read):
        lab.add("lse-merge", {"merge": "nan"}, "A split call gives NaN.", cases[0])
        return
    for name, share in MERGES.items():
        for cut in (_even, _ceiling):
            if all(_close(lab, got, _merged(lab, case, share, cut)) for case, got in zip(cases, read, strict=True)):
                detail = f"Parts are merged by {name}, expected weights e ** lse."
                lab.add("lse-merge", {"merge": name}, detail, cases[0])
                return
    sums = float(read[0].sum(-1).flat[0])
    detail = f"splits=2 changes the output; a row of weights sums to {sums:.5g}."
    lab.add("lse-merge", {"merge": "other", "row_sum": round(sums, 5)}, detail, cases[0])


def _even(count: int, parts: int) -> list[Any]:
    return np.array_split(np.arange(count), parts)


def _ceiling(count: int, parts: int) -> list[Any]:
    step = -(-count // parts)
    return [np.arange(n, min(n + step, count)) for n in range(0, count, step)]


def _merged(lab: Lab, case: Recipe, share: Callable[[Rows], Rows], cut: Callable[[int, int], list[Any]]) -> Rows:
    built = case.build()
    exact = np.asarray(lab.behaviour.expected(built).out[..., : case.sizes.S], np.float64)
    lse = np.asarray(lab.behaviour.expected(built).lse, np.float64)
    parts = cut(case.sizes.S, built.options["splits"])
    with np.errstate(divide="ignore"):
        own = np.stack([np.log(exact[..., part].sum(-1)) + lse for part in parts], -1)
    shares = share(own)
    shares = shares / shares.sum(-1, keepdims=True)
    rows = np.zeros_like(exact)
    for n, part in enumerate(parts):
        rows[..., part] = shares[..., n, None] * exact[..., part] / exact[..., part].sum(-1, keepdims=True)
    return rows


def _close(lab: Lab, got: Rows, want: Rows) -> bool:
    return bool((np.abs(got - want) <= 5 * lab.sharp).all())


def _sinks(lab: Lab) -> None:
    case = lab.case(_SIZES, DRAWN, splits="3", sinks=SINKS)
    seen = lab.see(case)
    kept = seen.out[..., : case.sizes.S].sum(-1)
    want = np.asarray(lab.behaviour.expected(seen.built).out[..., : case.sizes.S].sum(-1), np.float64)
    if np.abs(kept - want).max() <= 5 * lab.sharp:
        return
    lab.set_aside("splits")
    with np.errstate(divide="ignore", invalid="ignore"):
        count = (1 / kept - 1) / (1 / want - 1)  # how many sinks the denominator holds
    value = float(np.median(count))
    even = bool(np.abs(count - value).max() <= 1e-3)
    whole = {0.0: "not at all", 3.0: "once per part"}.get(round(value, 3)) if even else None
    words = whole or (f"{value:.4g} times" if even else "unevenly")
    detail = f"In a call of 3 parts the sinks are counted {words}, expected once."
    parameters = {"count": round(value, 4) if even else "uneven", "with": ["splits"], "counted": words}
    lab.add("sink", parameters, detail, case)
